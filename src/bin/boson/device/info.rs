//! `boson device info`: what a controller says of itself and its namespaces, and its health.

use boson::block::pci::{self, AdminCommands, FoundController, FoundNamespace, PciAddress, SystemRoot};
use boson::{Error, ErrorKind, Result};

use super::list::model;
use super::words::{self, Field};

pub(super) fn print(root: &SystemRoot, device: &str) -> Result<String> {
    let (controller, chosen) = find(root, device)?;
    let mut text = overview(&controller);
    let Some(name) = &controller.name else {
        return Ok(text + &without_the_nvme_driver(&controller));
    };
    let admin = AdminCommands::open(root, name)?;
    text += &section("Controller", words::controller(&admin.identify_controller()?));
    let shown = controller
        .namespaces
        .iter()
        .filter(|namespace| chosen.as_ref().is_none_or(|name| is(namespace, name)));
    for namespace in shown {
        let Some(nsid) = namespace.nsid else { continue };
        let title = format!("Namespace {nsid}, /dev/{}", namespace.name());
        // It may have been detached since the list was made.
        let Some(identity) = admin.identify_namespace(nsid)? else { continue };
        text += &section(&title, words::namespace(&identity));
    }
    text += &section("Health", words::health(&admin.health_log()?));
    Ok(text)
}

/// The controller that `device` names, and the name of the namespace if it names one.
fn find(root: &SystemRoot, device: &str) -> Result<(FoundController, Option<String>)> {
    let Some(name) = device.strip_prefix("/dev/") else {
        let address: PciAddress = device.parse()?;
        return Ok((pci::find(root, address)?, None));
    };
    for controller in pci::controllers(root) {
        if controller.name.as_deref() == Some(name) {
            return Ok((controller, None));
        }
        if controller.namespaces.iter().any(|namespace| is(namespace, name)) {
            return Ok((controller, Some(name.to_owned())));
        }
    }
    Err(Error::new(ErrorKind::NotFound, "find NVMe device")
        .at(device.escape_debug().to_string())
        .because("no NVMe controller on PCI has it; `boson device list` shows what there is"))
}

fn is(namespace: &FoundNamespace, name: &str) -> bool {
    namespace.generic.as_deref() == Some(name)
        || namespace.block.as_ref().is_some_and(|block| block.name == name)
}

fn overview(controller: &FoundController) -> String {
    let driver = match &controller.driver {
        Some(driver) => format!("driver {driver}"),
        None => "no driver".to_owned(),
    };
    let group = match &controller.group {
        None => "no IOMMU group".to_owned(),
        Some(group) if group.others.is_empty() => format!("IOMMU group {}", group.number),
        Some(group) => {
            let others: Vec<String> = group
                .others
                .iter()
                .map(|other| {
                    let driver = other.driver.as_deref().unwrap_or("no driver");
                    format!("{} ({driver})", other.address)
                })
                .collect();
            format!("IOMMU group {} with {}", group.number, others.join(", "))
        }
    };
    format!("{}  {}, {driver}, {group}\n", controller.address, model(controller))
}

/// Only the driver that has a controller can ask it.
fn without_the_nvme_driver(controller: &FoundController) -> String {
    let give_back = format!("`boson device unbind {}` gives it to the nvme driver", controller.address);
    match controller.driver.as_deref() {
        Some("nvme") => "\nThe nvme driver is not ready with it: try again, or see dmesg.\n".to_owned(),
        Some("vfio-pci") => {
            format!("\nvfio-pci has it, so only the program that opens it can ask it: {give_back}.\n")
        }
        _ => format!("\nThe kernel cannot ask it: {give_back}.\n"),
    }
}

fn section(title: &str, fields: Vec<Field>) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = fields.iter().filter(|(_, value)| !value.is_empty());
    let lines = lines.map(|(name, value)| format!("  {name:<width$}  {value}\n"));
    format!("\n{title}\n{}", lines.collect::<String>())
}
