//! `boson device`: the NVMe controllers of this machine, and which driver has them.

mod info;
mod list;
mod words;

use std::io::Write;
use std::path::PathBuf;

use boson::Result;
use boson::block::pci::{self, DriverChange, PciAddress, SystemRoot};
use clap::{Args, Subcommand};

#[derive(Args, Debug)]
pub(crate) struct DeviceOptions {
    /// The directory with `sys`, `proc` and `dev`; for tests.
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
    #[command(subcommand)]
    command: DeviceCommand,
}

#[derive(Debug, Subcommand)]
enum DeviceCommand {
    /// Show every NVMe controller and namespace: its driver, what is on it and what uses it.
    List {
        /// Print one JSON object per controller instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Show what a controller says of itself and its namespaces, and its health.
    Info {
        /// A PCI address, or a device such as /dev/nvme0, /dev/nvme0n1 or /dev/ng0n1.
        #[arg(value_name = "DEVICE")]
        device: String,
    },
    /// Take a controller from the kernel's nvme driver and hand it to vfio-pci, until `unbind` or
    /// a restart of the machine.
    Bind {
        /// The controller's PCI address.
        #[arg(value_name = "ADDRESS")]
        address: PciAddress,
        /// Take it even if a namespace is mounted, partitioned or otherwise in use.
        #[arg(long)]
        force: bool,
    },
    /// Give a controller back to the kernel's nvme driver.
    Unbind {
        /// The controller's PCI address.
        #[arg(value_name = "ADDRESS")]
        address: PciAddress,
    },
}

pub(crate) fn run(options: &DeviceOptions) -> Result<()> {
    let root = SystemRoot::at(&options.root);
    let text = match &options.command {
        DeviceCommand::List { json } => list::print(&root, *json),
        DeviceCommand::Info { device } => info::print(&root, device)?,
        DeviceCommand::Bind { address, force } => match pci::bind_to_vfio(&root, *address, *force)? {
            DriverChange::Changed => {
                format!("vfio-pci has {address} now; `boson device unbind {address}` gives it back\n")
            }
            DriverChange::AlreadyThere => format!("vfio-pci has {address} already\n"),
        },
        DeviceCommand::Unbind { address } => match pci::give_back(&root, *address)? {
            DriverChange::Changed => format!("the kernel's nvme driver has {address} again\n"),
            DriverChange::AlreadyThere => format!("the kernel's nvme driver has {address} already\n"),
        },
    };
    // A reader that went away (`| head`) is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}
