//! The userspace TCP/IP stack: connections of one core over one queue pair of a [`PacketDevice`].
//!
//! The TCP state machine is smoltcp's. Around it stands what smoltcp leaves to its user:
//!
//! - **Lookup.** Every connection has a socket set of its own, found by a keyed hash of its
//!   4-tuple; a frame touches the connection it belongs to and no other. What a connection costs
//!   does not depend on how many there are.
//! - **Listening.** A SYN to a listening port makes a connection, bounded by the listener's backlog
//!   and by [`StackConfig::max_connections`]; a SYN past either takes the place of a handshake that
//!   got no answer for a second, or is dropped and counted, and the peer tries again.
//! - **Ethernet.** ARP and neighbor discovery belong to this module, so that a packet to a neighbor
//!   not yet known waits for the answer and not for a timer.
//! - **TIME-WAIT** holds a tuple and two numbers for 30 s, not a socket.
//! - **Numbers.** Initial sequence numbers and ports come from keyed hashes (RFC 6528, RFC 6056).
//!
//! It is not a router, does not reassemble fragments, does not act on ICMP errors (a path with a
//! smaller MTU than the device's needs [`DeviceInfo::mtu`](crate::net::device::DeviceInfo::mtu) set
//! to it), and does not check its addresses for duplicates.
//!
//! Time comes in through [`Poller::poll`], randomness through [`StackConfig::seed`]. Nothing here
//! reads a clock.

mod config;
mod connection;
mod connections;
mod engine;
mod flow;
mod frame;
mod listener;
mod neighbor;
mod outbox;
mod resolution;
mod socket;
mod stats;
mod stream;
mod tcp_answer;
mod time_wait;
mod timers;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::task::Waker;

use tracing::error;

pub use config::StackConfig;
pub use listener::StackListener;
pub use stats::StackStats;
pub use stream::StackStream;

use self::engine::Engine;
use super::device::{DeviceInfo, DeviceStats, PacketDevice};
use crate::error::Result;
use crate::rt::Instant;
use crate::rt::poller::{Park, Poller};
use crate::user_code::{contain, wake_all};

/// A handle to a stack; cheap to clone. Not `Send`: a stack belongs to one core.
///
/// Nothing moves unless its [`Stack::poller`] is polled.
#[derive(Clone)]
pub struct Stack(Rc<RefCell<EngineOnDevice>>);

/// How many frames go between two flushes of the device in the last turn.
const LAST_BUDGET: usize = 64;

struct EngineOnDevice {
    device: Box<dyn PacketDevice>,
    engine: Engine,
    /// Whether the device reported that it will not work again.
    device_failed: bool,
    /// The right to open the device, if that needs one. After the device, which ends first.
    right: Option<Box<dyn Any>>,
}

impl Stack {
    /// A stack on `device`. `now` is the current time of the clock whose readings the poller will
    /// be given.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if `config` contradicts itself or the
    /// device, or if it has no seed: see the methods of [`StackConfig`].
    pub fn new(device: Box<dyn PacketDevice>, config: StackConfig, now: Instant) -> Result<Self> {
        let engine = Engine::new(config, device.info(), now)?;
        Ok(Self(Rc::new(RefCell::new(EngineOnDevice { device, engine, device_failed: false, right: None }))))
    }

    /// Keeps `right` until the device is closed.
    pub(crate) fn keep_right(&self, right: impl Any) {
        self.0.borrow_mut().right = Some(Box::new(right));
    }

    /// What moves the stack: a core must poll it. Make one.
    pub fn poller(&self) -> StackPoller {
        StackPoller { stack: self.clone(), wakes: Vec::new() }
    }

    /// Counters and current sizes.
    pub fn stats(&self) -> StackStats {
        self.0.borrow().engine.stats()
    }

    /// The device's counters.
    pub fn device_stats(&self) -> DeviceStats {
        self.0.borrow().device.stats()
    }

    /// The device's description.
    pub fn device_info(&self) -> DeviceInfo {
        self.0.borrow().device.info().clone()
    }

    /// Calls `f` with the engine, then wakes whom `f` made ready, when the engine is no longer
    /// borrowed.
    fn with<R>(&self, f: impl FnOnce(&mut Engine) -> R) -> R {
        let (result, wakes) = {
            let mut core = self.0.borrow_mut();
            let result = f(&mut core.engine);
            let wakes = &mut core.engine.wakes;
            // Most calls wake nobody; the list then keeps its memory for the next poll.
            (result, if wakes.is_empty() { Vec::new() } else { std::mem::take(wakes) })
        };
        if !wakes.is_empty() {
            wake_all(wakes);
        }
        result
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack").finish_non_exhaustive()
    }
}

/// Moves a [`Stack`]: receives a burst, runs timers, lets connections send.
///
/// When it is dropped, with its core, nobody moves the stack any more. So then every connection is
/// closed, and what was written is sent as far as the windows and the device's queue go, once:
/// peers see the end of the stream and need not find out by silence. To be sure that all arrives,
/// shut the streams down and read to their ends before.
pub struct StackPoller {
    stack: Stack,
    /// Kept between polls so that waking allocates nothing.
    wakes: Vec<Waker>,
}

impl fmt::Debug for StackPoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackPoller").finish_non_exhaustive()
    }
}

impl Poller for StackPoller {
    fn name(&self) -> &'static str {
        "tcp stack"
    }

    fn poll(&mut self, now: Instant, budget: usize) -> usize {
        let handled = {
            let mut core = self.stack.0.borrow_mut();
            let handled = core.turn(now, budget);
            std::mem::swap(&mut core.engine.wakes, &mut self.wakes);
            handled
        };
        wake_all(self.wakes.drain(..));
        handled
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.stack.0.borrow().engine.next_deadline()
    }

    fn park(&mut self) -> Park {
        let mut core = self.stack.0.borrow_mut();
        if core.device_failed {
            Park::Idle
        } else if core.engine.has_work() {
            Park::Spin
        } else {
            core.device.park()
        }
    }
}

impl Drop for StackPoller {
    fn drop(&mut self) {
        // It is borrowed if its own device panicked.
        let Ok(mut core) = self.stack.0.try_borrow_mut() else { return };
        core.end();
        let wakes = std::mem::take(&mut core.engine.wakes);
        drop(core);
        // A waker may be the last to hold its task, and the task a stream.
        drop(wakes);
    }
}

impl EngineOnDevice {
    /// The last turn.
    fn end(&mut self) {
        let Self { device, engine, device_failed, .. } = self;
        if *device_failed {
            return;
        }
        engine.close_all();
        engine.drain(&mut **device);
        let mut sent = 1;
        while sent > 0 {
            sent = engine.egress(&mut **device, LAST_BUDGET);
            device.flush();
        }
    }

    fn turn(&mut self, now: Instant, budget: usize) -> usize {
        let Self { device, engine, device_failed, .. } = self;
        engine.begin(now);
        if *device_failed {
            return 0;
        }
        let mut handled = engine.drain(&mut **device);
        match device.receive(budget, &mut |frame| engine.ingress(frame)) {
            Ok(received) => handled += received,
            Err(cause) => {
                contain(|| error!("the network device failed, every connection on it ends: {cause}"));
                *device_failed = true;
                engine.device_failed(&cause);
                return 0;
            }
        }
        handled += engine.run_timers(budget);
        handled += engine.drain(&mut **device);
        handled += engine.egress(&mut **device, budget);
        device.flush();
        handled.min(budget)
    }
}
