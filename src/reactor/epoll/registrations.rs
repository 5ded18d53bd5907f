//! Which descriptors an epoll instance watches, what they are ready for, and who waits for them.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};
use std::task::Waker;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{ipproto, sockopt};

use crate::reactor::ops::Direction;

/// By descriptor number. A number is used again as soon as its descriptor is closed, so an entry
/// knows which descriptor it is for: while it holds the `Weak`, no other `Rc` can have its address.
#[derive(Default)]
pub(super) struct Registrations {
    by_number: Vec<Registration>,
    waiting: usize,
    next_waiter: u64,
}

#[derive(Default)]
struct Registration {
    descriptor: Weak<OwnedFd>,
    /// Which registration of this number it is: events of earlier ones may still come, from copies
    /// of their descriptors.
    generation: u32,
    read: Side,
    write: Side,
    /// The end of the stream, an error or urgent data was seen: a read that got less than it had
    /// room for says nothing.
    irregular: bool,
    nonblocking: bool,
    /// Whether it is a TCP socket, once somebody asked.
    tcp: Option<bool>,
}

#[derive(Default)]
struct Side {
    /// Nobody has seen it not to be ready since its last event.
    ready: bool,
    waiters: Vec<(WaiterId, Waker)>,
}

/// Names a waiter of one side of one registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reactor) struct WaiterId(u64);

fn event_data(number: RawFd, generation: u32) -> EventData {
    EventData::new_u64(u64::from(generation) << 32 | u64::from(number.cast_unsigned()))
}

impl Registration {
    fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::Read => &mut self.read,
            Direction::Write => &mut self.write,
        }
    }
}

impl Registrations {
    /// Sees to it that `descriptor` is registered, and non-blocking if it has to be.
    ///
    /// # Errors
    ///
    /// The kernel's: no memory, or the limit of `fs.epoll.max_user_watches` is reached, or the
    /// descriptor cannot be waited for.
    pub(super) fn enter(
        &mut self,
        epoll: &OwnedFd,
        descriptor: &Rc<OwnedFd>,
        nonblocking: bool,
    ) -> Result<(), Errno> {
        let number = descriptor.as_raw_fd();
        // Descriptors are not negative.
        let index = number.cast_unsigned() as usize;
        if index >= self.by_number.len() {
            self.by_number.resize_with(index + 1, Registration::default);
        }
        let registration = &mut self.by_number[index];
        if !std::ptr::eq(registration.descriptor.as_ptr(), Rc::as_ptr(descriptor)) {
            let generation = registration.generation.wrapping_add(1);
            let flags =
                EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::PRI | EventFlags::ET;
            let data = event_data(number, generation);
            match epoll::add(epoll, &**descriptor, data, flags) {
                // Registered by an `Rc` before this one: its events are to carry the new
                // generation, and come once more.
                Err(Errno::EXIST) => epoll::modify(epoll, &**descriptor, data, flags)?,
                result => result?,
            }
            registration.descriptor = Rc::downgrade(descriptor);
            registration.generation = generation;
            // To be tried: that says what it is.
            registration.read.ready = true;
            registration.write.ready = true;
            registration.irregular = false;
            registration.nonblocking = false;
            registration.tcp = None;
        }
        if nonblocking && !registration.nonblocking {
            let flags = rustix::fs::fcntl_getfl(&**descriptor)?;
            rustix::fs::fcntl_setfl(&**descriptor, flags | OFlags::NONBLOCK)?;
            registration.nonblocking = true;
        }
        Ok(())
    }

    fn side(&mut self, number: RawFd, direction: Direction) -> &mut Side {
        self.by_number[number.cast_unsigned() as usize].side(direction)
    }

    pub(super) fn is_ready(&mut self, number: RawFd, direction: Direction) -> bool {
        self.side(number, direction).ready
    }

    /// A call would have blocked: there will be an event when it would not.
    pub(super) fn set_not_ready(&mut self, number: RawFd, direction: Direction) {
        self.side(number, direction).ready = false;
    }

    /// A read took everything that there was, if this is a TCP socket: the next arrival is an
    /// event, and trying before it is a wasted call. (Others end a read early for other reasons:
    /// datagrams, passed descriptors.)
    pub(super) fn set_drained(&mut self, descriptor: &Rc<OwnedFd>) {
        let registration = &mut self.by_number[descriptor.as_raw_fd().cast_unsigned() as usize];
        let is_tcp = *registration.tcp.get_or_insert_with(|| {
            sockopt::socket_protocol(&**descriptor).ok().flatten() == Some(ipproto::TCP)
        });
        if is_tcp && !registration.irregular {
            registration.read.ready = false;
        }
    }

    /// How many wait for a readiness.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn waiter(&mut self, number: RawFd, direction: Direction, id: WaiterId) -> Option<&mut Waker> {
        let waiters = &mut self.side(number, direction).waiters;
        waiters.iter_mut().find(|(other, _)| *other == id).map(|(_, waker)| waker)
    }

    pub(super) fn add_waiter(&mut self, number: RawFd, direction: Direction, waker: Waker) -> WaiterId {
        let id = WaiterId(self.next_waiter);
        self.next_waiter += 1;
        self.waiting += 1;
        self.side(number, direction).waiters.push((id, waker));
        id
    }

    pub(super) fn remove_waiter(
        &mut self,
        number: RawFd,
        direction: Direction,
        id: WaiterId,
    ) -> Option<Waker> {
        let waiters = &mut self.side(number, direction).waiters;
        let at = waiters.iter().position(|(other, _)| *other == id)?;
        let (_, waker) = waiters.remove(at);
        self.waiting -= 1;
        Some(waker)
    }

    /// Notes an event and moves those who wait for it to `woken`.
    pub(super) fn event(&mut self, event: &epoll::Event, woken: &mut Vec<Waker>) {
        let (data, flags) = (event.data.u64(), event.flags);
        let number = usize::try_from(data & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        let Some(registration) = self.by_number.get_mut(number) else { return };
        if u64::from(registration.generation) != data >> 32 {
            return;
        }
        let ended = EventFlags::HUP | EventFlags::ERR;
        registration.irregular |= flags.intersects(ended | EventFlags::RDHUP | EventFlags::PRI);
        let reads = ended | EventFlags::IN | EventFlags::RDHUP | EventFlags::PRI;
        let before = woken.len();
        for (side, wanted) in
            [(&mut registration.read, reads), (&mut registration.write, ended | EventFlags::OUT)]
        {
            if flags.intersects(wanted) {
                side.ready = true;
                woken.extend(side.waiters.drain(..).map(|(_, waker)| waker));
            }
        }
        self.waiting -= woken.len() - before;
    }
}
