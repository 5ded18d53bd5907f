//! SPDK's own block devices (`spdk:bdev/NAME`): local ones, remote ones, and what its modules build
//! on them.
//!
//! They need SPDK's threads, of which this process has one per core that uses such a device, polled
//! by that core, and the application thread, polled by the control thread. A configuration in
//! SPDK's JSON creates the devices; it is loaded when the first is opened. When the last is closed,
//! the subsystems end in order, so that what they keep on disk is clean.

pub(super) mod channel;
pub(super) mod subsystem;
mod thread;

use std::ffi::{CStr, c_void};
use std::path::PathBuf;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use boson_spdk_sys as sys;

use super::control::{self, Control};
use super::env::Env;
use crate::error::Result;

/// What the control thread is asked for.
pub(super) enum Request {
    /// Open a device, and load `config` before if none is loaded.
    Open { env: Env, config: Config, name: String, reply: Sender<Result<Arc<Bdev>>> },
    /// The last handle is gone.
    Close(Arc<BdevState>, Sender<()>),
}

/// A configuration of SPDK's subsystems.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) path: PathBuf,
    pub(super) json: Vec<u8>,
}

/// What the control thread and the channels of an open device share.
pub(super) struct BdevState {
    name: String,
    env: Env,
    /// SPDK's descriptor. Opened, closed and told of events on the application thread.
    descriptor: AtomicPtr<sys::spdk_bdev_desc>,
    /// The device was removed: channels are to be given back.
    removed: AtomicBool,
    channels: AtomicU32,
    /// The size in blocks, after SPDK's last word on it.
    blocks: AtomicU64,
}

impl BdevState {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn descriptor(&self) -> *mut sys::spdk_bdev_desc {
        self.descriptor.load(Ordering::Acquire)
    }

    fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    fn bdev(&self) -> *mut sys::spdk_bdev {
        // SAFETY: the descriptor is open as long as there are channels or handles, and one of them
        // calls this.
        unsafe { sys::spdk_bdev_desc_get_bdev(self.descriptor()) }
    }
}

/// An open device. The last handle closes it.
pub(super) struct Bdev {
    state: Arc<BdevState>,
    description: sys::boson_spdk_bdev,
}

impl Bdev {
    /// Opens the device `name`. Blocks until SPDK's subsystems have started.
    pub(super) fn open(env: Env, config: Config, name: &str) -> Result<Arc<Self>> {
        let name = name.to_owned();
        Control::ask(|reply| control::Request::Bdev(Request::Open { env, config, name, reply }))
    }

    /// Describes an open device; `writes` says whether it is open for writing too.
    fn new(state: Arc<BdevState>, writes: bool) -> Self {
        let mut description = sys::boson_spdk_bdev::default();
        // SAFETY: the descriptor is open; `description` is a place for the answer.
        unsafe { sys::boson_spdk_describe_bdev(state.bdev(), &raw mut description) };
        description.writes &= writes;
        Self { state, description }
    }

    pub(super) fn state(&self) -> &Arc<BdevState> {
        &self.state
    }

    pub(super) fn description(&self) -> &sys::boson_spdk_bdev {
        &self.description
    }
}

impl Drop for Bdev {
    fn drop(&mut self) {
        Control::finish(|reply| control::Request::Bdev(Request::Close(Arc::clone(&self.state), reply)));
    }
}

/// Something happened to an open device. SPDK calls this on the application thread.
unsafe extern "C" fn on_event(
    event: sys::spdk_bdev_event_type,
    bdev: *mut sys::spdk_bdev,
    context: *mut c_void,
) {
    // SAFETY: the context is the state, which the control thread keeps until the descriptor is
    // closed.
    let state = unsafe { &*context.cast::<BdevState>() };
    match event {
        sys::spdk_bdev_event_type_SPDK_BDEV_EVENT_REMOVE => state.removed.store(true, Ordering::Release),
        sys::spdk_bdev_event_type_SPDK_BDEV_EVENT_RESIZE => {
            let mut description = sys::boson_spdk_bdev::default();
            // SAFETY: SPDK names the device; `description` is a place for the answer.
            unsafe { sys::boson_spdk_describe_bdev(bdev, &raw mut description) };
            state.blocks.store(description.blocks, Ordering::Release);
        }
        _ => {}
    }
}

/// The names of the devices that there are. Only on the application thread.
fn names() -> String {
    let mut names = Vec::new();
    // SAFETY: the subsystem runs, and this is its application thread.
    let mut bdev = unsafe { sys::spdk_bdev_first() };
    while !bdev.is_null() && names.len() < 64 {
        // SAFETY: `bdev` is one of the list, which only this thread changes.
        let name = unsafe { sys::spdk_bdev_get_name(bdev) };
        // SAFETY: a device's name ends with NUL and lives as long as the device.
        names.push(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned());
        // SAFETY: as above.
        bdev = unsafe { sys::spdk_bdev_next(bdev) };
    }
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn new_state(env: Env, name: &str) -> BdevState {
    BdevState {
        name: name.to_owned(),
        env,
        descriptor: AtomicPtr::new(ptr::null_mut()),
        removed: AtomicBool::new(false),
        channels: AtomicU32::new(0),
        blocks: AtomicU64::new(0),
    }
}
