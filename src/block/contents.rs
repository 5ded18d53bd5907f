//! What a namespace holds: whether it is anything, and by the marks that the usual formats leave at
//! its front, what.

use super::Namespace;
use crate::error::Result;
use crate::mem::DmaBuf;
use crate::rt;

/// What a superblock of a boson store starts with (disk format, section 2).
pub(crate) const STORE_MAGIC: [u8; 8] = *b"boson\0sb";

/// How much of the front [`recognise`] looks at.
pub(crate) const FRONT_BYTES: usize = 128 << 10;

/// A mark at an offset (bytes), and what has it there.
type Mark = (usize, &'static [u8], &'static str);

const SWAP: &str = "a swap area";
const LVM: &str = "an LVM physical volume";
const GPT: &str = "a GPT partition table";
const RAID: &str = "a Linux RAID member";

/// In this order: a later one may be left from an earlier use, or be part of an earlier one.
const MARKS: [Mark; 26] = [
    (0, b"XFSB", "an XFS file system"),
    (1024 + 56, &[0x53, 0xef], "an ext2, ext3 or ext4 file system"),
    (0x10040, b"_BHRfS_M", "a Btrfs file system"),
    (0, b"LUKS\xba\xbe", "a LUKS encrypted volume"),
    (0, b"LABELONE", LVM),
    (512, b"LABELONE", LVM),
    (1024, b"LABELONE", LVM),
    (1536, b"LABELONE", LVM),
    (4096 - 10, b"SWAPSPACE2", SWAP),
    (4096 - 10, b"SWAP-SPACE", SWAP),
    ((64 << 10) - 10, b"SWAPSPACE2", SWAP),
    (0, &[0xfc, 0x4e, 0x2b, 0xa9], RAID),
    (4096, &[0xfc, 0x4e, 0x2b, 0xa9], RAID),
    (1024, &[0x10, 0x20, 0xf5, 0xf2], "an F2FS file system"),
    (4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "a bcache device"),
    (4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "a bcachefs device"),
    (0, b"bluestore block device", "a Ceph BlueStore device"),
    (512, b"!Stra0tis\x86\xff\x02^\x41rh", "a Stratis pool member"),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (54, b"FAT1", "a FAT file system"),
    (82, b"FAT32   ", "a FAT file system"),
    (512, b"EFI PART", GPT),
    (4096, b"EFI PART", GPT),
    (510, &[0x55, 0xaa], "a partition table or boot sector"),
    (0x8001, b"CD001", "an ISO 9660 file system"),
];

/// What the front of a namespace that is no boson store looks like, as a phrase; [`FRONT_BYTES`]
/// are enough, and fewer are looked at as far as they go.
pub(crate) fn recognise(front: &[u8]) -> Option<&'static str> {
    let has = |(offset, magic, _): &&Mark| {
        front.get(*offset..).is_some_and(|at_offset| at_offset.starts_with(magic))
    };
    MARKS.iter().find(has).map(|(_, _, what)| *what)
}

/// Whether a boson store starts here.
pub(crate) fn is_store(front: &[u8]) -> bool {
    front.starts_with(&STORE_MAGIC)
}

/// How much of a namespace is looked through for data, at the front and at the end.
const SEARCHED_FRONT_BYTES: u64 = 1 << 30;
const SEARCHED_END_BYTES: u64 = 1 << 20;
/// How much of it is read at once.
const SEARCH_STEP_BYTES: u64 = 1 << 20;

/// Where the first byte is that differs from zero, in the first gigabyte or in the last megabyte of
/// what is not known to be a hole; `None` if there is none. What writes over a namespace asks this
/// first.
///
/// # Errors
///
/// Those of [`Namespace::read`].
pub async fn first_data(namespace: &impl Namespace) -> Result<Option<u64>> {
    let size = namespace.size_bytes();
    let end = size.saturating_sub(SEARCHED_END_BYTES);
    let block = u64::from(namespace.info().block_size_bytes);
    let mut at = 0;
    while let Some(data) = namespace.next_data(at) {
        let mut start = data / block * block;
        if start >= SEARCHED_FRONT_BYTES && start < end {
            start = end / block * block;
        }
        let len = (size - start).min(SEARCH_STEP_BYTES);
        let buf = DmaBuf::zeroed(usize::try_from(len).unwrap_or(usize::MAX));
        let bytes = namespace.read(start, buf).await?;
        if let Some(found) = bytes.iter().position(|&byte| byte != 0) {
            return Ok(Some(start + found as u64));
        }
        at = start + len;
        // Memory is never waited for: other tasks want their turn.
        rt::yield_now().await;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_is_found_where_it_belongs_and_nowhere_else() {
        for (offset, magic, what) in MARKS {
            let mut front = vec![0; FRONT_BYTES];
            front[offset..offset + magic.len()].copy_from_slice(magic);
            assert_eq!(recognise(&front), Some(what), "at {offset}");
            // Cut off within the mark, it is none.
            assert_eq!(recognise(&front[..offset + magic.len() - 1]), None, "{what} at {offset}");
            front[offset] ^= 0xff;
            assert_eq!(recognise(&front), None, "{what} at {offset}");
        }
    }

    #[test]
    fn zeros_and_nothing_hold_nothing() {
        assert_eq!(recognise(&[]), None);
        assert_eq!(recognise(&vec![0; FRONT_BYTES]), None);
        assert!(!is_store(&[]));
    }
}
