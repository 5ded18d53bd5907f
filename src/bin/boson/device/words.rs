//! What a controller says, in words.

use boson::block::nvme::{ControllerIdentity, HealthLog, NamespaceIdentity};

use crate::units::size;

/// A field's name, and its value with its unit; what is empty is not shown.
pub(super) type Field = (&'static str, String);

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

fn blocks(count: u32) -> String {
    if count == 1 { "1 block".to_owned() } else { format!("{count} blocks") }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn controller(found: &ControllerIdentity) -> Vec<Field> {
    let version = found.version;
    let commands = [
        (found.compare, "compare"),
        (found.dataset_management, "dataset management (trim)"),
        (found.write_zeroes, "write zeroes"),
        (found.fused_compare_and_write, "fused compare and write"),
    ];
    let commands: Vec<&str> =
        commands.into_iter().filter(|(present, _)| *present).map(|(_, name)| name).collect();
    vec![
        ("model", found.model.clone()),
        ("serial number", found.serial.clone()),
        ("firmware", found.firmware.clone()),
        ("NVMe version", format!("{}.{}.{}", version >> 16, version >> 8 & 0xff, version & 0xff)),
        ("namespaces at most", found.namespaces.to_string()),
        ("largest transfer", found.max_transfer_bytes.map_or("no limit".to_owned(), size)),
        ("volatile write cache", yes_no(found.volatile_cache)),
        ("whole on power failure", blocks(found.atomic_blocks_power_fail)),
        ("optional commands", commands.join(", ")),
    ]
}

pub(super) fn namespace(found: &NamespaceIdentity) -> Vec<Field> {
    let block = 1u128.checked_shl(found.block_shift).unwrap_or(0);
    let protection = match found.protection {
        0 => "none".to_owned(),
        kind => format!("type {kind}"),
    };
    vec![
        ("size", format!("{} blocks ({})", found.blocks, size(found.size_bytes()))),
        ("block", format!("{block} bytes, {} of metadata", found.metadata_bytes)),
        ("protection", protection),
        ("whole on power failure", found.atomic_blocks_power_fail.map(blocks).unwrap_or_default()),
        ("atomic boundary", found.atomic_boundary_blocks.map(blocks).unwrap_or_default()),
        (
            "optimal boundary",
            found.optimal_boundary_blocks.map(|count| blocks(count.into())).unwrap_or_default(),
        ),
        ("write granularity", found.write_granularity_blocks.map(blocks).unwrap_or_default()),
        ("trimmed reads as zeros", yes_no(found.deallocated_reads_zero)),
        ("write-protected", yes_no(found.write_protected)),
        ("NGUID", found.guid.map(|id| hex(&id)).unwrap_or_default()),
        ("EUI64", found.eui64.map(|id| hex(&id)).unwrap_or_default()),
    ]
}

pub(super) fn health(found: &HealthLog) -> Vec<Field> {
    let warnings: Vec<&str> = found.warnings().collect();
    let warnings = match (warnings.is_empty(), found.critical_warning) {
        (false, _) => warnings.join("; "),
        (true, 0) => "none".to_owned(),
        (true, bits) => format!("bits {bits:#04x}, which have no name"),
    };
    let temperature = match found.temperature_kelvin {
        0 => "not reported".to_owned(),
        kelvin => format!("{} °C", i32::from(kelvin) - 273),
    };
    let units = |count: u128| match count.checked_mul(512_000).map(u64::try_from) {
        Some(Ok(bytes)) => size(bytes),
        _ => format!("{count} units of 512000 bytes"),
    };
    let spare =
        format!("{} % (threshold {} %)", found.available_spare_percent, found.spare_threshold_percent);
    vec![
        ("warnings", warnings),
        ("temperature", temperature),
        ("spare", spare),
        ("worn", format!("{} % of its life", found.used_percent)),
        ("read", units(found.data_units_read)),
        ("written", units(found.data_units_written)),
        ("read commands", found.reads.to_string()),
        ("write commands", found.writes.to_string()),
        ("power cycles", found.power_cycles.to_string()),
        ("powered on", format!("{} h", found.power_on_hours)),
        ("unsafe shutdowns", found.unsafe_shutdowns.to_string()),
        ("media errors", found.media_errors.to_string()),
        ("error log entries", found.error_log_entries.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
