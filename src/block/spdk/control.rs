//! The control thread: it attaches controllers, keeps them alive, resets and detaches them, and
//! polls SPDK's application thread. One per process, started with the first device.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::attach::{Attaching, ControllerAddress, Progress};
use super::bdev::subsystem::Subsystem;
use super::controller::{Controller, ControllerState, Keeper};
use super::description::Description;
use super::env::Env;
use super::managed::Managed;
use crate::error::{Error, ErrorKind, Result};
use crate::time::{Clock, MonotonicClock};
use crate::user_code::contain;

/// How long the thread sleeps while nothing is under way: keep-alive, events of the admin queue and
/// removals are seen this late at most.
const NAP: Duration = Duration::from_millis(100);
/// The same while a controller is attached, reset or detached.
const BUSY_NAP: Duration = Duration::from_micros(20);
/// How long a handle that is dropped waits for the thread.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);

/// What the control thread is asked for.
pub(super) enum Request {
    /// Attach a controller that `wakes` cores that sleep, if it can, or give another handle to it.
    Attach { env: Env, address: ControllerAddress, wakes: bool, reply: AttachReply },
    /// Say what a namespace of a controller is, when no reset of it is under way.
    Describe(Arc<ControllerState>, u32, Sender<Result<Description>>),
    /// Detach a controller of which the last handle is gone.
    Detach(Arc<ControllerState>, Sender<()>),
    /// Something of a block device of SPDK.
    Bdev(super::bdev::Request),
    /// Look at what changed.
    Wake,
}

/// The way to the control thread.
pub(super) struct Control;

thread_local! {
    static IS_CONTROL: Cell<bool> = const { Cell::new(false) };
}

static THREAD: Mutex<Option<Sender<Request>>> = Mutex::new(None);

impl Control {
    /// Sends a request whose reply is awaited here: only where a thread may block.
    ///
    /// # Errors
    ///
    /// Those of the reply, and [`ErrorKind::Closed`] if the thread cannot be started or has ended.
    pub(super) fn ask<T>(request: impl FnOnce(Sender<Result<T>>) -> Request) -> Result<T> {
        let (sender, receiver) = channel();
        Self::send(request(sender))?;
        receiver.recv().unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Closed, "ask SPDK's control thread").because("it has ended"))
        })
    }

    /// Sends a request that ends something, and waits for a bounded time until that is done.
    pub(super) fn finish(request: impl FnOnce(Sender<()>) -> Request) {
        let (sender, receiver) = channel();
        if Self::send(request(sender)).is_ok()
            // The thread itself drops a handle that nobody waited for.
            && !IS_CONTROL.get()
            && let Err(RecvTimeoutError::Timeout) = receiver.recv_timeout(FINISH_TIMEOUT)
        {
            tracing::warn!(
                "an SPDK device is not closed after {} s; it is left to the control thread",
                FINISH_TIMEOUT.as_secs()
            );
        }
    }

    fn send(request: Request) -> Result<()> {
        let failed = |why: String| Error::new(ErrorKind::Closed, "ask SPDK's control thread").because(why);
        let mut thread = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let (sender, receiver) = channel();
            thread::Builder::new()
                .name("boson-spdk".to_owned())
                .spawn(move || ControlThread::new(receiver).run())
                .map_err(|error| failed(format!("it cannot be started: {error}")))?;
            *thread = Some(sender);
        }
        thread
            .as_ref()
            .and_then(|sender| sender.send(request).ok())
            .ok_or_else(|| failed("it has ended".to_owned()))
    }
}

impl Keeper for Control {
    fn look(&self) {
        let thread = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &*thread {
            // A thread that has ended looks at nothing.
            let _ = sender.send(Request::Wake);
        }
    }

    fn describe(&self, controller: &Arc<ControllerState>, nsid: u32) -> Result<Description> {
        Self::ask(|reply| Request::Describe(Arc::clone(controller), nsid, reply))
    }

    fn detach(&self, controller: &Arc<ControllerState>) {
        Self::finish(|reply| Request::Detach(Arc::clone(controller), reply));
    }
}

type AttachReply = Sender<Result<Arc<Controller>>>;

struct ControlThread {
    requests: Receiver<Request>,
    clock: MonotonicClock,
    /// Who asked, with each, until there is an answer. One who is gone leaves a handle to be
    /// dropped, which detaches.
    attaching: Vec<(Attaching, Option<AttachReply>)>,
    /// By address.
    handles: BTreeMap<String, Weak<Controller>>,
    controllers: Vec<Managed>,
    bdevs: Subsystem,
}

impl ControlThread {
    fn new(requests: Receiver<Request>) -> Self {
        Self {
            requests,
            clock: MonotonicClock::new(),
            attaching: Vec::new(),
            handles: BTreeMap::new(),
            controllers: Vec::new(),
            bdevs: Subsystem::new(),
        }
    }

    fn run(mut self) {
        IS_CONTROL.set(true);
        loop {
            match self.requests.recv_timeout(self.nap()) {
                // A panic here, of a subscriber to the log, say, must not end the thread that keeps
                // the controllers alive.
                Ok(request) => {
                    contain(|| self.handle(request));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            contain(|| self.turn());
        }
    }

    fn nap(&self) -> Duration {
        let busy = !self.attaching.is_empty() || self.controllers.iter().any(Managed::is_busy);
        if busy || self.bdevs.is_busy() {
            BUSY_NAP
        } else if self.bdevs.is_running() {
            self.bdevs.rest()
        } else {
            NAP
        }
    }

    fn handle(&mut self, request: Request) {
        match request {
            Request::Attach { env, address, wakes, reply } => self.attach(env, address, wakes, reply),
            Request::Describe(state, nsid, reply) => {
                match self.controllers.iter_mut().find(|managed| managed.is(&state)) {
                    Some(managed) => managed.describe(nsid, reply),
                    // Who asked may be gone.
                    None => drop(reply.send(Err(removed(state.name())))),
                }
            }
            Request::Detach(state, reply) => {
                if let Some(managed) = self.controllers.iter_mut().find(|managed| managed.is(&state)) {
                    managed.detach(reply);
                }
            }
            Request::Bdev(request) => self.bdevs.handle(request),
            Request::Wake => {}
        }
    }

    fn attach(&mut self, env: Env, address: ControllerAddress, wakes: bool, reply: AttachReply) {
        if let Some(controller) = self.handles.get(address.name()).and_then(Weak::upgrade) {
            // Who asked may be gone; then the handle is dropped.
            let _ = reply.send(Ok(controller));
            return;
        }
        env.eal().register_thread();
        self.attaching.push((Attaching::new(env, address, wakes, &Control), Some(reply)));
    }

    fn turn(&mut self) {
        let now = self.clock.now();
        for (mut attaching, reply) in std::mem::take(&mut self.attaching) {
            let name = attaching.name().to_owned();
            // The same controller under the same address: the one that is there, or first the end
            // of the one that goes.
            if !attaching.has_begun()
                && let Some(controller) = self.handles.get(&name).and_then(Weak::upgrade)
            {
                answer(reply, Ok(controller));
                continue;
            }
            let in_use = self.controllers.iter().any(|managed| managed.name() == name)
                || self.attaching.iter().any(|(other, _)| other.name() == name);
            if in_use && !attaching.has_begun() {
                self.attaching.push((attaching, reply));
                continue;
            }
            match attaching.poll(now) {
                Progress::UnderWay => self.attaching.push((attaching, reply)),
                // SPDK cannot be told to stop: what it makes of the attempt is dropped.
                Progress::Late(error) => {
                    answer(reply, Err(error));
                    self.attaching.push((attaching, None));
                }
                Progress::Ended(Ok(state)) => {
                    let state = Arc::new(state);
                    self.controllers.push(Managed::new(Arc::clone(&state), now));
                    let controller = Arc::new(Controller::new(state));
                    self.handles.insert(name, Arc::downgrade(&controller));
                    answer(reply, Ok(controller));
                }
                Progress::Ended(Err(error)) => answer(reply, Err(error)),
            }
        }
        self.controllers.retain_mut(|managed| managed.turn(now));
        self.handles.retain(|_, handle| handle.strong_count() > 0);
        self.bdevs.turn();
    }
}

/// Tells who asked. One who is gone leaves a handle to be dropped.
fn answer(reply: Option<AttachReply>, result: Result<Arc<Controller>>) {
    if let Some(reply) = reply {
        let _ = reply.send(result);
    }
}

fn removed(name: &str) -> Error {
    Error::new(ErrorKind::Closed, "open namespace").at(name.to_owned()).because("the controller was removed")
}
