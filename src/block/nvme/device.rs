//! `nvme:BDF/NSID`: a namespace of a controller that this process drives.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use super::super::namespace_by_its_field;
use super::super::queue::QueueNamespace;
use super::super::{Device, NamespaceInfo};
use super::bus::{Bus, VfioBus};
use super::control::Control;
#[cfg(test)]
use super::controller::{Phase, ResetCause};
use super::creation::Creation;
use super::identify::{ControllerIdentity, NamespaceIdentity};
use super::io::Attachment;
use super::model::Model;
use super::port::NvmePort;
use super::queue_pair::QueuePair;
use super::retirement::KnownQueues;
use crate::error::{Error, ErrorKind, Result};
use crate::rt;
use crate::sync::Mutex as Gate;

/// How many commands a core may have with the controller: one less than its queues have entries.
const QUEUE_ENTRIES: u16 = 256;
/// How many queue pairs a controller is asked for. It grants fewer, if it has fewer.
const QUEUE_PAIRS: u16 = 128;
/// The interrupts that are switched on: one for the admin queues, one for each queue pair.
const VECTORS: u32 = QUEUE_PAIRS as u32 + 1;

/// A namespace of an NVMe controller that this process drives, without the kernel, over VFIO. Each
/// core that attaches gets a queue pair of its own.
///
/// The controller belongs to this process while any of its namespaces is open or attached to; it is
/// shut down in an orderly way when the last is dropped, which takes some milliseconds. One that
/// hangs is given up after some 3 s, in which the thread that drops it waits.
#[derive(Clone)]
pub struct NvmeDevice(Arc<Opened<VfioBus>>);

/// A namespace of a controller on some bus.
pub(super) struct Opened<B: Bus> {
    control: Arc<Control<B>>,
    info: NamespaceInfo,
    namespace: NamespaceIdentity,
    controller: ControllerIdentity,
}

/// The controllers of the process on one kind of bus, by what tells them apart, as long as anything
/// is left of them.
struct Controllers<K, B: Bus>(Mutex<BTreeMap<K, Weak<Control<B>>>>);

impl<K: Ord, B: Bus> Controllers<K, B> {
    const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, Weak<Control<B>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: &K) -> Option<Arc<Control<B>>> {
        self.lock().get(key).and_then(Weak::upgrade)
    }

    fn add(&self, key: K, control: Control<B>) -> Arc<Control<B>> {
        let control = Arc::new(control);
        let mut all = self.lock();
        all.retain(|_, known| known.strong_count() > 0);
        all.insert(key, Arc::downgrade(&control));
        control
    }
}

impl NvmeDevice {
    /// Opens namespace `number` of the controller at the PCI address `address`, such as
    /// `0000:04:00.0`, which the kernel's driver `vfio-pci` has (`boson device bind`).
    ///
    /// # Errors
    ///
    /// One sentence with the command that helps: as for
    /// [`vfio::Device::open`](super::super::vfio::Device::open),
    /// [`NotFound`](ErrorKind::NotFound) if there is no such namespace,
    /// [`Unsupported`](ErrorKind::Unsupported) if its format has metadata, or what the controller
    /// says when it does not come up.
    pub async fn open(address: &str, number: u32) -> Result<Self> {
        Self::open_with(address, number, true).await
    }

    /// The same, without forced writes unless `fua`.
    pub(in super::super) async fn open_with(address: &str, number: u32, fua: bool) -> Result<Self> {
        static OPENING: LazyLock<Gate<()>> = LazyLock::new(|| Gate::new(()));
        static CONTROLLERS: Controllers<String, VfioBus> = Controllers::new();
        // Two cores that open it at the same time must not both find that nobody has.
        let _gate = OPENING.lock().await;
        let address = address.to_owned();
        let control = match CONTROLLERS.find(&address) {
            Some(control) => control,
            None => {
                let of = address.clone();
                let bus = rt::offload("open an NVMe controller", move || VfioBus::open(&of, VECTORS))
                    .await
                    .map_err(|error| Error::new(ErrorKind::Cancelled, "open").because(error.to_string()))??;
                let control = Control::open(bus, format!("nvme:{address}"), QUEUE_PAIRS).await?;
                CONTROLLERS.add(address, control)
            }
        };
        Ok(Self(Arc::new(Opened::of(control, number).await?.with_fua(fua))))
    }
}

impl<B: Bus> Opened<B> {
    pub(super) async fn of(control: Arc<Control<B>>, number: u32) -> Result<Self> {
        let name = format!("{}/{number}", control.name());
        let refused = |kind, why: String| Error::new(kind, "open").at(name.clone()).because(why);
        // Not what it said when it came up: that may be long ago.
        let found = if (1..u32::MAX).contains(&number) { control.identify(number).await } else { Ok(None) };
        let state = control.lock();
        let all: Vec<_> = state.controller.namespaces().iter().map(|one| one.number.to_string()).collect();
        let identity = state.controller.identity().cloned();
        let (volatile_cache, page_shift) = (state.controller.volatile_cache(), state.controller.page_shift());
        let is_known = all.contains(&number.to_string());
        drop(state);
        let found = match found {
            // Controllers refuse numbers past their last in different words.
            Err(error) if is_known || error.kind() == ErrorKind::Closed => return Err(error),
            Err(_) => None,
            Ok(found) => found,
        };
        let namespace = found.ok_or_else(|| {
            let has =
                if all.is_empty() { "it has none".to_owned() } else { format!("it has {}", all.join(", ")) };
            refused(ErrorKind::NotFound, format!("there is no active namespace {number}: {has}"))
        })?;
        let namespace = *namespace;
        let controller =
            identity.ok_or_else(|| refused(ErrorKind::Closed, "the controller is being reset".to_owned()))?;
        namespace.check_format().map_err(|error| error.at(name.clone()))?;
        let info = describe(name, &controller, &namespace, volatile_cache, page_shift);
        Ok(Self { control, info, namespace, controller })
    }

    /// Without forced writes unless `fua`.
    pub(super) fn with_fua(mut self, fua: bool) -> Self {
        self.info.forced_unit_access &= fua;
        self
    }

    pub(super) async fn attach(&self) -> Result<QueueNamespace<NvmePort<B>>> {
        let control = &self.control;
        let changes = control.lock().changes;
        let size_bytes = self.namespace_size().await?;
        let (region, reached) = control.bus().reach(&rt::arena())?;
        let number = control.take_number().await?;
        let creation = match self.queue_pair(number) {
            Ok(mut pair) => {
                pair.regions_mut().insert(region);
                Creation::new(control, KnownQueues::new(control, pair, reached))
            }
            Err(error) => {
                control.give_number(number);
                return Err(error);
            }
        };
        let queues = creation.finish().await?;
        let resized = (size_bytes != self.info.size_bytes).then_some(size_bytes);
        let port = NvmePort::new(queues, Arc::clone(control), changes, resized, rt::now());
        Ok(QueueNamespace::attach(port, self.info.clone()))
    }

    /// Opens a namespace of the same controller.
    #[cfg(test)]
    pub(super) async fn again(&self, number: u32) -> Result<Self> {
        Self::of(Arc::clone(&self.control), number).await
    }

    #[cfg(test)]
    pub(super) fn info(&self) -> &NamespaceInfo {
        &self.info
    }

    /// How often the controller has stopped; once before it came up.
    #[cfg(test)]
    pub(super) fn stops(&self) -> u32 {
        self.control.lock().stops
    }

    #[cfg(test)]
    pub(super) fn phase(&self) -> Phase {
        self.control.lock().controller.phase()
    }

    #[cfg(test)]
    pub(super) fn reset(&self) {
        let mut state = self.control.lock();
        let now = state.now();
        state.controller.reset(ResetCause::Requested, now);
    }

    /// The namespace's size now, in bytes.
    ///
    /// # Errors
    ///
    /// It is no longer what it was when it was opened.
    async fn namespace_size(&self) -> Result<u64> {
        let refused = |kind, why| Error::new(kind, "attach").at(self.info.name.clone()).because(why);
        let Some(found) = self.control.identify(self.namespace.number).await? else {
            let why = "the namespace is not active any more".to_owned();
            return Err(refused(ErrorKind::NotFound, why));
        };
        match found.misfit(self.namespace.block_shift) {
            Some(why) => Err(refused(ErrorKind::UnsupportedFormat, why)),
            None => Ok(found.size_bytes()),
        }
    }

    fn queue_pair(&self, number: u16) -> Result<QueuePair<B::Registers>> {
        let control = &self.control;
        let (capabilities, page_shift) = {
            let state = control.lock();
            (*state.controller.capabilities(), state.controller.page_shift())
        };
        let attachment = Attachment {
            name: self.info.name.clone(),
            namespace: self.namespace.number,
            block_shift: self.namespace.block_shift,
            fused: self.controller.fused_compare_and_write,
            page_shift,
            sgl_alignment: self.controller.sgl_alignment,
        };
        let entries = u16::try_from(capabilities.max_queue_entries).unwrap_or(u16::MAX).min(QUEUE_ENTRIES);
        // A queue without an interrupt of its own is polled while it has commands, which a core
        // that never sleeps does anyway.
        let vector = (!rt::never_sleeps() && control.bus().has_vector(number)).then_some(number);
        let (registers, memory) = (control.bus().registers(), control.bus());
        QueuePair::new(registers, &capabilities, memory, number, entries, vector, attachment)
    }
}

/// What the controller says about a namespace, in bytes.
fn describe(
    name: String,
    controller: &ControllerIdentity,
    namespace: &NamespaceIdentity,
    volatile_cache: bool,
    page_shift: u32,
) -> NamespaceInfo {
    let shift = namespace.block_shift;
    let bytes =
        |blocks: u32| u32::try_from(u64::from(blocks) << shift.min(16)).unwrap_or(u32::MAX >> 16 << 16);
    let most = controller.transfer_limit_bytes(page_shift);
    let atomic = namespace.atomic_blocks_power_fail.unwrap_or(controller.atomic_blocks_power_fail);
    let compared = namespace.atomic_blocks_compare.unwrap_or(controller.atomic_blocks_compare);
    NamespaceInfo {
        model: controller.model.clone(),
        max_transfer_bytes: (most >> shift << shift).max(1 << shift),
        optimal_boundary_bytes: namespace.optimal_boundary_blocks.map_or(0, |blocks| bytes(blocks.into())),
        // A boundary that does not begin at block 0 is none that a multiple can tell.
        atomic_write_bytes: if namespace.atomic_boundary_offset_blocks == 0 {
            bytes(atomic)
        } else {
            bytes(1)
        },
        atomic_boundary_bytes: namespace.atomic_boundary_blocks.map_or(0, bytes),
        volatile_cache,
        forced_unit_access: true,
        trim: controller.dataset_management,
        // Whatever deallocated blocks read as (DLFEAT): the controller need not deallocate what it
        // is asked to (NVM Command Set 3.2.3).
        zeros_after_trim: false,
        write_zeroes: controller.write_zeroes,
        max_compare_and_write_bytes: if controller.fused_compare_and_write {
            bytes(compared).min(most)
        } else {
            0
        },
        read_only: namespace.write_protected,
        ..NamespaceInfo::new(name, namespace.size_bytes(), 1 << shift)
    }
}

impl Device for NvmeDevice {
    type Namespace = NvmeNamespace;

    fn info(&self) -> &NamespaceInfo {
        &self.0.info
    }

    async fn attach(&self) -> Result<NvmeNamespace> {
        self.0.attach().await.map(NvmeNamespace)
    }
}

impl fmt::Debug for NvmeDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NvmeDevice").field("info", &self.0.info).finish_non_exhaustive()
    }
}

/// What a core has of an [`NvmeDevice`].
#[derive(Clone, Debug)]
pub struct NvmeNamespace(QueueNamespace<NvmePort<VfioBus>>);

namespace_by_its_field!(NvmeNamespace, 0);

/// A namespace of a [`Model`], driven by the same code as an [`NvmeDevice`]: for tests and
/// benchmarks.
#[derive(Clone)]
pub struct ModelledDevice(Arc<Opened<Model>>);

impl ModelledDevice {
    /// Brings `model` up and opens its namespace `number`.
    ///
    /// # Errors
    ///
    /// As for [`NvmeDevice::open`], as far as it is about the controller.
    pub async fn open(model: &Model, number: u32) -> Result<Self> {
        static CONTROLLERS: Controllers<usize, Model> = Controllers::new();
        // As that of a real controller, it may be there still, and have queues deleted.
        let control = match CONTROLLERS.find(&model.address()) {
            Some(control) => control,
            None => {
                let control = Control::open(model.clone(), "nvme:model".to_owned(), QUEUE_PAIRS).await?;
                CONTROLLERS.add(model.address(), control)
            }
        };
        Opened::of(control, number).await.map(|opened| Self(Arc::new(opened)))
    }
}

impl Device for ModelledDevice {
    type Namespace = ModelledNamespace;

    fn info(&self) -> &NamespaceInfo {
        &self.0.info
    }

    async fn attach(&self) -> Result<ModelledNamespace> {
        self.0.attach().await.map(ModelledNamespace)
    }
}

impl fmt::Debug for ModelledDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelledDevice").field("info", &self.0.info).finish_non_exhaustive()
    }
}

/// What a core has of a [`ModelledDevice`].
#[derive(Clone, Debug)]
pub struct ModelledNamespace(QueueNamespace<NvmePort<Model>>);

namespace_by_its_field!(ModelledNamespace, 0);
