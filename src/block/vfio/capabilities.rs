//! The list of capabilities behind a structure that VFIO fills. Each starts with its kind (u16), a
//! version (u16) and the offset of the next from the start of the structure (u32).

/// The most capabilities that are looked at; kernels have three.
const MAX_CAPABILITIES: usize = 32;

/// Where in `info` the first capability of this `kind` is, if the list that starts at `first` has
/// one; 0 is the end of a list.
pub(super) fn find(info: &[u8], first: u32, kind: u16) -> Option<usize> {
    let mut next = first;
    for _ in 0..MAX_CAPABILITIES {
        let at = usize::try_from(next).ok().filter(|at| *at != 0)?;
        if u16::from_ne_bytes(bytes_at(info, at)?) == kind {
            return Some(at);
        }
        next = u32_at(info, at + 4)?;
    }
    None
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_ne_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_ne_bytes)
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_followed_to_its_end_and_no_further() {
        let mut info = [0; 40];
        let mut put = |at: usize, kind: u16, next: u32| {
            info[at..at + 2].copy_from_slice(&kind.to_ne_bytes());
            info[at + 4..at + 8].copy_from_slice(&next.to_ne_bytes());
        };
        put(8, 1, 32);
        put(16, 2, 16);
        put(32, 3, 60);
        assert_eq!(find(&info, 8, 1), Some(8));
        assert_eq!(find(&info, 8, 3), Some(32));
        assert_eq!(find(&info, 8, 2), None, "the list leads out of what is there");
        assert_eq!(find(&info, 16, 1), None, "the list is a circle");
        assert_eq!(find(&info, 0, 0), None, "there is no list");
        assert_eq!(find(&info, 39, 1), None);
        assert_eq!(find(&info, u32::MAX, 1), None);
    }
}
