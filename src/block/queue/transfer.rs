//! The future of one request.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::flight::{Ended, RequestId};
use super::pieces::{Pieces, segment};
use super::port::{CommandKind, Port, Segment};
use super::request::{Kept, Wanted};
use super::{Queue, QueueEnd, QueueState};
use crate::error::{BufError, Error, Result};
use crate::mem::DmaBuf;
use crate::rt::task::waiting_for;

/// What a request works on.
pub(super) trait Memory: Unpin {
    /// The memory to fill or to write, and what is expected there.
    fn segments(&mut self, memory: &mut Pieces, expected: &mut Pieces);

    /// The memory, if it is one piece and nothing is expected.
    #[inline]
    fn one(&mut self) -> Option<Segment> {
        None
    }

    fn into_kept(self) -> Kept;
}

impl Memory for () {
    fn segments(&mut self, _memory: &mut Pieces, _expected: &mut Pieces) {}

    fn into_kept(self) -> Kept {
        Kept::Nothing
    }
}

impl Memory for DmaBuf {
    fn segments(&mut self, memory: &mut Pieces, _expected: &mut Pieces) {
        memory.push(segment(self));
    }

    #[inline]
    fn one(&mut self) -> Option<Segment> {
        Some(segment(self))
    }

    fn into_kept(self) -> Kept {
        Kept::One(self)
    }
}

impl Memory for Vec<DmaBuf> {
    fn segments(&mut self, memory: &mut Pieces, _expected: &mut Pieces) {
        memory.extend(self.iter_mut().filter(|buf| !buf.is_empty()).map(|buf| segment(buf)));
    }

    fn into_kept(self) -> Kept {
        Kept::Many(self)
    }
}

/// What is expected, and what is written.
impl Memory for (DmaBuf, DmaBuf) {
    fn segments(&mut self, memory: &mut Pieces, expected: &mut Pieces) {
        expected.push(segment(&mut self.0));
        memory.push(segment(&mut self.1));
    }

    fn into_kept(self) -> Kept {
        Kept::Two(self.0, self.1)
    }
}

/// How a request stands.
// Two words that fit into registers, which no nesting of `Poll` and `Result` does.
enum Progress {
    Pending,
    /// It is done.
    Done,
    /// A compare-and-write found something else.
    Missed,
    Failed(Error),
}

/// A request, from its first poll to its end; gives its memory back.
#[must_use = "futures do nothing unless awaited"]
pub(super) struct Transfer<P: Port, M: Memory> {
    queue: Rc<Queue<P>>,
    wanted: Wanted,
    /// `None` once it was given back.
    memory: Option<M>,
    request: Option<RequestId>,
}

impl<P: Port, M: Memory> Transfer<P, M> {
    #[inline]
    pub(super) fn new(queue: &Rc<Queue<P>>, wanted: Wanted, memory: M) -> Self {
        Self { queue: Rc::clone(queue), wanted, memory: Some(memory), request: None }
    }

    fn is_allowed(&self) -> bool {
        let (info, wanted) = (&self.queue.info, &self.wanted);
        let is_range = || info.is_range(wanted.offset, wanted.len, self.queue.size_bytes.get());
        (wanted.kind == CommandKind::Flush || is_range()) && (wanted.kind.only_reads() || !info.read_only)
    }

    /// What is wrong with a request that is not allowed.
    #[cold]
    fn check(&self) -> Result<()> {
        let (info, wanted) = (&self.queue.info, &self.wanted);
        let operation = wanted.kind.name();
        if wanted.kind != CommandKind::Flush {
            info.check_range(operation, wanted.offset, wanted.len, self.queue.size_bytes.get())?;
        }
        if wanted.kind.only_reads() { Ok(()) } else { info.check_writable(operation) }
    }

    /// Has the request sent, as far as there is room.
    fn begin(&mut self, cx: &mut Context<'_>) -> Progress {
        if !self.is_allowed()
            && let Err(error) = self.check()
        {
            return Progress::Failed(error);
        }
        // Cloning a waker may be user code: not under the borrow.
        let waker = cx.waker().clone();
        let queue = &*self.queue;
        let mut guard = queue.state.borrow_mut();
        let QueueState { port, flight, end, .. } = &mut *guard;
        if end.is_some() {
            drop(guard);
            return Progress::Failed(queue.closed(self.wanted.kind.name()));
        }
        let memory = self.memory.as_mut().expect("`progress` found it there");
        let mut stats = queue.stats.borrow_mut();
        let id = flight.begin(self.wanted, waker, memory, (port, &queue.info), &mut stats);
        self.request = Some(id);
        let ended = flight.take_ended(id);
        drop((stats, guard));
        match ended {
            None => Progress::Pending,
            Some(ended) => self.ended(ended),
        }
    }

    /// What became of it, if it has ended.
    #[inline]
    fn proceed(&mut self, id: RequestId, cx: &mut Context<'_>) -> Progress {
        let mut state = self.queue.state.borrow_mut();
        if let Some(ended) = state.flight.take_ended(id) {
            drop(state);
            return self.ended(ended);
        }
        match state.end {
            None if state.flight.wakes(id, cx.waker()) => {}
            None => {
                drop(state);
                let waker = cx.waker().clone();
                let before = self.queue.state.borrow_mut().flight.set_waker(id, waker);
                drop(before);
            }
            Some(QueueEnd::Clean) => {
                drop(state);
                self.request = None;
                return Progress::Failed(self.queue.closed(self.wanted.kind.name()));
            }
            // The device may still work on the memory: nobody gets it.
            Some(QueueEnd::Uncertain) => {}
        }
        Progress::Pending
    }

    #[inline]
    fn ended(&mut self, ended: Ended) -> Progress {
        self.request = None;
        match ended {
            Ok(()) => Progress::Done,
            Err((failure, _)) if failure.miscompare => Progress::Missed,
            Err((failure, offset)) => {
                Progress::Failed(failure.into_error(self.wanted.kind, &self.queue.info.name, offset))
            }
        }
    }

    /// How it stands. Unless it is pending, the memory is the caller's.
    // Not inlined, so that the polls around it are: then the memory moves once and not through each
    // of them.
    #[inline(never)]
    fn progress(&mut self, cx: &mut Context<'_>) -> Progress {
        assert!(self.memory.is_some(), "a transfer is not polled again after its result");
        let progress = match self.request {
            None => self.begin(cx),
            Some(id) => self.proceed(id, cx),
        };
        if matches!(progress, Progress::Pending) {
            waiting_for(waits_for(self.wanted.kind));
        }
        progress
    }

    /// Gives the memory back.
    ///
    /// # Safety
    ///
    /// [`Transfer::progress`], in the same poll, was not pending.
    #[inline(always)]
    unsafe fn give_back(&mut self) -> M {
        debug_assert!(self.memory.is_some(), "`progress` leaves it where it is");
        // Asking whether it is there would make the buffer a pointer and two other words, which the
        // next to move it reads as two words and one: a wait of some nanoseconds, at each I/O.
        // SAFETY: by the caller's word `progress` has returned in this poll; it panics unless the
        // memory is there, and never takes it.
        unsafe { self.memory.take().unwrap_unchecked() }
    }
}

impl<P: Port, M: Memory> Future for Transfer<P, M> {
    /// Whether a compare-and-write found what it expected; true for others.
    type Output = std::result::Result<(bool, M), BufError<M>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match self.progress(cx) {
            Progress::Pending => return Poll::Pending,
            Progress::Failed(error) => Err(error),
            Progress::Done => Ok(true),
            Progress::Missed => Ok(false),
        };
        // SAFETY: it was not pending.
        let memory = unsafe { self.give_back() };
        Poll::Ready(match result {
            Ok(found) => Ok((found, memory)),
            Err(error) => Err(BufError::new(error, memory)),
        })
    }
}

/// A transfer that has no other result than its memory.
#[must_use = "futures do nothing unless awaited"]
pub(super) struct Moved<P: Port, M: Memory>(pub(super) Transfer<P, M>);

impl<P: Port, M: Memory> Future for Moved<P, M> {
    type Output = std::result::Result<M, BufError<M>>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.0.progress(cx) {
            Progress::Pending => Poll::Pending,
            // SAFETY: it was not pending.
            Progress::Done | Progress::Missed => Poll::Ready(Ok(unsafe { self.0.give_back() })),
            Progress::Failed(error) => {
                // SAFETY: as above.
                let memory = unsafe { self.0.give_back() };
                Poll::Ready(Err(BufError::new(error, memory)))
            }
        }
    }
}

const fn waits_for(kind: CommandKind) -> &'static str {
    match kind {
        CommandKind::Read => "a read of a namespace",
        CommandKind::Write { .. } => "a write to a namespace",
        CommandKind::Flush => "a flush of a namespace",
        CommandKind::Trim => "a trim of a namespace",
        CommandKind::WriteZeroes => "zeros written to a namespace",
        CommandKind::CompareAndWrite => "a compare and write to a namespace",
    }
}

impl<P: Port, M: Memory> Drop for Transfer<P, M> {
    fn drop(&mut self) {
        let Some(id) = self.request.take() else { return };
        let Some(memory) = self.memory.take() else { return };
        let mut state = self.queue.state.borrow_mut();
        match state.end {
            Some(QueueEnd::Uncertain) => mem::forget(memory),
            Some(QueueEnd::Clean) => {}
            None => {
                let mut stats = self.queue.stats.borrow_mut();
                let waker = state.flight.orphan(id, memory.into_kept(), &mut stats);
                drop(stats);
                drop(state);
                drop(waker);
            }
        }
    }
}
