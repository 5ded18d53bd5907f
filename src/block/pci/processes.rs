//! Which processes have which devices open, as far as this one may see: all for root, the user's
//! own otherwise.

use std::fs;
use std::path::Path;

use super::root::{SystemRoot, attribute, names_in};

/// A device that a process has open.
pub(super) struct Opened {
    /// The device's name in `/dev`.
    pub(super) name: String,
    pub(super) process: u32,
    pub(super) command: String,
}

/// What processes have open below `/dev` whose name is `wanted`; one entry for each process and
/// name.
pub(super) fn opened_devices(root: &SystemRoot, wanted: impl Fn(&str) -> bool) -> Vec<Opened> {
    let mut found: Vec<Opened> = Vec::new();
    for process_name in names_in(&root.path("proc")) {
        let Ok(process) = process_name.parse::<u32>() else { continue };
        let directory = root.path("proc").join(&process_name);
        let Ok(descriptors) = fs::read_dir(directory.join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let Some(name) = target.strip_prefix("/dev").ok().and_then(Path::to_str) else { continue };
            if wanted(name) && !found.iter().any(|known| known.process == process && known.name == name) {
                let command = attribute(&directory.join("comm")).unwrap_or_else(|| "unknown".to_owned());
                found.push(Opened { name: name.to_owned(), process, command });
            }
        }
    }
    found
}

/// A process that has the node of this name open.
pub(super) fn user_of(root: &SystemRoot, node: &str) -> Option<String> {
    let opened = opened_devices(root, |name| name == node).into_iter().next()?;
    Some(format!("process {} ({})", opened.process, opened.command))
}
