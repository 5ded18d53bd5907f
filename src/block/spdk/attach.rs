//! Attaching a controller, without blocking the control thread.

use std::ffi::{CString, c_int};
use std::net::SocketAddr;
use std::num::NonZero;
use std::ptr::{self, NonNull};
use std::thread;
use std::time::Duration;

use boson_spdk_sys as sys;

use super::controller::{ADMIN_TIMEOUT_MS, ControllerState, Keeper};
use super::env::{Env, capture, words};
use crate::error::{Error, ErrorKind, Result};
use crate::time::Instant;

/// How long a controller may take to become ready.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(60);

/// The entries of a queue pair, and the requests that SPDK has for them: one more for each command
/// that it divides.
pub(super) const QUEUE_ENTRIES: u32 = 256;
pub(super) const REQUESTS: u32 = 4 * QUEUE_ENTRIES;

/// The most queue pairs that a controller is asked for.
const IO_QUEUES: u32 = 1024;

/// The same with interrupts. Each queue pair takes one, with a file descriptor and one of the
/// machine's vectors, so boson asks for two per processor within these limits.
const FEWEST_WITH_INTERRUPTS: usize = 16;
const MOST_WITH_INTERRUPTS: usize = 256;

fn io_queues(interrupts: bool) -> u32 {
    if !interrupts {
        return IO_QUEUES;
    }
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let queues = (2 * processors).clamp(FEWEST_WITH_INTERRUPTS, MOST_WITH_INTERRUPTS);
    u32::try_from(queues).unwrap_or(IO_QUEUES)
}

const KEEP_ALIVE_MS: u32 = 10_000;
const CONNECT_TIMEOUT_MS: u32 = 10_000;

/// Where a controller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ControllerAddress {
    name: String,
    transport: String,
    is_pci: bool,
}

impl ControllerAddress {
    pub(super) fn pci(address: &str) -> Self {
        Self {
            name: format!("spdk:pcie/{address}"),
            transport: format!("trtype:PCIe traddr:{address}"),
            is_pci: true,
        }
    }

    pub(super) fn tcp(address: SocketAddr, nqn: &str) -> Self {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let (ip, port) = (address.ip(), address.port());
        Self {
            name: format!("spdk:tcp/{address}/{nqn}"),
            transport: format!("trtype:TCP adrfam:{family} traddr:{ip} trsvcid:{port} subnqn:{nqn}"),
            is_pci: false,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// How far an attempt is.
pub(super) enum Progress {
    UnderWay,
    /// It takes too long for whoever asked. It is to be polled on: SPDK ends it by itself.
    Late(Error),
    Ended(Result<ControllerState>),
}

/// A controller that is being attached.
pub(super) struct Attaching {
    env: Env,
    address: ControllerAddress,
    keeper: &'static dyn Keeper,
    /// It is asked for interrupts.
    interrupts: bool,
    /// SPDK's attempt, once it was started, and since when.
    attempt: Option<(NonNull<sys::boson_spdk_attach>, Instant)>,
    /// The first error that SPDK logged.
    reason: String,
    is_late: bool,
}

impl Attaching {
    /// One that is to wake cores that sleep, where it can: SPDK's TCP transport has nothing to wait
    /// for.
    pub(super) fn new(
        env: Env,
        address: ControllerAddress,
        wakes: bool,
        keeper: &'static dyn Keeper,
    ) -> Self {
        let interrupts = wakes && address.is_pci;
        Self { env, address, keeper, interrupts, attempt: None, reason: String::new(), is_late: false }
    }

    pub(super) fn name(&self) -> &str {
        &self.address.name
    }

    /// Whether SPDK has it.
    pub(super) fn has_begun(&self) -> bool {
        self.attempt.is_some()
    }

    /// Goes on.
    pub(super) fn poll(&mut self, now: Instant) -> Progress {
        let Some((attempt, since)) = self.attempt else { return self.start(now) };
        let mut controller = ptr::null_mut();
        let (code, reason) = capture(|| {
            // SAFETY: `attempt` is an attempt that has not ended: one that has is not polled again.
            // This is the control thread, on which all attaching happens.
            unsafe { sys::boson_spdk_attach_poll(attempt.as_ptr(), &raw mut controller) }
        });
        if self.reason.is_empty() {
            self.reason = reason;
        }
        if code == -libc::EAGAIN {
            if !self.is_late && now.saturating_since(since) > ATTACH_TIMEOUT {
                self.is_late = true;
                return Progress::Late(self.error(ErrorKind::TimedOut, code));
            }
            return Progress::UnderWay;
        }
        let Some(controller) = NonNull::new(controller) else {
            return Progress::Ended(Err(self.error(ErrorKind::NotFound, code)));
        };
        // SAFETY: the controller is attached.
        let has_interrupts = unsafe { sys::boson_spdk_has_interrupts(controller.as_ptr()) };
        if self.interrupts && !has_interrupts {
            tracing::info!("{}: SPDK cannot enable its interrupts ({})", self.address.name, self.reason);
        }
        Progress::Ended(Ok(ControllerState::new(
            controller,
            self.env,
            self.keeper,
            self.address.name.clone(),
            self.address.is_pci,
            // One without interrupts has more from its first reset on.
            io_queues(has_interrupts),
        )))
    }

    fn start(&mut self, now: Instant) -> Progress {
        let Ok(transport) = CString::new(self.address.transport.as_str()) else {
            return Progress::Ended(Err(self.error(ErrorKind::InvalidInput, -libc::EINVAL)));
        };
        let options = sys::boson_spdk_attach_options {
            io_queues: io_queues(self.interrupts),
            queue_entries: QUEUE_ENTRIES,
            requests: REQUESTS,
            keep_alive_ms: KEEP_ALIVE_MS,
            connect_timeout_ms: CONNECT_TIMEOUT_MS,
            admin_timeout_ms: ADMIN_TIMEOUT_MS,
            interrupts: self.interrupts,
        };
        let mut code = 0;
        let (attempt, reason) = capture(|| {
            // SAFETY: the environment runs, as `env` proves; `transport` ends with NUL; SPDK copies
            // it and the options; `code` is a place for a number. This is the control thread.
            unsafe { sys::boson_spdk_attach_start(transport.as_ptr(), &raw const options, &raw mut code) }
        });
        self.reason = reason;
        match NonNull::new(attempt) {
            Some(attempt) => {
                self.attempt = Some((attempt, now));
                Progress::UnderWay
            }
            None => Progress::Ended(Err(self.error(ErrorKind::NotFound, code))),
        }
    }

    fn error(&mut self, kind: ErrorKind, code: c_int) -> Error {
        let reason = words(code, std::mem::take(&mut self.reason));
        let help = if self.address.is_pci {
            "is there such a controller, bound to vfio-pci, and named to DPDK when it started?"
        } else {
            "does the target listen there, and have that subsystem?"
        };
        Error::new(kind, "attach NVMe controller")
            .at(self.address.name.clone())
            .because(format!("SPDK cannot attach it ({reason}); {help}"))
    }
}
