//! Numbers as people read them.

/// So many of what `one` names: `1 key`, `2 keys`.
pub(crate) fn count(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// Bytes in binary units, as sizes are written on the command line.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (bytes.checked_ilog2().unwrap_or(0) / 10) as usize;
    match unit {
        0 => format!("{bytes} B"),
        _ => {
            let one = 1u128 << (10 * unit);
            let tenths = u128::from(bytes) * 10 / one;
            format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
        }
    }
}
