//! Polling, waiting and shutting down.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use tracing::warn;

use super::calls::{CallKey, Calls, Orphaning, Returned, Told, job};
use super::registrations::{Registrations, WaiterId};
use crate::error::{Error, ErrorKind, Result};
use crate::reactor::doorbell::Doorbell;
use crate::reactor::ops::{Call, Direction, Orphan, Way};
use crate::reactor::patience::{Patience, ROUND};
use crate::reactor::pool::{Place, Pool, Refused};
use crate::time::Instant;
use crate::user_code::{contain, contain_each, drop_contained, wake_all};

/// The event of the doorbell: no descriptor has this number.
const DOORBELL: u64 = u64::MAX;
/// Events taken with one system call.
const EVENTS: usize = 256;
/// A busy core asks for events this often.
const POLL_INTERVAL: Duration = Duration::from_micros(4);
/// Calls on sockets that may succeed at once between two polls. A task that comes after that yields
/// to the other tasks first.
const ATTEMPTS_PER_POLL: u32 = 64;

/// One core's epoll instance.
pub(crate) struct Epoll {
    epoll: OwnedFd,
    inner: RefCell<EpollInner>,
    returned: Arc<Returned>,
    pool: Arc<Pool>,
    attempts: Cell<u32>,
    polled_at: Cell<Instant>,
    enters: Cell<u64>,
}

#[derive(Default)]
struct EpollInner {
    registrations: Registrations,
    calls: Calls,
    /// What wakes the core when it sleeps next, beside the epoll instance.
    watched: Vec<RawFd>,
    /// Reused by `take_events` and `settle`.
    events: Vec<epoll::Event>,
    woken: Vec<Waker>,
    results: Vec<(CallKey, i32)>,
    /// Reused by `sleep`.
    sleeping_on: Vec<libc::pollfd>,
}

/// Where an operation is.
#[derive(Debug, Default)]
pub(in crate::reactor) enum Flight {
    /// Nowhere yet.
    #[default]
    Grounded,
    /// Gave the other tasks their turn.
    Yielded,
    /// Waits for its descriptor to be ready.
    Waiting { number: RawFd, direction: Direction, id: WaiterId },
    /// Waits for room in the pool's queue.
    InLine(Place),
    /// With the pool.
    Called(CallKey),
}

impl Flight {
    /// Whether somebody may be using the operation's memory.
    pub(in crate::reactor) fn is_with_kernel(&self) -> bool {
        matches!(self, Self::Called(_))
    }
}

impl Epoll {
    pub(in crate::reactor) fn new(doorbell: &Arc<Doorbell>, pool: &Arc<Pool>) -> Result<Self> {
        let failed = |errno: Errno| Error::os(errno.raw_os_error(), "set up epoll");
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
        // Edge-triggered: it need not be silenced, and its counter does not overflow in a lifetime.
        epoll::add(&epoll, &**doorbell, EventData::new_u64(DOORBELL), EventFlags::IN | EventFlags::ET)
            .map_err(failed)?;
        Ok(Self {
            epoll,
            inner: RefCell::new(EpollInner {
                events: Vec::with_capacity(EVENTS),
                // The epoll instance and some devices: the first sleep asks the heap for nothing.
                sleeping_on: Vec::with_capacity(8),
                ..EpollInner::default()
            }),
            returned: Arc::new(Returned::new(doorbell)),
            pool: Arc::clone(pool),
            attempts: Cell::new(0),
            polled_at: Cell::new(Instant::ORIGIN),
            enters: Cell::new(0),
        })
    }

    /// System calls made so far to ask or wait for events.
    pub(in crate::reactor) fn enters(&self) -> u64 {
        self.enters.get()
    }

    /// Makes or continues a call. `Some` is its result: a count or a descriptor, or a negated
    /// errno. Otherwise the task is woken when it is to be polled again.
    ///
    /// # Safety
    ///
    /// Until there is a result or `flight` went to `forget` or `orphan`: the call's memory stays
    /// valid, unmoved, and used by nobody else, and `descriptor` and `call` stay the same. A flight
    /// that `is_with_kernel` ends in a result or in `orphan`.
    pub(in crate::reactor) unsafe fn poll_call(
        &self,
        flight: &mut Flight,
        descriptor: &Rc<OwnedFd>,
        call: Call,
        cx: &mut Context<'_>,
    ) -> Option<i32> {
        match call.way() {
            // SAFETY: the caller's promise is passed on.
            Way::WhenReady(direction) => unsafe { self.attempt(flight, descriptor, direction, call, cx) },
            // SAFETY: as above.
            Way::OnThread => unsafe { self.on_thread(flight, descriptor, call, cx) },
        }
    }

    /// # Safety
    ///
    /// As for `poll_call`.
    unsafe fn attempt(
        &self,
        flight: &mut Flight,
        descriptor: &Rc<OwnedFd>,
        direction: Direction,
        call: Call,
        cx: &mut Context<'_>,
    ) -> Option<i32> {
        if matches!(flight, Flight::Grounded) && self.attempts.get() >= ATTEMPTS_PER_POLL {
            // Only once: it tries when it comes back, so that nobody waits forever for those
            // before it. First, for it may panic, and what has not begun to wait is not told of its
            // end.
            cx.waker().wake_by_ref();
            *flight = Flight::Yielded;
            return None;
        }
        let number = descriptor.as_raw_fd();
        let mut inner = self.inner.borrow_mut();
        let nonblocking = call.needs_nonblocking_descriptor();
        if let Err(errno) = inner.registrations.enter(&self.epoll, descriptor, nonblocking) {
            drop(inner);
            self.forget(std::mem::take(flight));
            return Some(-errno.raw_os_error());
        }
        if inner.registrations.is_ready(number, direction) {
            self.attempts.set(self.attempts.get() + 1);
            // SAFETY: the caller's promise is passed on, and the descriptor was made non-blocking
            // if that matters.
            let result = unsafe { call.perform(number) };
            if !call.would_block(-result) {
                if call.drained(result) {
                    inner.registrations.set_drained(descriptor);
                }
                drop(inner);
                self.forget(std::mem::take(flight));
                return Some(result);
            }
            inner.registrations.set_not_ready(number, direction);
        }
        drop(inner);
        self.wait_for(flight, number, direction, cx.waker());
        None
    }

    /// Wakes `waker` when the descriptor is ready.
    fn wait_for(&self, flight: &mut Flight, number: RawFd, direction: Direction, waker: &Waker) {
        if let Flight::Waiting { id, .. } = flight
            && let Some(current) = self.inner.borrow_mut().registrations.waiter(number, direction, *id)
            && current.will_wake(waker)
        {
            return;
        }
        // Cloning and dropping wakers may be user code, which may drop other operations: not
        // under the borrow.
        let waker = waker.clone();
        let mut inner = self.inner.borrow_mut();
        let old = match flight {
            Flight::Waiting { id, .. } => inner.registrations.remove_waiter(number, direction, *id),
            _ => None,
        };
        let id = inner.registrations.add_waiter(number, direction, waker);
        *flight = Flight::Waiting { number, direction, id };
        drop(inner);
        drop(old);
    }

    /// # Safety
    ///
    /// As for `poll_call`.
    unsafe fn on_thread(
        &self,
        flight: &mut Flight,
        descriptor: &Rc<OwnedFd>,
        call: Call,
        cx: &mut Context<'_>,
    ) -> Option<i32> {
        if let Flight::Called(key) = flight {
            return self.take_result(*key, cx.waker());
        }
        if let Flight::InLine(place) = flight
            && self.pool.is_in_line(place, cx.waker())
        {
            return None;
        }
        let mut place = match std::mem::take(flight) {
            Flight::InLine(place) => place,
            _ => Place::default(),
        };
        let waker = cx.waker().clone();
        let key = self.inner.borrow_mut().calls.take_slot(waker);
        // SAFETY: the caller keeps the memory and the descriptor until there is a result or
        // `orphan` gets the value, which keeps it in the slot of `key` until the result is
        // returned.
        let job = unsafe { job(key, call, descriptor.as_raw_fd(), &self.returned) };
        match self.pool.submit(job, &mut place, cx.waker()) {
            Ok(id) => {
                self.inner.borrow_mut().calls.set_job(key, id);
                *flight = Flight::Called(key);
                None
            }
            Err(Refused::Full(job)) => {
                self.give_up(key);
                drop(job);
                *flight = Flight::InLine(place);
                None
            }
            Err(Refused::NoThread(job, errno)) => {
                self.give_up(key);
                drop(job);
                self.pool.leave(place);
                Some(-errno)
            }
        }
    }

    fn give_up(&self, key: CallKey) {
        let waker = self.inner.borrow_mut().calls.give_up(key);
        drop(waker);
    }

    fn take_result(&self, key: CallKey, waker: &Waker) -> Option<i32> {
        let mut inner = self.inner.borrow_mut();
        if let Some(result) = inner.calls.take_result(key) {
            return Some(result);
        }
        if inner.calls.waker(key).is_some_and(|current| current.will_wake(waker)) {
            return None;
        }
        drop(inner);
        // As in `wait_for`.
        let mut kept = waker.clone();
        if let Some(current) = self.inner.borrow_mut().calls.waker(key) {
            std::mem::swap(current, &mut kept);
        }
        drop(kept);
        // Nothing came back meanwhile: only the core's loop takes results.
        None
    }

    /// Ends a flight that is not with the kernel.
    pub(in crate::reactor) fn forget(&self, flight: Flight) {
        match flight {
            Flight::Waiting { number, direction, id } => {
                let waker = self.inner.borrow_mut().registrations.remove_waiter(number, direction, id);
                // Should it panic, there is more to do: the caller has a result, or has somebody
                // told that there is none.
                drop_contained(waker);
            }
            Flight::InLine(place) => self.pool.leave(place),
            Flight::Grounded | Flight::Yielded | Flight::Called(_) => {}
        }
    }

    /// Keeps the value of a flight that is with the kernel until it is done. A call that no thread
    /// has begun is not made.
    pub(in crate::reactor) fn orphan(&self, flight: Flight, orphan: Box<dyn Orphan>) {
        let Flight::Called(key) = flight else { return };
        let Ok(mut inner) = self.inner.try_borrow_mut() else {
            // Only a subscriber to the log could come here while the reactor is at work. A thread
            // may use the memory: a panic, which would free it, is not an answer.
            std::mem::forget(orphan);
            return;
        };
        let orphaning = inner.calls.orphan(key, orphan);
        drop(inner);
        match orphaning {
            Orphaning::Nothing => {}
            Orphaning::Done(told) => told.tell(),
            Orphaning::Kept(job, waker) => {
                // A job that is taken back returns its call when it is dropped.
                drop(job.and_then(|job| self.pool.take_back(job)));
                drop_contained(waker);
            }
        }
    }

    /// Wakes the tasks whose descriptor is ready or whose call is done; returns how many.
    pub(in crate::reactor) fn poll(&self, now: Instant) -> Result<usize> {
        let settled = self.settle();
        self.attempts.set(0);
        let since_last = now.saturating_since(self.polled_at.get());
        // A clock that stands still is no reason never to ask.
        let too_soon = !since_last.is_zero() && since_last < POLL_INTERVAL;
        if too_soon || self.inner.borrow().registrations.waiting() == 0 {
            return Ok(settled);
        }
        self.polled_at.set(now);
        Ok(settled + self.take_events(Some(Duration::ZERO))?)
    }

    /// Tells those whose calls came back; returns how many.
    fn settle(&self) -> usize {
        let mut inner = self.inner.borrow_mut();
        if inner.calls.in_flight() == 0 {
            return 0;
        }
        let mut results = std::mem::take(&mut inner.results);
        drop(inner);
        self.returned.take(&mut results);
        let settled = results.len();
        contain_each(results.drain(..), |(key, result)| {
            let told = self.inner.borrow_mut().calls.complete(key, result);
            told.into_iter().for_each(Told::tell);
        });
        // Keeps the allocation.
        self.inner.borrow_mut().results = results;
        settled
    }

    /// Takes what events there are, after at most `longest`, and wakes who waits for them; returns
    /// how many that were.
    fn take_events(&self, longest: Option<Duration>) -> Result<usize> {
        let mut inner = self.inner.borrow_mut();
        let timeout = longest.map(|longest| rustix::event::Timespec {
            tv_sec: i64::try_from(longest.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: longest.subsec_nanos().into(),
        });
        inner.events.clear();
        self.enters.set(self.enters.get() + 1);
        let spare = rustix::buffer::spare_capacity(&mut inner.events);
        match epoll::wait(&self.epoll, spare, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::os(errno.raw_os_error(), "epoll_wait")),
        }
        let EpollInner { events, registrations, woken, .. } = &mut *inner;
        if events.len() == events.capacity() {
            // There may be more.
            self.polled_at.set(Instant::ORIGIN);
        }
        for event in events.iter() {
            registrations.event(event, woken);
        }
        if woken.is_empty() {
            return Ok(0);
        }
        let mut woken = std::mem::take(woken);
        drop(inner);
        let count = woken.len();
        wake_all(woken.drain(..));
        // Keeps the allocation.
        self.inner.borrow_mut().woken = woken;
        Ok(count)
    }

    /// Wakes a core that sleeps in the next `wait` when `descriptor` is readable.
    pub(in crate::reactor) fn wake_when_readable(&self, descriptor: RawFd) -> Result<()> {
        if descriptor < 0 {
            return Err(Error::new(ErrorKind::InvalidInput, "watch descriptor").because("it is negative"));
        }
        let mut inner = self.inner.borrow_mut();
        if !inner.watched.contains(&descriptor) {
            inner.watched.push(descriptor);
        }
        Ok(())
    }

    /// Forgets which descriptors are watched, because one of them may be closed.
    pub(in crate::reactor) fn unwatch_all(&self) {
        self.inner.borrow_mut().watched.clear();
    }

    /// Sleeps until an event, the doorbell, or `longest` has passed. Returns what `poll` does.
    pub(in crate::reactor) fn wait(&self, longest: Option<Duration>) -> Result<usize> {
        let settled = self.settle();
        if settled > 0 {
            return Ok(settled);
        }
        let watches = !self.inner.borrow().watched.is_empty();
        let woken = if watches || longest.is_some() {
            self.sleep(longest)?;
            self.take_events(Some(Duration::ZERO))?
        } else {
            self.take_events(None)?
        };
        self.attempts.set(0);
        Ok(woken + self.settle())
    }

    /// Sleeps by ppoll(2): its time-out is in nanoseconds on every kernel and in every container,
    /// unlike epoll's, and it takes descriptors that are closed without anybody saying so.
    fn sleep(&self, longest: Option<Duration>) -> Result<()> {
        let mut inner = self.inner.borrow_mut();
        let EpollInner { watched, sleeping_on, .. } = &mut *inner;
        let entry = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        sleeping_on.clear();
        sleeping_on.push(entry(self.epoll.as_raw_fd()));
        sleeping_on.extend(watched.drain(..).map(entry));
        let timeout = longest.map(|longest| libc::timespec {
            tv_sec: libc::time_t::try_from(longest.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: longest.subsec_nanos().into(),
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let len = libc::nfds_t::try_from(sleeping_on.len()).unwrap_or(libc::nfds_t::MAX);
        self.enters.set(self.enters.get() + 1);
        // SAFETY: `sleeping_on` holds `len` entries, which nobody else uses meanwhile; `timeout` is
        // null or points to a value that lives until after the call; a null mask changes no
        // signals.
        let ready = unsafe { libc::ppoll(sleeping_on.as_mut_ptr(), len, timeout, std::ptr::null()) };
        if ready < 0 {
            let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
            if errno != libc::EINTR {
                return Err(Error::os(errno, "ppoll"));
            }
        }
        Ok(())
    }

    /// Waits until the pool's threads have let go of every buffer.
    pub(in crate::reactor) fn shut_down(&self, mut patience: Patience<'_>) {
        // Calls that nobody has begun: dropping the job returns the call.
        let jobs = self.inner.borrow().calls.jobs();
        jobs.into_iter().for_each(|job| drop(self.pool.take_back(job)));
        let mut left = self.inner.borrow().calls.in_flight();
        while left > 0 && !patience.is_over() {
            if let Err(error) = self.wait(Some(ROUND)) {
                contain(|| warn!("waiting for I/O in flight failed: {error}"));
                break;
            }
            left = self.inner.borrow().calls.in_flight();
        }
        if left > 0 {
            self.inner.borrow_mut().calls.leak();
            // Last, because a subscriber to the log is user code and may panic.
            contain(|| warn!("{left} blocking calls did not finish; their memory is not freed"));
        }
    }
}
