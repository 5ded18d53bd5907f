//! Identify data structures and the health log in words.

/// A field's name, and its value with its unit.
pub(super) type Field = (&'static str, String);

/// Bytes in binary units, as sizes are written on the command line.
pub(super) fn size(bytes: u64) -> String {
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

/// Little-endian numbers and texts in a data structure; what lies beyond its end reads as zeros.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, offset: usize) -> [u8; N] {
        let found = self.0.get(offset..).and_then(|rest| rest.first_chunk::<N>());
        found.copied().unwrap_or([0; N])
    }

    fn u8(&self, offset: usize) -> u8 {
        u8::from_le_bytes(self.bytes(offset))
    }

    fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.bytes(offset))
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.bytes(offset))
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.bytes(offset))
    }

    fn u128(&self, offset: usize) -> u128 {
        u128::from_le_bytes(self.bytes(offset))
    }

    /// ASCII, filled up with blanks or zeros.
    fn text(&self, offset: usize, len: usize) -> String {
        let bytes = self.0.get(offset..).map_or(&[][..], |rest| &rest[..len.min(rest.len())]);
        let text = String::from_utf8_lossy(bytes);
        let shown = text.chars().filter(|c| !c.is_control()).collect::<String>();
        shown.trim().to_owned()
    }
}

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

fn blocks(count: u32) -> String {
    if count == 1 { "1 block".to_owned() } else { format!("{count} blocks") }
}

/// A controller without NVM set management need not tell.
fn capacity_in_words(bytes: u128) -> String {
    match u64::try_from(bytes) {
        Ok(0) => String::new(),
        Ok(bytes) => size(bytes),
        Err(_) => format!("{bytes} B"),
    }
}

/// An optional command of the controller, by its bit in ONCS.
const OPTIONAL_COMMANDS: [(u16, &str); 6] = [
    (1 << 0, "compare"),
    (1 << 1, "write uncorrectable"),
    (1 << 2, "dataset management (trim)"),
    (1 << 3, "write zeroes"),
    (1 << 5, "reservations"),
    (1 << 7, "verify"),
];

/// The Identify Controller data structure (NVMe Base 2.0c, figure 275).
pub(super) fn controller(data: &[u8]) -> Vec<Field> {
    let fields = Fields(data);
    let version = fields.u32(80);
    let max_transfer = match fields.u8(77) {
        0 => "no limit".to_owned(),
        exponent => format!("2^{exponent} pages of the controller's smallest size"),
    };
    let commands = fields.u16(520);
    let commands = OPTIONAL_COMMANDS.iter().filter(|(bit, _)| commands & bit != 0);
    vec![
        ("model", fields.text(24, 40)),
        ("serial number", fields.text(4, 20)),
        ("firmware", fields.text(64, 8)),
        ("NVMe version", format!("{}.{}.{}", version >> 16, version >> 8 & 0xff, version & 0xff)),
        ("controller ID", fields.u16(78).to_string()),
        ("subsystem", fields.text(768, 256)),
        ("capacity", capacity_in_words(fields.u128(280))),
        ("namespaces at most", fields.u32(516).to_string()),
        ("largest transfer", max_transfer),
        ("volatile write cache", yes_no(fields.u8(525) & 1 != 0)),
        ("atomic write unit", blocks(u32::from(fields.u16(526)) + 1)),
        ("on power failure", blocks(u32::from(fields.u16(528)) + 1)),
        ("optional commands", commands.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")),
    ]
}

/// The Identify Namespace data structure (NVM Command Set 1.0c, figure 97).
pub(super) fn namespace(data: &[u8]) -> Vec<Field> {
    let fields = Fields(data);
    let flbas = fields.u8(26);
    let index = usize::from(flbas & 0xf | flbas >> 1 & 0x30);
    let format = fields.u32(128 + 4 * index);
    let block_shift = format >> 16 & 0xff;
    let metadata = format & 0xffff;
    let blocks = |count: u64| match 1u64.checked_shl(block_shift).and_then(|block| count.checked_mul(block)) {
        Some(bytes) => format!("{count} blocks ({})", size(bytes)),
        None => format!("{count} blocks"),
    };
    let block = match block_shift {
        0 => "none".to_owned(),
        shift => format!("{} bytes, {metadata} of metadata", 1u128.checked_shl(shift).unwrap_or(0)),
    };
    vec![
        ("size", blocks(fields.u64(0))),
        ("capacity", blocks(fields.u64(8))),
        ("in use", blocks(fields.u64(16))),
        ("block", block),
        ("formats", (u32::from(fields.u8(25)) + 1).to_string()),
        ("thin provisioning", yes_no(fields.u8(24) & 1 != 0)),
        ("protection information", yes_no(fields.u8(29) & 7 != 0)),
        ("shared", yes_no(fields.u8(30) & 1 != 0)),
    ]
}

/// What the bits of the critical warning say (NVMe Base 2.0c, figure 207).
const WARNINGS: [&str; 6] = [
    "the spare capacity is below its threshold",
    "a temperature is beyond its threshold",
    "the reliability is degraded by media or internal errors",
    "the media is read-only",
    "the backup of the volatile memory failed",
    "the persistent memory region is read-only or unreliable",
];

/// The SMART / Health Information log page (NVMe Base 2.0c, figure 207).
pub(super) fn health(data: &[u8]) -> Vec<Field> {
    let fields = Fields(data);
    let warning = fields.u8(0);
    let warnings: Vec<&str> = (0u8..8)
        .filter(|bit| warning >> bit & 1 == 1)
        .map(|bit| WARNINGS.get(usize::from(bit)).copied().unwrap_or("a warning without a name"))
        .collect();
    let kelvin = fields.u16(1);
    let temperature = match kelvin {
        0 => "not reported".to_owned(),
        _ => format!("{} °C", i32::from(kelvin) - 273),
    };
    // In thousands of 512 bytes.
    let units = |offset| match fields.u128(offset).checked_mul(512_000).map(u64::try_from) {
        Some(Ok(bytes)) => size(bytes),
        _ => format!("{} units of 512000 bytes", fields.u128(offset)),
    };
    vec![
        ("warnings", if warnings.is_empty() { "none".to_owned() } else { warnings.join("; ") }),
        ("temperature", temperature),
        ("spare", format!("{} % (threshold {} %)", fields.u8(3), fields.u8(4))),
        ("worn", format!("{} % of its life", fields.u8(5))),
        ("read", units(32)),
        ("written", units(48)),
        ("read commands", fields.u128(64).to_string()),
        ("write commands", fields.u128(80).to_string()),
        ("busy", format!("{} min", fields.u128(96))),
        ("power cycles", fields.u128(112).to_string()),
        ("powered on", format!("{} h", fields.u128(128))),
        ("unsafe shutdowns", fields.u128(144).to_string()),
        ("media errors", fields.u128(160).to_string()),
        ("error log entries", fields.u128(176).to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'a>(fields: &'a [Field], name: &str) -> &'a str {
        &fields.iter().find(|(field, _)| *field == name).expect("it is there").1
    }

    #[test]
    fn sizes_are_in_binary_units() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1 << 30, "1.0 GiB"),
            (1_000_204_886_016, "931.5 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }

    #[test]
    fn a_controller_in_words() {
        let mut data = vec![0; 4096];
        data[4..24].copy_from_slice(b"guest               ");
        data[24..38].copy_from_slice(b"QEMU NVMe Ctrl");
        data[80..84].copy_from_slice(&0x0001_0400u32.to_le_bytes());
        data[280..296].copy_from_slice(&(3u128 << 30).to_le_bytes());
        data[520..522].copy_from_slice(&0b1100u16.to_le_bytes());
        data[525] = 1;
        data[528] = 7;
        let fields = controller(&data);
        assert_eq!(value(&fields, "model"), "QEMU NVMe Ctrl");
        assert_eq!(value(&fields, "serial number"), "guest");
        assert_eq!(value(&fields, "NVMe version"), "1.4.0");
        assert_eq!(value(&fields, "capacity"), "3.0 GiB");
        assert_eq!(value(&fields, "volatile write cache"), "yes");
        assert_eq!(value(&fields, "atomic write unit"), "1 block");
        assert_eq!(value(&fields, "on power failure"), "8 blocks");
        assert_eq!(value(&fields, "optional commands"), "dataset management (trim), write zeroes");
    }

    #[test]
    fn a_namespace_in_words() {
        let mut data = vec![0; 4096];
        data[0..8].copy_from_slice(&262_144u64.to_le_bytes());
        data[25] = 7;
        data[26] = 4;
        data[144..148].copy_from_slice(&(12u32 << 16 | 8).to_le_bytes());
        let fields = namespace(&data);
        assert_eq!(value(&fields, "size"), "262144 blocks (1.0 GiB)");
        assert_eq!(value(&fields, "block"), "4096 bytes, 8 of metadata");
        assert_eq!(value(&fields, "formats"), "8");
    }

    #[test]
    fn a_healthy_and_a_sick_log() {
        let mut data = vec![0; 512];
        data[1..3].copy_from_slice(&310u16.to_le_bytes());
        data[3..6].copy_from_slice(&[100, 10, 3]);
        data[48..64].copy_from_slice(&2_097_152u128.to_le_bytes());
        data[128..144].copy_from_slice(&8760u128.to_le_bytes());
        let fields = health(&data);
        assert_eq!(value(&fields, "warnings"), "none");
        assert_eq!(value(&fields, "temperature"), "37 °C");
        assert_eq!(value(&fields, "spare"), "100 % (threshold 10 %)");
        assert_eq!(value(&fields, "worn"), "3 % of its life");
        assert_eq!(value(&fields, "written"), "1000.0 GiB");
        assert_eq!(value(&fields, "powered on"), "8760 h");
        data[0] = 0b1000_1001;
        let warnings = health(&data);
        let warnings = value(&warnings, "warnings");
        assert_eq!(
            warnings,
            "the spare capacity is below its threshold; the media is read-only; a warning without a name"
        );
    }

    #[test]
    fn any_bytes_have_words() {
        for byte in [0, 0xff] {
            for len in [0, 1, 100, 512, 4096] {
                let data = vec![byte; len];
                for fields in [controller(&data), namespace(&data), health(&data)] {
                    assert!(!fields.is_empty());
                }
            }
        }
    }
}
