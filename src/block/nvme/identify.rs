//! What a controller and its namespaces say about themselves: the Identify data structures (Base
//! 5.17.2, NVM Command Set 4.1.5) and the SMART / Health Information log page (Base 5.16.1.3).

use super::transfer;
use crate::error::{Error, ErrorKind, Result};

fn u16_at(data: &[u8; 4096], at: usize) -> u16 {
    u16::from_le_bytes([data[at], data[at + 1]])
}

fn u32_at(data: &[u8; 4096], at: usize) -> u32 {
    u32::from(u16_at(data, at)) | u32::from(u16_at(data, at + 2)) << 16
}

fn u64_at(data: &[u8; 4096], at: usize) -> u64 {
    u64::from(u32_at(data, at)) | u64::from(u32_at(data, at + 4)) << 32
}

/// An ASCII field, padded with spaces.
fn text(field: &[u8]) -> String {
    let printable = field.iter().map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { ' ' });
    printable.collect::<String>().trim().to_owned()
}

/// The Identify Controller data structure, as far as the driver uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ControllerIdentity {
    /// PCI vendor (VID).
    pub vendor: u16,
    /// Serial number (SN).
    pub serial: String,
    /// Model number (MN).
    pub model: String,
    /// Firmware revision (FR).
    pub firmware: String,
    /// Its version of the specification, as the register VS has it: 0x0002_0000 is 2.0.
    pub version: u32,
    /// The largest transfer of one command in bytes (MDTS); `None` if there is no limit.
    pub max_transfer_bytes: Option<u64>,
    /// The most abort commands at once (ACL, as a count).
    pub abort_limit: u16,
    /// The most outstanding asynchronous event requests (AERL, as a count).
    pub async_event_limit: u16,
    /// It can tell when namespaces change (OAES bit 8).
    pub namespace_notices: bool,
    /// How many namespace numbers there are (NN).
    pub namespaces: u32,
    /// It has Compare (ONCS bit 0).
    pub compare: bool,
    /// It has Dataset Management (ONCS bit 2).
    pub dataset_management: bool,
    /// It has Write Zeroes (ONCS bit 3).
    pub write_zeroes: bool,
    /// It has the fused Compare and Write (FUSES bit 0).
    pub fused_compare_and_write: bool,
    /// It has a volatile write cache (VWC bit 0).
    pub volatile_cache: bool,
    /// Blocks written at once or not at all when power fails (AWUPF, as a count).
    pub atomic_blocks_power_fail: u32,
    /// The most blocks of an atomic fused compare and write (ACWU, as a count).
    pub atomic_blocks_compare: u32,
    /// SGL pieces' alignment in bytes (SGLS): 1, 4, or `None` without SGLs.
    pub sgl_alignment: Option<u32>,
    /// It takes doorbells in memory (OACS bit 8), as emulated controllers do.
    pub shadow_doorbells: bool,
    /// How long an orderly shutdown may take, in microseconds (RTD3E); 0 if it does not say.
    pub shutdown_micros: u32,
}

impl ControllerIdentity {
    /// What the data structure says. `min_page_shift` is that of the capabilities.
    ///
    /// # Errors
    ///
    /// It is no I/O controller, or its queue entries have other sizes than all I/O controllers'.
    pub(in crate::block) fn parse(data: &[u8; 4096], min_page_shift: u32, version: u32) -> Result<Self> {
        let refused = |why: String| Error::new(ErrorKind::Unsupported, "identify controller").because(why);
        // 0 is a controller older than the field.
        if data[111] > 1 {
            return Err(refused(format!(
                "it is no I/O controller (controller type {}): choose the controller of the drive",
                data[111]
            )));
        }
        let sizes = |byte: u8| (u32::from(byte & 0xf))..=(u32::from(byte >> 4));
        if !sizes(data[512]).contains(&6) || !sizes(data[513]).contains(&4) {
            return Err(refused(format!(
                "queue entries of 64 and 16 bytes are not offered (SQES {:#04x}, CQES {:#04x})",
                data[512], data[513]
            )));
        }
        let oncs = u16_at(data, 520);
        let sgls = u32_at(data, 536);
        Ok(Self {
            vendor: u16_at(data, 0),
            serial: text(&data[4..24]),
            model: text(&data[24..64]),
            firmware: text(&data[64..72]),
            version,
            max_transfer_bytes: match u32::from(data[77]) {
                0 => None,
                mdts => 1_u64.checked_shl(mdts + min_page_shift),
            },
            abort_limit: u16::from(data[258]) + 1,
            async_event_limit: u16::from(data[259]) + 1,
            namespace_notices: u32_at(data, 92) >> 8 & 1 == 1,
            namespaces: u32_at(data, 516),
            compare: oncs & 1 == 1,
            dataset_management: oncs >> 2 & 1 == 1,
            write_zeroes: oncs >> 3 & 1 == 1,
            fused_compare_and_write: u16_at(data, 522) & 1 == 1,
            volatile_cache: data[525] & 1 == 1,
            atomic_blocks_power_fail: u32::from(u16_at(data, 528)) + 1,
            atomic_blocks_compare: u32::from(u16_at(data, 532)) + 1,
            sgl_alignment: match sgls & 3 {
                1 => Some(1),
                2 => Some(4),
                _ => None,
            },
            shadow_doorbells: u16_at(data, 256) >> 8 & 1 == 1,
            shutdown_micros: u32_at(data, 88),
        })
    }

    /// The largest transfer of one command of this driver, in bytes, with pages of
    /// `1 << page_shift`: what the controller takes and one list page tells.
    pub fn transfer_limit_bytes(&self, page_shift: u32) -> u32 {
        let ours = transfer::max_transfer_bytes(page_shift);
        self.max_transfer_bytes.map_or(ours, |theirs| u32::try_from(theirs).unwrap_or(u32::MAX).min(ours))
    }
}

/// The Identify Namespace data structure of the NVM command set, as far as the driver uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamespaceIdentity {
    /// Its number (NSID).
    pub number: u32,
    /// Its size in blocks (NSZE).
    pub blocks: u64,
    /// Its block size as a power of two (LBADS).
    pub block_shift: u32,
    /// Bytes of metadata per block (MS).
    pub metadata_bytes: u16,
    /// The type of end-to-end protection (DPS); 0 is none.
    pub protection: u8,
    /// Blocks written at once or not at all when power fails (NAWUPF, as a count), if it says other
    /// than its controller.
    pub atomic_blocks_power_fail: Option<u32>,
    /// The most blocks of an atomic fused compare and write (NACWU, as a count), if it says other
    /// than its controller.
    pub atomic_blocks_compare: Option<u32>,
    /// No write across a multiple of this many blocks is atomic when power fails (NABSPF, as a
    /// count); `None` if there is no such boundary.
    pub atomic_boundary_blocks: Option<u32>,
    /// The first atomic boundary, in blocks (NABO).
    pub atomic_boundary_offset_blocks: u16,
    /// Commands should not cross a multiple of this many blocks (NOIOB); `None` if it does not say.
    pub optimal_boundary_blocks: Option<u16>,
    /// Writes should be multiples of this many blocks (NPWG, as a count), if it says.
    pub write_granularity_blocks: Option<u32>,
    /// Deallocated blocks read as zeros (DLFEAT).
    pub deallocated_reads_zero: bool,
    /// It is write-protected (NSATTR bit 0).
    pub write_protected: bool,
    /// Its globally unique identifier (NGUID), if it has one.
    pub guid: Option<[u8; 16]>,
    /// Its IEEE extended unique identifier (EUI64), if it has one.
    pub eui64: Option<[u8; 8]>,
}

impl NamespaceIdentity {
    /// What the data structure says about namespace `number`; `None` if there is no such
    /// namespace.
    pub(in crate::block) fn parse(data: &[u8; 4096], number: u32) -> Option<Self> {
        let blocks = u64_at(data, 0);
        if blocks == 0 {
            return None;
        }
        let features = data[24];
        let formatted = data[26];
        let mut format = usize::from(formatted & 0xf);
        if data[25] > 15 {
            format |= usize::from(formatted >> 5 & 3) << 4;
        }
        let lba_format = u32_at(data, 128 + 4 * format);
        let own_atomics = features >> 1 & 1 == 1;
        let count = |at: usize| {
            let value = u16_at(data, at);
            (own_atomics && value != 0).then(|| u32::from(value) + 1)
        };
        let guid: [u8; 16] = std::array::from_fn(|at| data[104 + at]);
        let eui64: [u8; 8] = std::array::from_fn(|at| data[120 + at]);
        Some(Self {
            number,
            blocks,
            block_shift: lba_format >> 16 & 0xff,
            metadata_bytes: u16_at(data, 128 + 4 * format),
            protection: data[29] & 7,
            atomic_blocks_power_fail: count(36),
            atomic_blocks_compare: count(38),
            atomic_boundary_blocks: count(44),
            atomic_boundary_offset_blocks: u16_at(data, 42),
            optimal_boundary_blocks: Some(u16_at(data, 46)).filter(|&blocks| blocks != 0),
            write_granularity_blocks: (features >> 4 & 1 == 1).then(|| u32::from(u16_at(data, 64)) + 1),
            deallocated_reads_zero: data[33] & 7 == 1,
            write_protected: data[99] & 1 == 1,
            guid: Some(guid).filter(|guid| guid.iter().any(|&byte| byte != 0)),
            eui64: Some(eui64).filter(|eui64| eui64.iter().any(|&byte| byte != 0)),
        })
    }

    /// Refuses a format that the driver does not read and write.
    ///
    /// # Errors
    ///
    /// Blocks have metadata or protection information, or a size that boson does not know.
    pub fn check_format(&self) -> Result<()> {
        let refused = |why: String| {
            Err(Error::new(ErrorKind::Unsupported, "open namespace")
                .at(format!("namespace {}", self.number))
                .because(why))
        };
        let block_bytes = 1_u64.checked_shl(self.block_shift).unwrap_or(0);
        if self.metadata_bytes != 0 {
            refused(format!(
                "its format has {} bytes of metadata with each block of {block_bytes}: format it without \
                 metadata (nvme format --lbaf)",
                self.metadata_bytes
            ))
        } else if self.protection != 0 {
            refused(format!(
                "it is formatted with end-to-end protection of type {}: format it without (nvme format \
                 --pi=0)",
                self.protection
            ))
        } else if !(9..=16).contains(&self.block_shift) {
            refused(format!("blocks of 2^{} bytes: boson knows 512 to 65536", self.block_shift))
        } else {
            Ok(())
        }
    }

    /// Why I/O in blocks of `1 << block_shift` bytes is none of this namespace's any more, if it is
    /// not.
    pub(super) fn misfit(&self, block_shift: u32) -> Option<String> {
        let again = "open it again";
        if let Err(error) = self.check_format() {
            let why = error.detail().unwrap_or("in a way that boson does not know");
            return Some(format!("the namespace was formatted anew: {why}; then {again}"));
        }
        (self.block_shift != block_shift).then(|| {
            let [now, before] = [self.block_shift, block_shift].map(|shift| 1_u64 << shift);
            format!(
                "the namespace was formatted anew, in blocks of {now} bytes in place of {before}: {again}"
            )
        })
    }

    /// Its size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.blocks.checked_shl(self.block_shift).unwrap_or(u64::MAX)
    }
}

/// The SMART / Health Information log page.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthLog {
    /// Critical warnings, one bit each; [`HealthLog::warnings`] has them in words.
    pub critical_warning: u8,
    /// Composite temperature in kelvins.
    pub temperature_kelvin: u16,
    /// Spare capacity that is left, in percent.
    pub available_spare_percent: u8,
    /// The spare capacity below which there is a warning, in percent.
    pub spare_threshold_percent: u8,
    /// Life used, in percent of what the vendor expects; may exceed 100.
    pub used_percent: u8,
    /// Data read, in units of 512,000 bytes.
    pub data_units_read: u128,
    /// Data written, in units of 512,000 bytes.
    pub data_units_written: u128,
    /// Read commands completed.
    pub reads: u128,
    /// Write commands completed.
    pub writes: u128,
    /// Hours with power on.
    pub power_on_hours: u128,
    /// Power cycles.
    pub power_cycles: u128,
    /// Shutdowns without the orderly sequence.
    pub unsafe_shutdowns: u128,
    /// Errors of the media or of data integrity that were not recovered.
    pub media_errors: u128,
    /// Entries that the error information log had in its life.
    pub error_log_entries: u128,
}

impl HealthLog {
    pub(in crate::block) fn parse(data: &[u8; 4096]) -> Self {
        let wide = |at: usize| u128::from_le_bytes(std::array::from_fn(|byte| data[at + byte]));
        Self {
            critical_warning: data[0],
            temperature_kelvin: u16_at(data, 1),
            available_spare_percent: data[3],
            spare_threshold_percent: data[4],
            used_percent: data[5],
            data_units_read: wide(32),
            data_units_written: wide(48),
            reads: wide(64),
            writes: wide(80),
            power_cycles: wide(112),
            power_on_hours: wide(128),
            unsafe_shutdowns: wide(144),
            media_errors: wide(160),
            error_log_entries: wide(176),
        }
    }

    /// Its critical warnings in words.
    pub fn warnings(&self) -> impl Iterator<Item = &'static str> {
        const WORDS: [&str; 6] = [
            "spare capacity is below its threshold",
            "the temperature is past a threshold",
            "reliability is degraded by media or internal errors",
            "the media are read-only",
            "the backup of the volatile memory has failed",
            "the persistent memory region is unreliable",
        ];
        let bits = self.critical_warning;
        WORDS.into_iter().enumerate().filter(move |(bit, _)| bits >> bit & 1 == 1).map(|(_, words)| words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace() -> [u8; 4096] {
        let mut data = [0; 4096];
        data[0..8].copy_from_slice(&1000_u64.to_le_bytes());
        data[25] = 1;
        data[26] = 1;
        data[128 + 2] = 9;
        data[132 + 2] = 12;
        data
    }

    #[test]
    fn the_format_in_use_is_read() {
        let identity = NamespaceIdentity::parse(&namespace(), 3).expect("active");
        assert_eq!((identity.block_shift, identity.metadata_bytes), (12, 0));
        assert_eq!(identity.size_bytes(), 4_096_000);
        assert_eq!(identity.atomic_boundary_blocks, None);
        identity.check_format().expect("a plain format");
        assert_eq!(NamespaceIdentity::parse(&[0; 4096], 3), None, "inactive");
    }

    #[test]
    fn atomic_units_are_the_namespaces_own_if_it_says_so() {
        let mut data = namespace();
        data[36] = 7;
        data[44] = 63;
        assert_eq!(NamespaceIdentity::parse(&data, 1).expect("active").atomic_blocks_power_fail, None);
        data[24] = 1 << 1;
        let identity = NamespaceIdentity::parse(&data, 1).expect("active");
        assert_eq!(identity.atomic_blocks_power_fail, Some(8));
        assert_eq!(identity.atomic_boundary_blocks, Some(64));
        assert_eq!(identity.atomic_blocks_compare, None, "0 is the controller's");
    }

    #[test]
    fn formats_with_metadata_are_refused_by_name() {
        let mut data = namespace();
        data[132] = 8;
        let error = NamespaceIdentity::parse(&data, 1).expect("active").check_format().expect_err("metadata");
        assert!(error.to_string().contains("8 bytes of metadata with each block of 4096"), "{error}");
        data[132] = 0;
        data[29] = 1;
        let error =
            NamespaceIdentity::parse(&data, 1).expect("active").check_format().expect_err("protected");
        assert!(error.to_string().contains("protection of type 1"), "{error}");
    }

    #[test]
    fn limits_of_a_controller_are_in_bytes() {
        let mut data = [0; 4096];
        data[512] = 0x66;
        data[513] = 0x44;
        data[77] = 5;
        data[4..8].copy_from_slice(b"S1  ");
        let identity = ControllerIdentity::parse(&data, 12, 0x1_0400).expect("an I/O controller");
        assert_eq!(identity.serial, "S1");
        assert_eq!(identity.max_transfer_bytes, Some(128 << 10));
        assert_eq!(identity.transfer_limit_bytes(12), 128 << 10);
        data[77] = 0;
        let identity = ControllerIdentity::parse(&data, 12, 0x1_0400).expect("an I/O controller");
        assert_eq!(identity.transfer_limit_bytes(12), 2 << 20, "one list page");
        data[111] = 2;
        assert!(ControllerIdentity::parse(&data, 12, 0x1_0400).is_err(), "a discovery controller");
    }
}
