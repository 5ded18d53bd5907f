//! `boson device list`: controllers and namespaces, as a table or as JSON.

use boson::block::pci::{self, Contents, FoundController, FoundNamespace, SystemRoot, Usage};
use serde_json::{Value, json};

use crate::units::size;

/// A controller with what was found out about its namespaces.
struct Listed {
    controller: FoundController,
    /// For each namespace: what it holds, and what uses it.
    namespaces: Vec<(Option<Contents>, Vec<Usage>)>,
}

pub(super) fn print(root: &SystemRoot, as_json: bool) -> String {
    let listed: Vec<Listed> = pci::controllers(root).into_iter().map(|found| look(root, found)).collect();
    match as_json {
        true => listed.iter().map(|listed| format!("{}\n", listed.as_json(root))).collect(),
        false if listed.is_empty() => "This machine has no NVMe controller on PCI.\n".to_owned(),
        false => as_table(root, &listed),
    }
}

fn look(root: &SystemRoot, controller: FoundController) -> Listed {
    let usages = pci::usages_of(root, &controller);
    let contents = controller.namespaces.iter().map(|namespace| pci::contents_of(root, namespace));
    Listed { namespaces: contents.zip(usages).collect(), controller }
}

const HEADINGS: [&str; 9] =
    ["address", "model", "driver", "IOMMU group", "namespace", "size", "format", "holds", "in use"];

fn as_table(root: &SystemRoot, listed: &[Listed]) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(listed.iter().flat_map(|listed| listed.rows(root)));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
        })
        .collect()
}

/// What a cell without a value shows.
const NONE: &str = "-";

impl Listed {
    fn rows(&self, root: &SystemRoot) -> Vec<[String; 9]> {
        let controller = &self.controller;
        let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
        let start = [
            controller.address.to_string(),
            model(controller),
            or_none(controller.driver.clone()),
            or_none(controller.group.as_ref().map(|group| group.number.to_string())),
        ];
        let row = |rest: [String; 5]| {
            let [a, b, c, d] = start.clone();
            let [e, f, g, h, i] = rest;
            [a, b, c, d, e, f, g, h, i]
        };
        if self.namespaces.is_empty() {
            return vec![row([NONE; 5].map(str::to_owned))];
        }
        let namespaces = controller.namespaces.iter().zip(&self.namespaces);
        namespaces
            .map(|(namespace, (contents, usages))| {
                row([
                    root.path("dev").join(namespace.name()).display().to_string(),
                    if namespace.size_bytes == 0 { NONE.to_owned() } else { size(namespace.size_bytes) },
                    or_none(format_of(namespace)),
                    or_none(holds(namespace, contents.as_ref())),
                    in_use(usages),
                ])
            })
            .collect()
    }

    fn as_json(&self, root: &SystemRoot) -> Value {
        let controller = &self.controller;
        let node = |name: &str| root.path("dev").join(name).display().to_string();
        let namespaces: Vec<Value> = controller
            .namespaces
            .iter()
            .zip(&self.namespaces)
            .map(|(namespace, (contents, usages))| {
                let partitions = namespace.partitions.iter().map(|partition| node(&partition.name));
                json!({
                    "device": namespace.block.as_ref().map(|block| node(&block.name)),
                    "generic": namespace.generic.as_deref().map(node),
                    "nsid": namespace.nsid,
                    "size_bytes": namespace.size_bytes,
                    "block_size_bytes": namespace.block_size_bytes,
                    "metadata_bytes": namespace.metadata_bytes,
                    "read_only": namespace.read_only,
                    "partitions": partitions.collect::<Vec<_>>(),
                    "holds": contents.as_ref().map(ToString::to_string),
                    "in_use": usages.iter().any(Usage::is_active),
                    "uses": usages.iter().map(ToString::to_string).collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({
            "address": controller.address.to_string(),
            "vendor": format!("{:04x}", controller.vendor),
            "device": format!("{:04x}", controller.device),
            "driver": controller.driver,
            "iommu_group": controller.group.as_ref().map(|group| group.number),
            "iommu_group_others": controller.group.iter().flat_map(|group| &group.others)
                .map(|other| json!({ "address": other.address.to_string(), "driver": other.driver }))
                .collect::<Vec<_>>(),
            "name": controller.name,
            "model": controller.model,
            "serial": controller.serial,
            "firmware": controller.firmware,
            "namespaces": namespaces,
        })
    }
}

/// The model, or what PCI says as long as the nvme driver does not.
pub(super) fn model(controller: &FoundController) -> String {
    let ids = || format!("{:04x}:{:04x}", controller.vendor, controller.device);
    controller.model.clone().unwrap_or_else(ids)
}

/// `4096` or `512+8`: bytes per block, and of metadata.
fn format_of(namespace: &FoundNamespace) -> Option<String> {
    let block = namespace.block_size_bytes;
    (block > 0).then(|| match namespace.metadata_bytes {
        None | Some(0) => block.to_string(),
        Some(metadata) => format!("{block}+{metadata}"),
    })
}

fn holds(namespace: &FoundNamespace, contents: Option<&Contents>) -> Option<String> {
    let contents = contents?;
    Some(match namespace.partitions.len() {
        0 => contents.to_string(),
        1 => format!("{contents}, 1 partition"),
        partitions => format!("{contents}, {partitions} partitions"),
    })
}

fn in_use(usages: &[Usage]) -> String {
    let active: Vec<String> =
        usages.iter().filter(|usage| usage.is_active()).map(ToString::to_string).collect();
    if active.is_empty() { "no".to_owned() } else { active.join("; ") }
}
