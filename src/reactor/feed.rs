//! What one socket's multishot request brought: one request that receives, or accepts, until it is
//! told to stop.
//!
//! What arrives waits in a queue until a task takes it, so a future that is dropped loses nothing.
//! The queue is bounded: when its reader is slow the request is cancelled, the rest stays in the
//! kernel (which slows the peer down), and the next wait asks anew.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{opcode, squeue, types};

use super::current;
pub(crate) use super::uring::{BUFFER_BYTES as CHUNK_BYTES, Chunk};
use super::uring::{BUFFER_GROUP, Completed, Event, Multishot, Ring, RingFeature, SlotKey};
use crate::user_code::drop_contained;

/// What arrives, and how it is asked for.
pub(crate) trait Item: Sized + 'static {
    /// Without it in the ring there is no such feed.
    const FEATURE: RingFeature;
    /// Whether the kernel puts what arrives into a buffer of the core's.
    const TAKES_BUFFERS: bool;
    /// With this many in the queue the kernel is asked to stop. Those under way still come.
    const MAX_QUEUED: usize;
    /// What a task that awaits one waits for.
    const WAITS_FOR: &'static str;
    /// An entry that points to no memory.
    fn request(socket: &OwnedFd) -> squeue::Entry;
    /// What came with a result that is no error; `None` for the end.
    fn arrived(result: i32, chunk: Option<Chunk>) -> Option<Self>;
    /// The buffer to lend to the kernel again if nobody takes the item.
    fn into_chunk(self) -> Option<Chunk>;
}

impl Item for Chunk {
    const FEATURE: RingFeature = RingFeature::MultishotReceive;
    const TAKES_BUFFERS: bool = true;
    const MAX_QUEUED: usize = 16;
    const WAITS_FOR: &'static str = "bytes to receive";

    fn request(socket: &OwnedFd) -> squeue::Entry {
        opcode::RecvMulti::new(types::Fd(socket.as_raw_fd()), BUFFER_GROUP).build()
    }

    fn arrived(_result: i32, chunk: Option<Chunk>) -> Option<Self> {
        chunk
    }

    fn into_chunk(self) -> Option<Chunk> {
        Some(self)
    }
}

impl Item for OwnedFd {
    const FEATURE: RingFeature = RingFeature::MultishotAccept;
    const TAKES_BUFFERS: bool = false;
    const MAX_QUEUED: usize = 64;
    const WAITS_FOR: &'static str = "a connection to accept";

    fn request(socket: &OwnedFd) -> squeue::Entry {
        opcode::AcceptMulti::new(types::Fd(socket.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build()
    }

    fn arrived(result: i32, _chunk: Option<Chunk>) -> Option<Self> {
        // SAFETY: the kernel completed an accept with a descriptor that is new and that nobody else
        // knows of; results below zero do not come here.
        (result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(result) })
    }

    fn into_chunk(self) -> Option<Chunk> {
        None
    }
}

/// What one socket's multishot request brought and nobody took yet.
pub(crate) struct Feed<T: Item> {
    socket: Rc<OwnedFd>,
    state: RefCell<FeedState<T>>,
}

struct FeedState<T> {
    items: Queue<T>,
    /// Comes after the items: the end (0) or an errno.
    end: Option<i32>,
    request: Request,
    /// The reactor that was asked last; the items are of its ring.
    reactor: Option<Rc<Ring>>,
    /// Nearly always there is one: it is here, and not in an allocation of its own, which would be
    /// one more miss of the cache.
    waiter: Option<(u64, Waker)>,
    more_waiters: Vec<(u64, Waker)>,
    next_waiter: u64,
}

/// The request of a feed.
///
/// | state | the kernel has | next |
/// |---|---|---|
/// | `Idle` | nothing | `Armed`: a task begins to wait |
/// | `Armed` | the request | `Stopping`: the owner wants it ([`Feed::stop`]), or the queue is full; `Idle` or `Starved`: its last completion |
/// | `Stopping` | the request and its cancellation | `Idle` or `Starved`: its last completion |
/// | `Starved` | nothing, because it had no buffer | `Idle`: the owner has noticed ([`Feed::take_starved`]) |
///
/// The reactor makes the transitions of a completion and of a full queue, tasks of its core all
/// others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Idle,
    Armed(SlotKey),
    Stopping,
    Starved,
}

impl Request {
    /// Whether the kernel has it.
    fn is_with_kernel(self) -> bool {
        matches!(self, Self::Armed(_) | Self::Stopping)
    }

    /// Returns the request to cancel, once.
    fn stop(&mut self) -> Option<SlotKey> {
        let Self::Armed(key) = *self else { return None };
        *self = Self::Stopping;
        Some(key)
    }

    /// The last completion came; `starved` if it says that there was no buffer.
    fn ended(&mut self, starved: bool) {
        *self = if starved { Self::Starved } else { Self::Idle };
    }

    fn take_starved(&mut self) -> bool {
        let starved = *self == Self::Starved;
        if starved {
            *self = Self::Idle;
        }
        starved
    }
}

/// Items in order. The first is in place, because mostly it is the only one: the allocation is not
/// touched then.
struct Queue<T> {
    first: Option<T>,
    rest: VecDeque<T>,
}

impl<T> Queue<T> {
    const fn new() -> Self {
        Self { first: None, rest: VecDeque::new() }
    }

    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    fn push(&mut self, item: T) {
        if self.first.is_none() {
            self.first = Some(item);
        } else {
            self.rest.push_back(item);
        }
    }

    fn pop(&mut self) -> Option<T> {
        let next = if self.rest.is_empty() { None } else { self.rest.pop_front() };
        std::mem::replace(&mut self.first, next)
    }
}

impl<T> FeedState<T> {
    fn is_waiting(&self, id: u64, waker: &Waker) -> bool {
        let is_it = |(other, kept): &(u64, Waker)| *other == id && kept.will_wake(waker);
        self.waiter.as_ref().is_some_and(is_it) || self.more_waiters.iter().any(is_it)
    }

    fn add_waiter(&mut self, id: u64, waker: Waker) {
        if self.waiter.is_none() {
            self.waiter = Some((id, waker));
        } else {
            self.more_waiters.push((id, waker));
        }
    }

    fn remove_waiter(&mut self, id: u64) -> Option<Waker> {
        if let Some((_, waker)) = self.waiter.take_if(|(other, _)| *other == id) {
            return Some(waker);
        }
        let at = self.more_waiters.iter().position(|(other, _)| *other == id)?;
        Some(self.more_waiters.swap_remove(at).1)
    }
}

/// Every connection has one that is read ahead.
const _: () = assert!(size_of::<Feed<Chunk>>() <= 160);

impl<T: Item> Feed<T> {
    /// A feed from `socket`, if the core's ring has what it takes. Nothing is asked of the kernel
    /// before somebody waits.
    pub(crate) fn new(socket: &Rc<OwnedFd>) -> Option<Rc<Self>> {
        current::with_ring(|ring| ring.is_some_and(|ring| ring.has(T::FEATURE))).then(|| {
            let state = FeedState {
                items: Queue::new(),
                end: None,
                request: Request::Idle,
                reactor: None,
                waiter: None,
                more_waiters: Vec::new(),
                next_waiter: 0,
            };
            Rc::new(Self { socket: Rc::clone(socket), state: RefCell::new(state) })
        })
    }

    /// Completes when there is something to take, or when waiting is of no use because the kernel
    /// has no buffer ([`Feed::take_starved`]) or the request ended, as [`Feed::stop`] asks it to.
    /// Another one then asks the kernel anew.
    pub(crate) fn arrival(self: &Rc<Self>) -> Arrival<'_, T> {
        Arrival { feed: self, waiter: None }
    }

    /// Whether the request ended because the kernel had no buffer, once: the caller brings its own
    /// for this time.
    pub(crate) fn take_starved(&self) -> bool {
        self.state.borrow_mut().request.take_starved()
    }

    /// Whether a request is with the kernel, so that what comes next comes here.
    pub(crate) fn is_armed(&self) -> bool {
        self.state.borrow().request.is_with_kernel()
    }

    /// The error or end after the last item, for good.
    pub(crate) fn end(&self) -> Option<i32> {
        let state = self.state.borrow();
        state.end.filter(|_| state.items.is_empty())
    }

    /// The error after the last item, once.
    pub(crate) fn take_error(&self) -> Option<i32> {
        let mut state = self.state.borrow_mut();
        if state.items.is_empty() { state.end.take() } else { None }
    }

    /// The oldest item.
    pub(crate) fn pop(&self) -> Option<T> {
        self.state.borrow_mut().items.pop()
    }

    /// Asks the kernel to stop, because the socket is to be closed or what arrives is wanted
    /// elsewhere.
    pub(crate) fn stop(&self) {
        let mut state = self.state.borrow_mut();
        if let Some(key) = state.request.stop()
            && let Some(reactor) = state.reactor.clone()
        {
            drop(state);
            reactor.cancel(key);
        }
    }

    fn start(self: &Rc<Self>) {
        let Some(reactor) = current::with_ring(|ring| ring.cloned()) else {
            // The socket was brought to another core of this thread, one without a ring.
            self.state.borrow_mut().end = Some(libc::EOPNOTSUPP);
            return;
        };
        let target: Rc<dyn Multishot> = Rc::clone(self) as Rc<dyn Multishot>;
        // SAFETY: the entry points to no memory, by the word of `Item::request`; what is received
        // goes to the reactor's buffer ring, which lives as long as the ring. The descriptor stays
        // open because the feed, which the slot holds, holds it.
        let key = unsafe { reactor.start_multishot(T::request(&self.socket), target) };
        let mut state = self.state.borrow_mut();
        state.request = Request::Armed(key);
        let before = state.reactor.replace(reactor);
        drop(state);
        drop(before);
    }
}

impl Feed<Chunk> {
    /// Hands the received bytes to `fill`, which says how many it took; `None` if there are none.
    /// Takes from several chunks while `fill` takes all that it is given.
    pub(crate) fn take_bytes(&self, mut fill: impl FnMut(usize, &[u8]) -> usize) -> Option<usize> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let reactor = state.reactor.as_ref()?;
        let mut taken = 0;
        while let Some(chunk) = &mut state.items.first {
            let len = reactor.with_chunk(chunk, |bytes| fill(taken, bytes));
            taken += len;
            chunk.advance(len);
            if chunk.len() > 0 {
                break;
            }
            if let Some(chunk) = state.items.pop() {
                reactor.recycle(chunk);
            }
        }
        (taken > 0).then_some(taken)
    }
}

impl<T: Item> Multishot for Feed<T> {
    fn event(&self, event: Event, completed: &mut Vec<Completed>) -> bool {
        let mut state = self.state.borrow_mut();
        let mut starved = false;
        if event.result >= 0 {
            match T::arrived(event.result, event.chunk) {
                Some(item) => state.items.push(item),
                None => state.end = Some(0),
            }
        } else {
            match -event.result {
                libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
                libc::ENOBUFS if T::TAKES_BUFFERS => starved = true,
                code => state.end = Some(code),
            }
        }
        if !event.more {
            state.request.ended(starved);
        }
        completed.extend(state.waiter.take().map(|(_, waker)| Completed::Wake(waker)));
        completed.extend(state.more_waiters.drain(..).map(|(_, waker)| Completed::Wake(waker)));
        state.items.len() >= T::MAX_QUEUED && state.request.stop().is_some()
    }
}

impl<T: Item> Drop for Feed<T> {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if let Some(reactor) = state.reactor.take() {
            while let Some(item) = state.items.pop() {
                item.into_chunk().into_iter().for_each(|chunk| reactor.recycle(chunk));
            }
        }
    }
}

impl<T: Item> fmt::Debug for Feed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.borrow();
        f.debug_struct("Feed")
            .field("queued", &state.items.len())
            .field("request", &state.request)
            .finish_non_exhaustive()
    }
}

/// The future of [`Feed::arrival`].
#[must_use = "futures do nothing unless awaited"]
pub(crate) struct Arrival<'a, T: Item> {
    feed: &'a Rc<Feed<T>>,
    waiter: Option<u64>,
}

impl<T: Item> Future for Arrival<'_, T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let feed = self.feed;
        let state = feed.state.borrow();
        if !state.items.is_empty() || state.end.is_some() || state.request == Request::Starved {
            return Poll::Ready(());
        }
        let registered = self.waiter.is_some_and(|id| state.is_waiting(id, cx.waker()));
        let armed = state.request.is_with_kernel();
        drop(state);
        if !armed && self.waiter.is_some() {
            // The request ended while this waited, with nothing: maybe because its owner wants what
            // comes elsewhere.
            return Poll::Ready(());
        }
        if !registered {
            // Cloning and dropping wakers may be user code: not under the borrow.
            let waker = cx.waker().clone();
            let old = self.take_waker();
            let mut state = feed.state.borrow_mut();
            state.next_waiter += 1;
            let id = state.next_waiter;
            state.add_waiter(id, waker);
            drop(state);
            drop(old);
            self.waiter = Some(id);
        }
        if !armed {
            feed.start();
        }
        if feed.state.borrow().end.is_some() {
            return Poll::Ready(());
        }
        current::waits_for(T::WAITS_FOR);
        Poll::Pending
    }
}

impl<T: Item> Arrival<'_, T> {
    fn take_waker(&self) -> Option<Waker> {
        self.feed.state.borrow_mut().remove_waiter(self.waiter?)
    }
}

impl<T: Item> Drop for Arrival<'_, T> {
    fn drop(&mut self) {
        // A panic may run this, and a second one would end the process.
        drop_contained(self.take_waker());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::{Core, CoreConfig};

    fn key() -> SlotKey {
        SlotKey::default()
    }

    fn last(result: i32) -> Event {
        Event { result, chunk: None, more: false }
    }

    #[test]
    fn a_request_goes_through_the_states_of_its_table() {
        let mut request = Request::Idle;
        assert_eq!((request.stop(), request.is_with_kernel()), (None, false), "there is nothing to stop");
        request = Request::Armed(key());
        assert!(request.is_with_kernel());
        assert_eq!(request.stop(), Some(key()));
        assert_eq!((request, request.stop()), (Request::Stopping, None), "it is cancelled once");
        assert!(request.is_with_kernel(), "its completions still come");
        request.ended(false);
        assert_eq!((request, request.take_starved()), (Request::Idle, false));
        request = Request::Armed(key());
        request.ended(true);
        assert_eq!((request, request.is_with_kernel()), (Request::Starved, false));
        assert_eq!((request.take_starved(), request), (true, Request::Idle));
    }

    /// Checks a feed that was never armed, where there is an io_uring with its feature.
    fn on_a_core<T: Item>(check: impl FnOnce(Rc<Feed<T>>)) {
        let config = CoreConfig::default();
        let core = Core::new(&config).expect("a core");
        core.block_on(async {
            let socket =
                rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
            if let Some(feed) = Feed::new(&Rc::new(socket.expect("a socket"))) {
                check(feed);
            }
        });
    }

    #[test]
    fn a_receive_without_a_buffer_is_starved_and_may_go_on() {
        on_a_core(|feed: Rc<Feed<Chunk>>| {
            feed.event(last(-libc::ENOBUFS), &mut Vec::new());
            assert_eq!(feed.end(), None);
            assert!(feed.take_starved());
            assert!(!feed.take_starved());
        });
    }

    #[test]
    fn an_accept_for_which_the_kernel_has_no_memory_is_an_error() {
        on_a_core(|feed: Rc<Feed<OwnedFd>>| {
            feed.event(last(-libc::ENOBUFS), &mut Vec::new());
            assert_eq!(feed.take_error(), Some(libc::ENOBUFS));
            assert!(!feed.take_starved());
        });
    }
}
