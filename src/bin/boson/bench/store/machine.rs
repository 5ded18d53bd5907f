//! What the kernel says of this process. Shared with `benches/peers`.

use std::fs;

/// The size of the pages in which procfs counts, in bytes.
const PAGE_BYTES: u64 = 4096;

/// Memory of this process that is in RAM, in bytes; 0 where procfs does not say.
pub(super) fn resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).map_or(0, |pages: u64| pages * PAGE_BYTES)
}

/// Bytes that this process sent towards the storage, in all its threads: direct writes when they
/// are made, others when they make a page of the page cache dirty. `None` where procfs does not
/// say.
pub(super) fn written_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/io").ok()?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|value| value.trim().parse::<u64>().ok())
    };
    Some(field("write_bytes:")?.saturating_sub(field("cancelled_write_bytes:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_used_is_seen() {
        let before = resident_bytes();
        let block = std::hint::black_box(vec![1u8; 32 << 20]);
        let after = resident_bytes();
        assert!(after >= before + (30 << 20), "{before} {after}");
        drop(block);
    }
}
