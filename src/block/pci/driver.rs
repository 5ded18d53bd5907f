//! Which driver has a controller: handing it to `vfio-pci`, and giving it back to `nvme`.
//!
//! The kernel takes a device from its driver when the device's address is written to the driver's
//! `unbind`, and looks for a driver when it is written to `drivers_probe`. A name in the device's
//! `driver_override` is the only driver that it then considers. None of that survives a restart.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use super::controller::{self, FoundController};
use super::processes::user_of;
use super::root::{SystemRoot, attribute, link_name, names_in};
use super::usage::{self, Usage};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::pci_address::PciAddress;

const VFIO: &str = "vfio-pci";
const NVME: &str = "nvme";

/// What [`bind_to_vfio`] and [`give_back`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverChange {
    /// The controller has another driver now.
    Changed,
    /// The driver had it before; nothing was written.
    AlreadyThere,
}

/// Where writes to sysfs go; the tests have a kernel of their own.
pub(super) trait Kernel {
    /// Writes `text` to an attribute.
    fn write(&self, attribute: &Path, text: &str) -> io::Result<()>;
}

/// The kernel that runs this program.
struct RunningKernel;

impl Kernel for RunningKernel {
    fn write(&self, attribute: &Path, text: &str) -> io::Result<()> {
        OpenOptions::new().write(true).open(attribute)?.write_all(text.as_bytes())
    }
}

/// Whether the kernel has the `vfio-pci` driver loaded.
pub fn has_vfio_driver(root: &SystemRoot) -> bool {
    has_driver(root, VFIO)
}

/// Whether an IOMMU is on, so that VFIO can hand out devices.
pub fn is_behind_iommu(root: &SystemRoot) -> bool {
    names_in(&root.path("sys/kernel/iommu_groups")).iter().any(|group| isolates(root, group))
}

/// VFIO makes groups of its own where it is told to do without an IOMMU.
fn isolates(root: &SystemRoot, group: &str) -> bool {
    let name = attribute(&root.path("sys/kernel/iommu_groups").join(group).join("name"));
    name.as_deref() != Some("vfio-noiommu")
}

fn has_driver(root: &SystemRoot, driver: &str) -> bool {
    root.path("sys/bus/pci/drivers").join(driver).exists()
}

/// Takes the controller at `address` from its driver and hands it to `vfio-pci`. With `force` also
/// if something uses its namespaces, or has data on them that boson did not write.
///
/// Until the driver is changed no one else can begin to use a namespace.
///
/// # Errors
///
/// Nothing is changed by [`InUse`](ErrorKind::InUse), which names what is in use, by
/// [`Unsupported`](ErrorKind::Unsupported) if there is no IOMMU, no `vfio-pci` driver, or another
/// device in the controller's IOMMU group that hinders, and by what [`controller::find`] reports.
/// After an error of the kernel the controller has its driver again; if that fails too, the error
/// says so and has outcome [`Unknown`](Outcome::Unknown).
pub fn bind_to_vfio(root: &SystemRoot, address: PciAddress, force: bool) -> Result<DriverChange> {
    bind_with(&RunningKernel, root, address, force)
}

/// Takes the controller at `address` from `vfio-pci` and gives it to the kernel's nvme driver.
///
/// # Errors
///
/// As for [`bind_to_vfio`]. A controller that a process uses through VFIO is
/// [`InUse`](ErrorKind::InUse), whatever it is used for: the kernel would wait for the process.
pub fn give_back(root: &SystemRoot, address: PciAddress) -> Result<DriverChange> {
    give_back_with(&RunningKernel, root, address)
}

const BIND: &str = "bind";
const UNBIND: &str = "unbind";

fn refused(
    kind: ErrorKind,
    operation: &'static str,
    address: PciAddress,
    why: impl Into<std::borrow::Cow<'static, str>>,
) -> Error {
    Error::new(kind, operation).at(address.to_string()).because(why)
}

pub(super) fn bind_with(
    kernel: &dyn Kernel,
    root: &SystemRoot,
    address: PciAddress,
    force: bool,
) -> Result<DriverChange> {
    let controller = controller::find(root, address)?;
    if controller.driver.as_deref() == Some(VFIO) {
        return Ok(DriverChange::AlreadyThere);
    }
    check_driver(root, &controller)?;
    check_group(root, &controller)?;
    if !has_vfio_driver(root) {
        let why = "the driver vfio-pci is not loaded: modprobe vfio-pci";
        return Err(refused(ErrorKind::Unsupported, BIND, address, why));
    }
    let (usages, _claims) = usage::look(root, &controller);
    let mut usages: Vec<Usage> = usages.into_iter().flatten().collect();
    usages.sort_by_key(Usage::rank);
    if !force && let Some(first) = usages.first() {
        let others = match usages.len() - 1 {
            0 => String::new(),
            1 => ", and there is one more use".to_owned(),
            others => format!(", and there are {others} more uses"),
        };
        let why =
            format!("{first}{others}: end that first, or take the controller all the same with --force");
        return Err(refused(ErrorKind::InUse, BIND, address, why));
    }
    hand_over(kernel, root, &controller, VFIO, BIND)?;
    Ok(DriverChange::Changed)
}

/// Refuses a controller of which nobody can say what its namespaces are used for.
fn check_driver(root: &SystemRoot, controller: &FoundController) -> Result<()> {
    let address = controller.address;
    match controller.driver.as_deref() {
        None => Ok(()),
        Some(NVME) if controller.is_live(root) => Ok(()),
        Some(NVME) => {
            let why = "the driver nvme is not ready with it, so nobody can say what its namespaces are used \
                       for: try again when `boson device list` shows them";
            Err(refused(ErrorKind::InUse, BIND, address, why))
        }
        Some(other) => {
            let why = format!(
                "it has the driver {other}, for another program perhaps: take it from that one first, by echo \
                 {address} > /sys/bus/pci/devices/{address}/driver/unbind"
            );
            Err(refused(ErrorKind::InUse, BIND, address, why))
        }
    }
}

fn check_group(root: &SystemRoot, controller: &FoundController) -> Result<()> {
    let address = controller.address;
    let unsupported = |why: String| Err(refused(ErrorKind::Unsupported, BIND, address, why));
    let Some(group) = controller.group.as_ref().filter(|group| isolates(root, &group.number.to_string()))
    else {
        return unsupported("no IOMMU isolates it: `boson doctor` says how to turn one on".to_owned());
    };
    match group.hindered_by() {
        None => Ok(()),
        Some(other) => unsupported(format!(
            "{} is in the same IOMMU group {} and has the driver {}: take it from that driver first, by \
             echo {} > /sys/bus/pci/devices/{}/driver/unbind",
            other.address,
            group.number,
            other.driver.as_deref().unwrap_or_default(),
            other.address,
            other.address,
        )),
    }
}

pub(super) fn give_back_with(
    kernel: &dyn Kernel,
    root: &SystemRoot,
    address: PciAddress,
) -> Result<DriverChange> {
    let controller = controller::find(root, address)?;
    match controller.driver.as_deref() {
        Some(NVME) => return Ok(DriverChange::AlreadyThere),
        Some(VFIO) | None => {}
        Some(other) => {
            let why = format!("it has the driver {other}, which `boson device bind` does not give");
            return Err(refused(ErrorKind::InUse, UNBIND, address, why));
        }
    }
    if !has_driver(root, NVME) {
        let why = "the driver nvme is not loaded: modprobe nvme";
        return Err(refused(ErrorKind::Unsupported, UNBIND, address, why));
    }
    if let Some(user) = vfio_user(root, &controller) {
        return Err(refused(ErrorKind::InUse, UNBIND, address, format!("{user} uses it: stop that first")));
    }
    hand_over(kernel, root, &controller, NVME, UNBIND)?;
    // The override has done its work. Without it a later change of drivers is the kernel's again.
    let attribute = root.pci_device(address).join("driver_override");
    write(kernel, &attribute, "\n").map_err(|failure| {
        failure
            .into_error(UNBIND, address, "the nvme driver has it, and no other will get it")
            .outcome_is(Outcome::Unknown)
    })?;
    Ok(DriverChange::Changed)
}

/// Who has the controller open through VFIO: by its group, or by its own node.
fn vfio_user(root: &SystemRoot, controller: &FoundController) -> Option<String> {
    let own = names_in(&root.pci_device(controller.address).join("vfio-dev")).into_iter();
    let nodes = own.map(|name| format!("vfio/devices/{name}"));
    let group = controller.group.as_ref().map(|group| format!("vfio/{}", group.number));
    if let Some(user) = nodes.chain(group.clone()).find_map(|node| user_of(root, &node)) {
        return Some(user);
    }
    // A process that cannot be seen from here, as from a container: VFIO opens a group only once.
    let node = root.node(&group?);
    let opened = OpenOptions::new().read(true).write(true).open(node);
    let is_busy = opened.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY));
    is_busy.then(|| "a process that cannot be seen from here".to_owned())
}

/// A step of a change of drivers that failed.
struct Failure {
    /// The kernel's code, if it gave one.
    code: Option<i32>,
    why: String,
}

impl Failure {
    /// With what became of the controller.
    fn into_error(self, operation: &'static str, address: PciAddress, after: &str) -> Error {
        let error = match self.code {
            Some(code) => Error::os(code, operation),
            None => Error::new(ErrorKind::Os, operation),
        };
        error.at(address.to_string()).because(format!("{}; {after}", self.why))
    }
}

fn write(kernel: &dyn Kernel, attribute: &Path, text: &str) -> Result<(), Failure> {
    kernel.write(attribute, text).map_err(|error| {
        let advice = if error.kind() == io::ErrorKind::PermissionDenied { ": run as root" } else { "" };
        Failure {
            code: error.raw_os_error(),
            why: format!("writing to {} failed: {error}{advice}", attribute.display()),
        }
    })
}

fn driver_of(root: &SystemRoot, address: PciAddress) -> Option<String> {
    link_name(&root.pci_device(address).join("driver"))
}

/// Takes the controller from the driver that it has and gives it to `driver`, or to the one that it
/// had before if that fails.
fn hand_over(
    kernel: &dyn Kernel,
    root: &SystemRoot,
    controller: &FoundController,
    driver: &str,
    operation: &'static str,
) -> Result<()> {
    let address = controller.address;
    let only = root.pci_device(address).join("driver_override");
    let before = attribute(&only).filter(|text| text != "(null)").unwrap_or_default();
    let Err(failure) = try_hand_over(kernel, root, address, driver) else { return Ok(()) };
    // None of these steps can make it worse, so each is tried, and what came of them is looked at.
    let _ = kernel.write(&only, &format!("{before}\n"));
    let is_as_before = || driver_of(root, address) == controller.driver;
    if !is_as_before() && driver_of(root, address).is_some() {
        let _ = kernel.write(&root.pci_device(address).join("driver/unbind"), &address.to_string());
    }
    if !is_as_before() && controller.driver.is_some() {
        let _ = kernel.write(&root.path("sys/bus/pci/drivers_probe"), &address.to_string());
    }
    let name =
        |driver: Option<String>| driver.map_or("no driver".to_owned(), |name| format!("the driver {name}"));
    let had = name(controller.driver.clone());
    if is_as_before() {
        let error = failure.into_error(operation, address, &format!("it has {had}, as before"));
        return Err(error.outcome_is(Outcome::NotStarted));
    }
    let now = name(driver_of(root, address));
    let after = format!(
        "it had {had} and has {now} now, as going back failed too: try `boson device unbind {address}`, or \
         restart the machine"
    );
    Err(failure.into_error(operation, address, &after).outcome_is(Outcome::Unknown))
}

fn try_hand_over(
    kernel: &dyn Kernel,
    root: &SystemRoot,
    address: PciAddress,
    driver: &str,
) -> Result<(), Failure> {
    let device = root.pci_device(address);
    write(kernel, &device.join("driver_override"), &format!("{driver}\n"))?;
    if driver_of(root, address).is_some() {
        write(kernel, &device.join("driver/unbind"), &address.to_string())?;
    }
    write(kernel, &root.path("sys/bus/pci/drivers_probe"), &address.to_string())?;
    match driver_of(root, address) {
        Some(now) if now == driver => Ok(()),
        now => {
            let has = now.map_or("none has it".to_owned(), |now| format!("{now} has it"));
            let why =
                format!("the driver {driver} did not take it ({has}); the kernel's log (dmesg) says why");
            Err(Failure { code: None, why })
        }
    }
}
