//! SPDK's subsystems on its application thread: started with a configuration, ended in order.

use std::cell::Cell;
use std::ffi::{CString, c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Duration;

use boson_spdk_sys as sys;

use super::super::env::{Env, capture, words};
use super::thread::{self, SpdkThread};
use super::{Bdev, BdevState, Config, Request, names, new_state, on_event};
use crate::error::{Error, ErrorKind, Result};

/// The states in which SPDK runs what a configuration says.
const STARTUP: u32 = 1;
const RUNTIME: u32 = 2;

/// The pauses of threads that nothing happens on.
const SHORTEST_REST: Duration = Duration::from_millis(2);
const LONGEST_REST: Duration = Duration::from_millis(20);

/// How often the application thread is polled per turn while there is something.
const POLLS_PER_TURN: usize = 64;

/// | stage | what SPDK does | next |
/// |---|---|---|
/// | `Stopped` | nothing | `Options`, with the first device to open |
/// | `Options` | runs what the configuration says before the start | `Starting` |
/// | `Starting` | starts its subsystems | `Loading` |
/// | `Loading` | creates the devices | `Running`; `Stopping` after an error |
/// | `Running` | | `Stopping`, when the last device is closed |
/// | `Stopping` | ends its subsystems | `Stopped` |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Stopped,
    Options,
    Starting,
    Loading,
    Running,
    Stopping,
}

struct Opening {
    env: Env,
    config: Config,
    name: String,
    reply: Sender<Result<Arc<Bdev>>>,
}

pub(in super::super) struct Subsystem {
    stage: Stage,
    app: Option<SpdkThread>,
    /// Threads that SPDK created by itself.
    adopted: Vec<SpdkThread>,
    /// The result of what SPDK does, written by its callback.
    result: Box<Cell<Option<c_int>>>,
    config: Option<Config>,
    opening: Vec<Opening>,
    open: Vec<Arc<BdevState>>,
    closing: Vec<(Arc<BdevState>, Sender<()>)>,
    /// Those who wait until everything has ended.
    waiting: Vec<Sender<()>>,
    /// The first error that SPDK logged while it started.
    reason: String,
}

impl Subsystem {
    pub(in super::super) fn new() -> Self {
        Self {
            stage: Stage::Stopped,
            app: None,
            adopted: Vec::new(),
            result: Box::new(Cell::new(None)),
            config: None,
            opening: Vec::new(),
            open: Vec::new(),
            closing: Vec::new(),
            waiting: Vec::new(),
            reason: String::new(),
        }
    }

    pub(in super::super) fn is_running(&self) -> bool {
        self.stage != Stage::Stopped
    }

    pub(in super::super) fn is_busy(&self) -> bool {
        !self.closing.is_empty() || !matches!(self.stage, Stage::Stopped | Stage::Running)
    }

    /// How long the threads may be left alone while nothing is under way: messages of the cores,
    /// and timers, wait as long at most.
    pub(in super::super) fn rest(&self) -> Duration {
        let threads = self.app.iter().chain(&self.adopted);
        threads.map(|thread| thread.rest(SHORTEST_REST, LONGEST_REST)).min().unwrap_or(LONGEST_REST)
    }

    pub(in super::super) fn handle(&mut self, request: Request) {
        match request {
            Request::Open { env, config, name, reply } => {
                self.opening.push(Opening { env, config, name, reply });
            }
            Request::Close(state, reply) => self.closing.push((state, reply)),
        }
    }

    pub(in super::super) fn turn(&mut self) {
        if self.stage == Stage::Stopped {
            if self.opening.is_empty() {
                return;
            }
            self.start();
        }
        self.poll();
        match self.stage {
            Stage::Running => {
                self.close_devices();
                self.open_devices();
                if self.open.is_empty() && self.closing.is_empty() && self.opening.is_empty() {
                    self.stop();
                }
            }
            Stage::Options | Stage::Starting | Stage::Loading | Stage::Stopping => {
                if let Some(code) = self.result.take() {
                    self.next(code);
                }
            }
            Stage::Stopped => {}
        }
    }

    fn poll(&mut self) {
        self.adopted.extend(thread::take_adopted());
        let Some(app) = &self.app else { return };
        let adopted = &self.adopted;
        let ((), reason) = capture(|| {
            for _ in 0..POLLS_PER_TURN {
                let mut busy = app.poll();
                for thread in adopted {
                    busy |= thread.poll();
                }
                if !busy {
                    break;
                }
            }
        });
        if self.stage != Stage::Running {
            if self.reason.is_empty() {
                self.reason = reason;
            }
        } else if !reason.is_empty() {
            tracing::error!(target: "spdk", "{reason}");
        }
    }

    fn start(&mut self) {
        let Some(first) = self.opening.first() else { return };
        first.env.eal().register_thread();
        self.config = Some(first.config.clone());
        self.reason.clear();
        let started = thread::start_library()
            .and_then(|()| SpdkThread::create(c"boson app").inspect_err(|_| thread::end_library()));
        match started {
            Ok(app) => {
                self.app = Some(app);
                self.stage = Stage::Options;
                self.load(STARTUP);
            }
            Err(error) => self.refuse(&error.to_string()),
        }
    }

    /// Has SPDK run what the configuration says for one of its states.
    fn load(&mut self, state: u32) {
        let Some(app) = &self.app else { return };
        let json = self.config.as_ref().map_or(&[][..], |config| &config.json);
        app.enter();
        // SAFETY: this is the application thread.
        unsafe { sys::spdk_rpc_set_state(state) };
        let len = isize::try_from(json.len()).unwrap_or(isize::MAX);
        // SAFETY: SPDK copies the text before it returns; the callback gets a place that lives as
        // long as `self`, which outlives the application thread.
        unsafe {
            sys::spdk_subsystem_load_config(
                json.as_ptr().cast_mut().cast(),
                len,
                Some(on_result),
                self.context(),
                true,
            );
        }
        SpdkThread::leave();
    }

    fn context(&self) -> *mut c_void {
        ptr::from_ref(&*self.result).cast_mut().cast()
    }

    /// SPDK is done with what it did.
    fn next(&mut self, code: c_int) {
        match self.stage {
            Stage::Options | Stage::Starting | Stage::Loading if code != 0 => {
                let path = self.config.as_ref().map(|config| config.path.display().to_string());
                let reason = words(code, std::mem::take(&mut self.reason));
                self.refuse(&format!("{}: {reason}", path.unwrap_or_default()));
                self.stop();
            }
            Stage::Options => {
                self.stage = Stage::Starting;
                let Some(app) = &self.app else { return };
                app.enter();
                // SAFETY: this is the application thread; the context as in `load`.
                unsafe { sys::spdk_subsystem_init(Some(on_result), self.context()) };
                SpdkThread::leave();
            }
            Stage::Starting => {
                self.stage = Stage::Loading;
                self.load(RUNTIME);
            }
            Stage::Loading => {
                self.stage = Stage::Running;
                self.reason.clear();
            }
            Stage::Stopping => {
                self.adopted.clear();
                // Exits, which the thread library waits for.
                self.app = None;
                thread::end_library();
                self.config = None;
                self.stage = Stage::Stopped;
                for reply in self.waiting.drain(..) {
                    // Who waited may have stopped.
                    let _ = reply.send(());
                }
            }
            Stage::Stopped | Stage::Running => {}
        }
    }

    /// Ends the subsystems.
    fn stop(&mut self) {
        let Some(app) = &self.app else { return };
        self.stage = Stage::Stopping;
        app.enter();
        // SAFETY: this is the application thread, and every descriptor is closed; the context as in
        // `load`.
        unsafe { sys::spdk_subsystem_fini(Some(on_end), self.context()) };
        SpdkThread::leave();
    }

    /// Tells all who wait for a device that there is none.
    fn refuse(&mut self, why: &str) {
        for opening in self.opening.drain(..) {
            let error = Error::new(ErrorKind::InvalidInput, "start SPDK's block devices")
                .at(format!("spdk:bdev/{}", opening.name))
                .because(why.to_owned());
            let _ = opening.reply.send(Err(error));
        }
    }

    fn open_devices(&mut self) {
        for opening in std::mem::take(&mut self.opening) {
            let result = self.open(&opening);
            // Who asked may be gone; then the handle is dropped, which closes the device.
            let _ = opening.reply.send(result);
        }
    }

    fn open(&mut self, opening: &Opening) -> Result<Arc<Bdev>> {
        let failed = |kind, why: String| {
            Err(Error::new(kind, "open namespace").at(format!("spdk:bdev/{}", opening.name)).because(why))
        };
        if let Some(config) = &self.config
            && config.json != opening.config.json
        {
            return failed(
                ErrorKind::InUse,
                format!("SPDK runs with {}, and takes no second configuration", config.path.display()),
            );
        }
        let Ok(name) = CString::new(opening.name.as_str()) else {
            return failed(ErrorKind::InvalidInput, "a NUL byte cannot be part of a name".to_owned());
        };
        let Some(app) = &self.app else {
            return failed(ErrorKind::Closed, "SPDK's block devices have ended".to_owned());
        };
        let state = Arc::new(new_state(opening.env, &opening.name));
        app.enter();
        let open = |write| {
            let mut descriptor = ptr::null_mut();
            // SAFETY: this is the application thread; `name` ends with NUL; the state is kept in
            // `open` until the descriptor is closed; `descriptor` is a place for a pointer.
            let code = unsafe {
                sys::spdk_bdev_open_ext(
                    name.as_ptr(),
                    write,
                    Some(on_event),
                    Arc::as_ptr(&state).cast_mut().cast(),
                    &raw mut descriptor,
                )
            };
            (code, descriptor)
        };
        let ((code, descriptor, writes), reason) = capture(|| match open(true) {
            // Claimed by another module, or read-only: reading may still be allowed.
            (code, _) if code == -libc::EPERM || code == -libc::EACCES => {
                let (code, descriptor) = open(false);
                (code, descriptor, false)
            }
            (code, descriptor) => (code, descriptor, true),
        });
        SpdkThread::leave();
        match code {
            0 => {}
            code if code == -libc::ENODEV => {
                return failed(
                    ErrorKind::NotFound,
                    format!("the configuration makes no such device; there are: {}", names()),
                );
            }
            code => {
                return failed(ErrorKind::InUse, format!("SPDK does not open it: {}", words(code, reason)));
            }
        }
        state.descriptor.store(descriptor, Ordering::Release);
        let bdev = Bdev::new(Arc::clone(&state), writes);
        state.blocks.store(bdev.description().blocks, Ordering::Release);
        self.open.push(state);
        Ok(Arc::new(bdev))
    }

    fn close_devices(&mut self) {
        let Some(app) = &self.app else { return };
        for (state, reply) in std::mem::take(&mut self.closing) {
            if state.channels.load(Ordering::Acquire) > 0 {
                self.closing.push((state, reply));
                continue;
            }
            app.enter();
            // SAFETY: this is the application thread, the descriptor is open, and no channel is
            // left.
            unsafe { sys::spdk_bdev_close(state.descriptor()) };
            SpdkThread::leave();
            self.open.retain(|other| !Arc::ptr_eq(other, &state));
            if self.open.is_empty() {
                // The last one waits for the end of everything.
                self.waiting.push(reply);
            } else {
                let _ = reply.send(());
            }
        }
        if !self.open.is_empty() {
            for reply in self.waiting.drain(..) {
                let _ = reply.send(());
            }
        }
    }
}

/// SPDK is done with something.
unsafe extern "C" fn on_result(code: c_int, context: *mut c_void) {
    // SAFETY: the context is the cell of the `Subsystem`, which is on this thread.
    let result = unsafe { &*context.cast::<Cell<Option<c_int>>>() };
    result.set(Some(code));
}

unsafe extern "C" fn on_end(context: *mut c_void) {
    // SAFETY: as in `on_result`.
    let result = unsafe { &*context.cast::<Cell<Option<c_int>>>() };
    result.set(Some(0));
}
