//! Which processes have which devices open, as far as this one may see: all for root, the user's
//! own otherwise.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::root::{SystemRoot, attribute, names_in};

/// A device that a process has open.
pub(super) struct Opened {
    /// The device's name in `/dev`, or by what other name the process has it.
    pub(super) name: String,
    /// The device's number, if it is one.
    pub(super) number: Option<u64>,
    pub(super) process: u32,
    pub(super) command: String,
}

/// What devices processes have open whose name in `/dev` or whose number is `wanted`; one entry for
/// each process and name. A container may have a device by any name.
pub(super) fn opened_devices(root: &SystemRoot, wanted: impl Fn(&str, Option<u64>) -> bool) -> Vec<Opened> {
    let mut found: Vec<Opened> = Vec::new();
    for process_name in names_in(&root.path("proc")) {
        let Ok(process) = process_name.parse::<u32>() else { continue };
        let directory = root.path("proc").join(&process_name);
        let Ok(descriptors) = fs::read_dir(directory.join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let number = device_number(&descriptor.path());
            let name = target.strip_prefix("/dev").ok().or(number.map(|_| target.as_path()));
            let Some(name) = name.and_then(Path::to_str) else { continue };
            if wanted(name, number)
                && !found.iter().any(|known| known.process == process && known.name == name)
            {
                let command = attribute(&directory.join("comm")).unwrap_or_else(|| "unknown".to_owned());
                found.push(Opened { name: name.to_owned(), number, process, command });
            }
        }
    }
    found
}

/// A process that has the node of this name open.
pub(super) fn user_of(root: &SystemRoot, node: &str) -> Option<String> {
    let of_node = device_number(&root.node(node));
    let is_it = |name: &str, number: Option<u64>| name == node || (number.is_some() && number == of_node);
    let opened = opened_devices(root, is_it).into_iter().next()?;
    Some(format!("process {} ({})", opened.process, opened.command))
}

/// The number of the device that `path` is, through links.
pub(super) fn device_number(path: &Path) -> Option<u64> {
    let metadata = fs::metadata(path).ok()?;
    let kind = metadata.file_type();
    (kind.is_block_device() || kind.is_char_device()).then(|| metadata.rdev())
}
