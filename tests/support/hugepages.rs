//! For tests of what happens without hugepages, also on machines that have some.

/// More bytes than the machine's free hugepages hold.
pub(crate) fn more_than_all_hugepages() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").expect("procfs");
    let line = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    let free: usize = line.map_or(0, |count| count.trim().parse().expect("a number"));
    // Other tests may give some back meanwhile.
    (free + 64) * (2 << 20)
}
