//! SPDK: NVMe controllers and SPDK's own block devices, driven from this process without the
//! kernel.
//!
//! | address | what |
//! |---|---|
//! | `spdk:pcie/BDF/NSID` | a namespace of a controller on the bus, bound to `vfio-pci` |
//! | `spdk:tcp/IP:PORT/NQN/NSID` | a namespace of an NVMe over TCP target |
//! | `spdk:bdev/NAME` | a block device that SPDK's configuration makes ([`NamespaceConfig::spdk_config`]) |
//!
//! A controller is attached once per process. A thread of its own keeps it alive, resets it when it
//! is lost, and detaches it with the last handle. Every core has a queue pair, polled by its
//! scheduler: no thread, no lock and no copy between a task and the device, as far as the buffers
//! are from the core's arena.
//!
//! # A controller that is lost
//!
//! Commands that it had fail with outcome `Unknown`; new ones wait while it is reset. If it does
//! not come back they are refused, and boson goes on trying, with pauses of up to eight seconds. A
//! command that merely failed (a bad block, say) loses nothing but itself.
//!
//! # An idle core
//!
//! While nothing is with the device the core sleeps up to 100 ms at a time (with a block device of
//! SPDK 2 to 20 ms, for its messages and timers). With commands under way a controller on the bus
//! wakes it by an interrupt, if the core that opened it is one that sleeps
//! ([`Idle`](crate::rt::Idle)): with interrupts SPDK rings a doorbell for each command, and cannot
//! mask them while a core polls. Without them the core spins at first and naps later, as for packet
//! devices without an interrupt.
//!
//! `docs/spdk.md` says how to get SPDK.

mod attach;
mod bdev;
mod control;
mod controller;
mod description;
mod env;
mod gate;
mod managed;
mod port;
mod queue_pair;
mod reach;
mod requests;
mod status;

use std::fmt;
use std::fs;
use std::sync::Arc;

use super::queue::QueueNamespace;
use super::{Device, NamespaceConfig, NamespaceInfo, SpdkAddress, namespace_by_its_field};
use crate::eal::{Eal, EalConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::rt;
use attach::ControllerAddress;
use bdev::Bdev;
use bdev::channel::Channel;
use control::{Control, Request};
use controller::Controller;
use description::Description;
use env::Env;
use port::SpdkPort;
use queue_pair::QueuePair;

/// DPDK's memory, in MiB, for controllers, and for SPDK's block devices with their buffers.
const CONTROLLER_MEMORY_MIB: u64 = 128;
const BDEV_MEMORY_MIB: u64 = 512;

/// The longest transfer that boson makes of SPDK's devices that have no limit.
const MAX_TRANSFER_BYTES: u32 = 1 << 20;

/// SPDK's release, such as `SPDK v26.09`.
pub fn version() -> String {
    env::version()
}

/// What DPDK must be started with for `address`. A program that uses DPDK's ports too starts it
/// with the devices of both ([`EalConfig::pci_devices`]) before it opens either.
pub fn eal_config(address: &SpdkAddress, config: &NamespaceConfig) -> EalConfig {
    let (device, mib) = match address {
        SpdkAddress::Pcie { address, .. } => (Some(address.clone()), CONTROLLER_MEMORY_MIB),
        SpdkAddress::Tcp { .. } => (None, CONTROLLER_MEMORY_MIB),
        SpdkAddress::Bdev { .. } => (None, BDEV_MEMORY_MIB),
    };
    EalConfig::default().pci_devices(device).arguments(&config.eal_arguments).memory_mib(mib)
}

/// A device of SPDK, opened once per process. Cheap to clone.
#[derive(Clone)]
pub struct SpdkDevice(Arc<Opened>);

struct Opened {
    info: NamespaceInfo,
    kind: Kind,
}

enum Kind {
    Controller { controller: Arc<Controller>, nsid: u32, description: Box<Description> },
    Bdev(Arc<Bdev>),
}

impl SpdkDevice {
    /// Opens what `address` names. The first one starts DPDK, if it does not run, and SPDK.
    ///
    /// # Errors
    ///
    /// - [`NotFound`](ErrorKind::NotFound): no such controller, namespace or device, with what
    ///   there is instead.
    /// - [`InvalidInput`](ErrorKind::InvalidInput): SPDK refuses the configuration, with its
    ///   reason.
    /// - [`Unsupported`](ErrorKind::Unsupported): DPDK or SPDK does not start, or blocks carry
    ///   metadata.
    /// - [`InUse`](ErrorKind::InUse): DPDK or SPDK runs with other settings, or somebody claimed
    ///   the device.
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub async fn open(address: &SpdkAddress, config: &NamespaceConfig) -> Result<Self> {
        let (address, config) = (address.clone(), config.clone());
        let wakes = !rt::never_sleeps();
        let opening = rt::offload("open spdk device", move || Self::open_blocking(&address, &config, wakes));
        opening.await.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Closed, "open namespace").because(error.to_string()))
        })
    }

    fn open_blocking(address: &SpdkAddress, config: &NamespaceConfig, wakes: bool) -> Result<Self> {
        let env = Env::start(Eal::init(&eal_config(address, config))?)?;
        let opened = match address {
            SpdkAddress::Pcie { address: pci, nsid, fua } => {
                Opened::controller(env, ControllerAddress::pci(pci), wakes, *nsid, address)
                    .map(|opened| opened.with_fua(*fua))
            }
            SpdkAddress::Tcp { address: target, nqn, nsid, fua } => {
                Opened::controller(env, ControllerAddress::tcp(*target, nqn), wakes, *nsid, address)
                    .map(|opened| opened.with_fua(*fua))
            }
            SpdkAddress::Bdev { name } => Opened::bdev(env, name, config, address),
        };
        Ok(Self(Arc::new(opened?)))
    }
}

impl Opened {
    /// Without forced writes unless `fua`.
    fn with_fua(mut self, fua: bool) -> Self {
        self.info.forced_unit_access &= fua;
        self
    }

    fn controller(
        env: Env,
        at: ControllerAddress,
        wakes: bool,
        nsid: u32,
        address: &SpdkAddress,
    ) -> Result<Self> {
        let controller = Control::ask(|reply| Request::Attach { env, address: at, wakes, reply })?;
        let description = controller.describe(nsid)?;
        let namespace = &description.namespace;
        refuse_format(address, namespace.block_bytes, namespace.metadata_bytes)?;
        let bytes = |blocks: u32| blocks.saturating_mul(namespace.block_bytes);
        let mut info = NamespaceInfo::new(
            address.to_string(),
            namespace.blocks.saturating_mul(namespace.block_bytes.into()),
            namespace.block_bytes,
        );
        info.model = description.controller.model.clone();
        info.max_transfer_bytes = namespace.max_transfer_bytes;
        info.optimal_boundary_bytes = bytes(namespace.boundary_blocks);
        let (atomic, boundary) = description.atomic_blocks();
        info.atomic_write_bytes = bytes(atomic);
        info.atomic_boundary_bytes = bytes(boundary);
        info.volatile_cache = description.controller.volatile_cache && namespace.flush;
        info.forced_unit_access = true;
        info.trim = namespace.trim;
        info.write_zeroes = namespace.write_zeroes;
        if namespace.compare_and_write {
            info.max_compare_and_write_bytes = namespace.block_bytes;
        }
        info.read_only = description.identity.write_protected;
        Ok(Self { info, kind: Kind::Controller { controller, nsid, description: Box::new(description) } })
    }

    fn bdev(env: Env, name: &str, config: &NamespaceConfig, address: &SpdkAddress) -> Result<Self> {
        let failed =
            |kind, why: String| Error::new(kind, "open namespace").at(address.to_string()).because(why);
        let path = config.spdk_config.clone().ok_or_else(|| {
            let why = "SPDK's block devices are made by its configuration: name the file with --spdk-config";
            failed(ErrorKind::InvalidInput, why.to_owned())
        })?;
        let json = fs::read(&path).map_err(|error| {
            failed(ErrorKind::NotFound, format!("SPDK's configuration {}: {error}", path.display()))
        })?;
        let bdev = Bdev::open(env, bdev::Config { path, json }, name)?;
        let description = bdev.description();
        refuse_format(address, description.block_bytes, description.metadata_bytes)?;
        if description.zoned {
            return Err(failed(
                ErrorKind::Unsupported,
                "boson does not write zones in their order".to_owned(),
            ));
        }
        let bytes = |blocks: u32| blocks.saturating_mul(description.block_bytes);
        let mut info = NamespaceInfo::new(
            address.to_string(),
            description.blocks.saturating_mul(description.block_bytes.into()),
            description.block_bytes,
        );
        info.max_transfer_bytes = MAX_TRANSFER_BYTES;
        info.optimal_boundary_bytes = bytes(description.boundary_blocks);
        info.volatile_cache = description.write_cache && description.flush;
        info.trim = description.trim;
        info.write_zeroes = description.write_zeroes;
        if description.compare_and_write {
            info.max_compare_and_write_bytes = bytes(description.atomic_blocks.max(1));
        }
        info.read_only = !description.writes;
        Ok(Self { info, kind: Kind::Bdev(bdev) })
    }
}

/// Refuses blocks that carry metadata, or whose size boson does not use.
fn refuse_format(address: &SpdkAddress, block_bytes: u32, metadata_bytes: u32) -> Result<()> {
    let why = if metadata_bytes > 0 {
        format!("its blocks carry {metadata_bytes} bytes of metadata: format it without")
    } else if block_bytes.is_power_of_two() && (512..=65536).contains(&block_bytes) {
        return Ok(());
    } else {
        format!("its blocks have {block_bytes} bytes: format it with 512 or 4096")
    };
    Err(Error::new(ErrorKind::Unsupported, "open namespace").at(address.to_string()).because(why))
}

impl Device for SpdkDevice {
    type Namespace = SpdkNamespace;

    fn info(&self) -> &NamespaceInfo {
        &self.0.info
    }

    async fn attach(&self) -> Result<SpdkNamespace> {
        let port = match &self.0.kind {
            Kind::Controller { controller, nsid, description } => {
                SpdkPort::QueuePair(QueuePair::attach(Arc::clone(controller), *nsid, description)?)
            }
            Kind::Bdev(bdev) => SpdkPort::Channel(Channel::attach(Arc::clone(bdev))?),
        };
        Ok(SpdkNamespace(QueueNamespace::attach(port, self.0.info.clone())))
    }
}

impl fmt::Debug for SpdkDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpdkDevice").field("info", &self.0.info).finish_non_exhaustive()
    }
}

/// What a core has of a [`SpdkDevice`]: a queue pair or a channel, which the core polls.
#[derive(Clone, Debug)]
pub struct SpdkNamespace(QueueNamespace<SpdkPort>);

namespace_by_its_field!(SpdkNamespace, 0);
