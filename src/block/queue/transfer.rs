//! The future of one request.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::flight::{Ended, Kept, RequestId, Wanted, segment};
use super::port::{CommandKind, Port, Segment};
use super::{Queue, QueueEnd, QueueState};
use crate::error::{BufError, Result};
use crate::mem::DmaBuf;
use crate::rt::noted;

/// What a request works on.
pub(super) trait Memory: Unpin {
    /// The memory to fill or to write, and what is expected there.
    fn segments(&mut self, memory: &mut Vec<Segment>, expected: &mut Vec<Segment>);

    fn into_kept(self) -> Kept;
}

impl Memory for () {
    fn segments(&mut self, _memory: &mut Vec<Segment>, _expected: &mut Vec<Segment>) {}

    fn into_kept(self) -> Kept {
        Kept::Nothing
    }
}

impl Memory for DmaBuf {
    fn segments(&mut self, memory: &mut Vec<Segment>, _expected: &mut Vec<Segment>) {
        memory.push(segment(self));
    }

    fn into_kept(self) -> Kept {
        Kept::One(self)
    }
}

impl Memory for Vec<DmaBuf> {
    fn segments(&mut self, memory: &mut Vec<Segment>, _expected: &mut Vec<Segment>) {
        memory.extend(self.iter_mut().filter(|buf| !buf.is_empty()).map(|buf| segment(buf)));
    }

    fn into_kept(self) -> Kept {
        Kept::Many(self)
    }
}

/// What is expected, and what is written.
impl Memory for (DmaBuf, DmaBuf) {
    fn segments(&mut self, memory: &mut Vec<Segment>, expected: &mut Vec<Segment>) {
        expected.push(segment(&mut self.0));
        memory.push(segment(&mut self.1));
    }

    fn into_kept(self) -> Kept {
        Kept::Two(self.0, self.1)
    }
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
    pub(super) fn new(queue: &Rc<Queue<P>>, wanted: Wanted, memory: M) -> Self {
        Self { queue: Rc::clone(queue), wanted, memory: Some(memory), request: None }
    }

    fn check(&self) -> Result<()> {
        let (info, wanted) = (&self.queue.info, &self.wanted);
        let operation = wanted.kind.name();
        if wanted.kind != CommandKind::Flush {
            info.check_range(operation, wanted.offset, wanted.len, self.queue.size_bytes.get())?;
        }
        if wanted.kind.only_reads() { Ok(()) } else { info.check_writable(operation) }
    }

    /// Puts the request in line and sends what there is room for.
    fn begin(&mut self, cx: &mut Context<'_>) -> Option<Ended> {
        // Cloning a waker may be user code: not under the borrow.
        let waker = cx.waker().clone();
        let memory = self.memory.as_mut()?;
        let mut state = self.queue.state.borrow_mut();
        let QueueState { port, flight, .. } = &mut *state;
        let mut stats = self.queue.stats.borrow_mut();
        let fill = |pieces: &mut Vec<Segment>, expected: &mut Vec<Segment>| memory.segments(pieces, expected);
        let id = flight.begin(self.wanted, waker, fill, &mut stats);
        self.request = Some(id);
        flight.send(port, &self.queue.info, &mut stats);
        flight.take_ended(id)
    }

    /// What became of it, if it has ended.
    fn proceed(&mut self, id: RequestId, cx: &mut Context<'_>) -> Option<Ended> {
        let mut state = self.queue.state.borrow_mut();
        let ended = state.flight.take_ended(id);
        if ended.is_none() && !state.flight.wakes(id, cx.waker()) {
            drop(state);
            let waker = cx.waker().clone();
            let before = self.queue.state.borrow_mut().flight.set_waker(id, waker);
            drop(before);
        }
        ended
    }
}

impl<P: Port, M: Memory> Future for Transfer<P, M> {
    /// Whether a compare-and-write found what it expected; true for others.
    type Output = std::result::Result<(bool, M), BufError<M>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let end = this.queue.state.borrow().end;
        let ended = match (this.request, end) {
            // The device may still work on the memory: nobody gets it.
            (Some(_), Some(QueueEnd::Uncertain)) => return Poll::Pending,
            (None, Some(_)) | (Some(_), Some(QueueEnd::Clean)) => {
                let error = this.queue.closed(this.wanted.kind.name());
                this.request = None;
                return Poll::Ready(Err(BufError::new(error, given_back(&mut this.memory))));
            }
            (None, None) => {
                if let Err(error) = this.check() {
                    return Poll::Ready(Err(BufError::new(error, given_back(&mut this.memory))));
                }
                this.begin(cx)
            }
            (Some(id), None) => this.proceed(id, cx),
        };
        let Some(ended) = ended else {
            return noted(waits_for(this.wanted.kind), Poll::Pending);
        };
        this.request = None;
        let memory = given_back(&mut this.memory);
        Poll::Ready(match ended {
            Ok(()) => Ok((true, memory)),
            Err((failure, _)) if failure.miscompare => Ok((false, memory)),
            Err((failure, offset)) => {
                let error = failure.into_error(this.wanted.kind, &this.queue.info.name, offset);
                Err(BufError::new(error, memory))
            }
        })
    }
}

/// A transfer that has no other result than its memory.
#[must_use = "futures do nothing unless awaited"]
pub(super) struct Moved<P: Port, M: Memory>(pub(super) Transfer<P, M>);

impl<P: Port, M: Memory> Future for Moved<P, M> {
    type Output = std::result::Result<M, BufError<M>>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_ok(|(_, memory)| memory)
    }
}

fn given_back<M>(memory: &mut Option<M>) -> M {
    memory.take().expect("a transfer is not polled again after its result")
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
