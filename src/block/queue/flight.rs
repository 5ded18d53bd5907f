//! The requests of a queue, and the commands that the device has of them.

use std::collections::VecDeque;
use std::task::Waker;

use smallvec::SmallVec;

use super::super::NamespaceInfo;
use super::super::stats::NamespaceStats;
use super::port::{Command, CommandKind, Failure, Port, Refused, Segment};
use crate::error::{ErrorKind, Outcome};
use crate::mem::{Arena, DmaBuf};
use crate::time::Instant;

/// The longest command that moves bytes: what a copy of its memory fits into.
const MAX_COMMAND_BYTES: u64 = 1 << 20;
/// The longest command that moves none (a trim, zeros).
const MAX_RANGE_BYTES: u64 = 32 << 20;
/// How often a command is sent again that the device asks to send again.
const MAX_TRIES: u8 = 4;
/// After so many commands a request gives way to those behind it: a trim of a terabyte has many
/// thousands.
const COMMANDS_PER_TURN: u32 = 16;

/// The memory of a request or of a command. Mostly one piece, which then takes no memory elsewhere.
pub(super) type Pieces = SmallVec<[Segment; 1]>;

/// The number of a request.
pub(super) type RequestId = u32;

/// What a caller wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) kind: CommandKind,
    /// In bytes.
    pub(super) offset: u64,
    /// In bytes.
    pub(super) len: u64,
    /// A flush follows when everything is written.
    pub(super) then_flush: bool,
}

/// The memory of a request whose future was dropped.
#[expect(dead_code, reason = "what is kept is dropped, and not used otherwise")]
pub(super) enum Kept {
    Nothing,
    One(DmaBuf),
    Two(DmaBuf, DmaBuf),
    Many(Vec<DmaBuf>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Free,
    Live,
    Orphaned,
    Done,
}

struct Request {
    stage: Stage,
    /// What is to be sent: in the end perhaps a flush.
    wanted: Wanted,
    /// What it counts as, and how many bytes it moves.
    counts_as: (CommandKind, u64),
    /// How many of its bytes were sent.
    sent: u64,
    /// There is more to send. It is in line, unless it is being sent at once.
    has_more: bool,
    /// Its commands that the device has, or that are to be sent again.
    commands: u32,
    failure: Option<(Box<Failure>, u64)>,
    /// Commands of it were with the device: whatever a later one says, it may have had an effect.
    was_sent: bool,
    memory: Pieces,
    expected: Pieces,
    /// Boxed: it is rare, and what all requests take should stay in the processor's cache.
    kept: Option<Box<Kept>>,
    waker: Option<Waker>,
    began: Option<Instant>,
}

impl Request {
    const fn free() -> Self {
        Self {
            stage: Stage::Free,
            wanted: Wanted { kind: CommandKind::Flush, offset: 0, len: 0, then_flush: false },
            counts_as: (CommandKind::Flush, 0),
            sent: 0,
            has_more: false,
            commands: 0,
            failure: None,
            was_sent: false,
            memory: SmallVec::new_const(),
            expected: SmallVec::new_const(),
            kept: None,
            waker: None,
            began: None,
        }
    }

    fn is_with_device(&self) -> bool {
        self.commands > 0
    }
}

/// A command that the device has.
struct Sent {
    request: RequestId,
    offset: u64,
    len: u64,
    tries: u8,
    /// The memory that the device works on, if it is not the request's own. Boxed: it is rare, and
    /// every command is moved.
    copy: Option<Box<DmaBuf>>,
}

/// What became of a request's next command.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It was the last: the request has nothing more to send.
    AllSent,
    /// There is more.
    More,
    /// There is no room.
    Full,
}

/// How a request ended.
pub(super) type Ended = Result<(), (Box<Failure>, u64)>;

/// See the table in [the module](super).
pub(super) struct Flight {
    requests: Vec<Request>,
    free_requests: Vec<RequestId>,
    /// Those that have something to send, in order.
    line: VecDeque<RequestId>,
    /// How many commands the first in line may send until it gives way.
    turn_left: u32,
    /// Commands that are to be sent again, before anything else.
    again: VecDeque<Sent>,
    slots: Vec<Option<Sent>>,
    free_slots: Vec<u16>,
    /// Requests that began since the last turn.
    fresh: Vec<RequestId>,
    woken: Vec<Waker>,
    live: u64,
    /// The pieces of the command that is being sent.
    pieces: Pieces,
    expected_pieces: Pieces,
    /// For copies of what the device cannot reach.
    arena: Arena,
}

impl Flight {
    pub(super) fn new(slots: u16, arena: Arena) -> Self {
        Self {
            requests: Vec::new(),
            free_requests: Vec::new(),
            line: VecDeque::new(),
            turn_left: COMMANDS_PER_TURN,
            again: VecDeque::new(),
            slots: (0..slots).map(|_| None).collect(),
            free_slots: (0..slots).rev().collect(),
            fresh: Vec::new(),
            woken: Vec::new(),
            live: 0,
            pieces: Pieces::new(),
            expected_pieces: Pieces::new(),
            arena,
        }
    }

    /// How many commands the device has.
    pub(super) fn in_use(&self) -> usize {
        self.slots.len() - self.free_slots.len()
    }

    /// Whether something waits to be sent for which there is a slot.
    pub(super) fn has_more_to_send(&self) -> bool {
        let has_more = !self.line.is_empty() || !self.again.is_empty();
        has_more && !self.free_slots.is_empty()
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.in_use() == 0 && self.line.is_empty() && self.again.is_empty()
    }

    /// A new request, which is last in line; sends what there is room for. Its memory is what
    /// `fill` says.
    ///
    /// The caller keeps that memory in place, and uses it no more, until the request has ended or
    /// [`Flight::orphan`] took it.
    #[inline]
    pub(super) fn begin<P: Port>(
        &mut self,
        wanted: Wanted,
        waker: Waker,
        fill: impl FnOnce(&mut Pieces, &mut Pieces),
        (port, info): (&mut P, &NamespaceInfo),
        stats: &mut NamespaceStats,
    ) -> RequestId {
        let id = self.free_requests.pop().unwrap_or_else(|| {
            self.requests.push(Request::free());
            RequestId::try_from(self.requests.len() - 1).expect("memory ends before the numbers do")
        });
        let request = &mut self.requests[id as usize];
        request.stage = Stage::Live;
        request.wanted = wanted;
        request.counts_as = (wanted.kind, wanted.len);
        request.sent = 0;
        request.has_more = true;
        request.was_sent = false;
        request.waker = Some(waker);
        request.began = None;
        request.memory.clear();
        request.expected.clear();
        fill(&mut request.memory, &mut request.expected);
        self.fresh.push(id);
        self.live += 1;
        stats.queue_depth = self.live;
        stats.max_queue_depth = stats.max_queue_depth.max(self.live);
        // Mostly nobody is before it, and it is one command: the line is for the others.
        let goes_at_once = self.line.is_empty() && self.again.is_empty();
        if !goes_at_once || self.send_next(port, info, id, stats) != Next::AllSent {
            self.line.push_back(id);
            self.send(port, info, stats);
        }
        id
    }

    /// The result of a request that ended, once.
    #[inline]
    pub(super) fn take_ended(&mut self, id: RequestId) -> Option<Ended> {
        let request = &mut self.requests[id as usize];
        if request.stage != Stage::Done {
            return None;
        }
        let ended = request.failure.take().map_or(Ok(()), Err);
        self.release(id);
        Some(ended)
    }

    /// Whether `waker` is the one that a request wakes.
    pub(super) fn wakes(&self, id: RequestId, waker: &Waker) -> bool {
        self.requests[id as usize].waker.as_ref().is_some_and(|kept| kept.will_wake(waker))
    }

    /// Has a request wake `waker`; returns the one before, to be dropped where user code may run.
    pub(super) fn set_waker(&mut self, id: RequestId, waker: Waker) -> Option<Waker> {
        self.requests[id as usize].waker.replace(waker)
    }

    /// The future of a request is dropped. What is returned is to be dropped where user code may
    /// run; the memory is not, while the device has it.
    pub(super) fn orphan(&mut self, id: RequestId, kept: Kept, stats: &mut NamespaceStats) -> Option<Waker> {
        let request = &mut self.requests[id as usize];
        let waker = request.waker.take();
        if request.stage == Stage::Live && request.has_more {
            request.has_more = false;
            self.leave_line(id);
        }
        let request = &mut self.requests[id as usize];
        if request.stage == Stage::Live && request.is_with_device() {
            request.stage = Stage::Orphaned;
            request.wanted.then_flush = false;
            request.kept = Some(Box::new(kept));
        } else {
            if request.stage == Stage::Live {
                self.live -= 1;
                stats.queue_depth = self.live;
            }
            request.failure = None;
            self.release(id);
        }
        waker
    }

    #[cold]
    fn leave_line(&mut self, id: RequestId) {
        if self.line.front() == Some(&id) {
            self.turn_left = COMMANDS_PER_TURN;
        }
        self.line.retain(|other| *other != id);
    }

    fn release(&mut self, id: RequestId) {
        let request = &mut self.requests[id as usize];
        request.stage = Stage::Free;
        request.kept = None;
        self.free_requests.push(id);
    }

    /// Latencies count from here.
    pub(super) fn begin_turn(&mut self, now: Instant) {
        for id in self.fresh.drain(..) {
            let request = &mut self.requests[id as usize];
            request.began.get_or_insert(now);
        }
    }

    /// Sends what is in line, as far as there is room.
    pub(super) fn send<P: Port>(&mut self, port: &mut P, info: &NamespaceInfo, stats: &mut NamespaceStats) {
        while let Some(sent) = self.again.pop_front() {
            let request = &self.requests[sent.request as usize];
            if request.failure.is_some() || request.stage != Stage::Live {
                self.end_command(sent.request, None, None, stats);
                continue;
            }
            match self.send_one(port, sent, stats) {
                Ok(()) => {}
                Err(sent) => {
                    self.again.push_front(sent);
                    return;
                }
            }
        }
        while let Some(&id) = self.line.front() {
            match self.send_next(port, info, id, stats) {
                Next::AllSent => {
                    // It may have failed, and then have left the line.
                    if self.line.front() == Some(&id) {
                        self.line.pop_front();
                    }
                    self.turn_left = COMMANDS_PER_TURN;
                }
                Next::More => {
                    self.turn_left -= 1;
                    if self.turn_left == 0 {
                        self.line.rotate_left(1);
                        self.turn_left = COMMANDS_PER_TURN;
                    }
                }
                Next::Full => return,
            }
        }
    }

    /// Sends the next command of a request that has one.
    #[inline]
    fn send_next<P: Port>(
        &mut self,
        port: &mut P,
        info: &NamespaceInfo,
        id: RequestId,
        stats: &mut NamespaceStats,
    ) -> Next {
        let request = &mut self.requests[id as usize];
        let offset = request.wanted.offset + request.sent;
        let left = request.wanted.len - request.sent;
        let len = command_len(info, request.wanted.kind, offset, left);
        request.commands += 1;
        let sent = Sent { request: id, offset, len, tries: 0, copy: None };
        if self.send_one(port, sent, stats).is_err() {
            self.requests[id as usize].commands -= 1;
            return Next::Full;
        }
        let request = &mut self.requests[id as usize];
        request.sent += len;
        // One that failed has no more.
        request.has_more &= len < left;
        if request.has_more { Next::More } else { Next::AllSent }
    }

    /// Sends one command, or says by its failure that the port cannot; gives it back if there is no
    /// room.
    #[inline]
    fn send_one<P: Port>(
        &mut self,
        port: &mut P,
        sent: Sent,
        stats: &mut NamespaceStats,
    ) -> Result<(), Sent> {
        let Some(&slot) = self.free_slots.last() else { return Err(sent) };
        let request = &self.requests[sent.request as usize];
        let (memory, expected) = if sent.len == request.wanted.len {
            (&request.memory, &request.expected)
        } else {
            self.cut(sent.request, sent.offset, sent.len);
            (&self.pieces, &self.expected_pieces)
        };
        let reaches = |memory: &[Segment]| memory.is_empty() || port.accepts(memory);
        if !(reaches(memory) && reaches(expected)) {
            return self.send_copied(port, slot, sent, stats);
        }
        let kind = self.requests[sent.request as usize].wanted.kind;
        let command = Command { kind, offset: sent.offset, len: sent.len, memory, expected };
        // SAFETY: the slot is on the free list, so it is not in use and less than `slots`. The
        // memory is that of the request, which keeps it in place until its last command has ended
        // (`begin`, `orphan`).
        match unsafe { port.submit(slot, &command) } {
            Ok(()) => {
                self.occupy(slot, sent);
                Ok(())
            }
            Err(Refused::Full) => Err(sent),
            Err(Refused::Copy) => self.send_copied(port, slot, sent, stats),
            Err(Refused::Failed(failure)) => {
                self.refuse(&sent, failure, stats);
                Ok(())
            }
        }
    }

    /// Sends one command whose memory the device cannot reach, or not in these pieces: from a copy
    /// in the arena.
    #[cold]
    fn send_copied<P: Port>(
        &mut self,
        port: &mut P,
        slot: u16,
        mut sent: Sent,
        stats: &mut NamespaceStats,
    ) -> Result<(), Sent> {
        self.cut(sent.request, sent.offset, sent.len);
        let Some(copy) = self.copy(sent.request, sent.len) else {
            // Commands that end give something back.
            if self.in_use() > 0 {
                return Err(sent);
            }
            self.refuse(&sent, nothing_to_copy_to(), stats);
            return Ok(());
        };
        let command = Command {
            kind: self.requests[sent.request as usize].wanted.kind,
            offset: sent.offset,
            len: sent.len,
            memory: &self.pieces,
            expected: &self.expected_pieces,
        };
        // SAFETY: the slot is on the free list, so it is not in use and less than `slots`. The
        // memory is that of the copy, which the slot keeps.
        match unsafe { port.submit(slot, &command) } {
            Ok(()) => {
                stats.copied_bytes += sent.len;
                sent.copy = Some(Box::new(copy));
                self.occupy(slot, sent);
                Ok(())
            }
            Err(Refused::Full) => Err(sent),
            Err(Refused::Copy) => {
                self.refuse(&sent, nothing_to_copy_to(), stats);
                Ok(())
            }
            Err(Refused::Failed(failure)) => {
                self.refuse(&sent, failure, stats);
                Ok(())
            }
        }
    }

    /// The device has the command.
    #[inline]
    fn occupy(&mut self, slot: u16, sent: Sent) {
        let last = self.free_slots.pop();
        debug_assert_eq!(last, Some(slot), "it was the last of the free ones");
        self.slots[usize::from(slot)] = Some(sent);
    }

    /// The device never sees the command.
    #[cold]
    fn refuse(&mut self, sent: &Sent, failure: Failure, stats: &mut NamespaceStats) {
        self.end_command(sent.request, Some((Box::new(failure), sent.offset)), None, stats);
    }

    /// Finds the pieces of a command within the memory of its request.
    fn cut(&mut self, request: RequestId, offset: u64, len: u64) {
        let request = &self.requests[request as usize];
        let from = offset - request.wanted.offset;
        pieces(&request.memory, from, len, &mut self.pieces);
        pieces(&request.expected, from, len, &mut self.expected_pieces);
    }

    /// Copies the command that is being sent to the arena, and points its pieces there. `None` if
    /// the arena has nothing left.
    fn copy(&mut self, request: RequestId, len: u64) -> Option<DmaBuf> {
        let kind = self.requests[request as usize].wanted.kind;
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        let two = if self.expected_pieces.is_empty() { 1 } else { 2 };
        // What is not from the arena the device reaches no better.
        let mut copy = self.arena.alloc_within(bytes * two)?;
        let (front, back) = copy.split_at_mut(bytes);
        if matches!(kind, CommandKind::Write { .. } | CommandKind::CompareAndWrite) {
            copy_in(&self.pieces, front);
            copy_in(&self.expected_pieces, back);
        }
        replace(&mut self.pieces, front);
        if two == 2 {
            replace(&mut self.expected_pieces, back);
        }
        Some(copy)
    }

    /// The device is done with a command.
    #[inline]
    pub(super) fn complete(
        &mut self,
        slot: u16,
        result: Result<(), Box<Failure>>,
        now: Instant,
        stats: &mut NamespaceStats,
    ) {
        let Some(mut sent) = self.slots.get_mut(usize::from(slot)).and_then(Option::take) else {
            debug_assert!(false, "the port says that slot {slot} is done, which is not in use");
            return;
        };
        self.free_slots.push(slot);
        let request = &mut self.requests[sent.request as usize];
        let is_live = request.stage == Stage::Live;
        let failure = match result {
            Ok(()) => {
                request.was_sent = true;
                if let Some(copy) = &sent.copy
                    && is_live
                    && request.wanted.kind == CommandKind::Read
                {
                    pieces(&request.memory, sent.offset - request.wanted.offset, sent.len, &mut self.pieces);
                    copy_out(copy, &self.pieces);
                }
                None
            }
            Err(failure) if failure.retry && is_live && sent.tries + 1 < MAX_TRIES => {
                stats.retries += 1;
                request.was_sent = true;
                sent.tries += 1;
                sent.copy = None;
                self.again.push_back(sent);
                return;
            }
            Err(failure) => Some((failure, sent.offset)),
        };
        let id = sent.request;
        drop(sent);
        self.end_command(id, failure, Some(now), stats);
    }

    /// One command of a request has ended, at `now` if the device had it; the last one ends the
    /// request.
    #[inline]
    fn end_command(
        &mut self,
        id: RequestId,
        failure: Option<(Box<Failure>, u64)>,
        now: Option<Instant>,
        stats: &mut NamespaceStats,
    ) {
        let request = &mut self.requests[id as usize];
        request.commands -= 1;
        if failure.is_some() && request.failure.is_none() {
            request.failure = failure;
        }
        // Others of its commands are with the device, or were.
        if (request.was_sent || request.commands > 0)
            && let Some((failure, _)) = &mut request.failure
        {
            failure.outcome = Outcome::Unknown;
        }
        if request.failure.is_some() && request.has_more {
            // It sends no more.
            request.has_more = false;
            self.leave_line(id);
        }
        let request = &mut self.requests[id as usize];
        if request.commands > 0 || request.has_more {
            return;
        }
        if request.wanted.then_flush && request.failure.is_none() {
            request.wanted.then_flush = false;
            request.wanted.kind = CommandKind::Flush;
            (request.wanted.len, request.sent) = (0, 0);
            request.memory.clear();
            request.has_more = true;
            self.line.push_back(id);
            return;
        }
        self.end_request(id, now, stats);
    }

    fn end_request(&mut self, id: RequestId, now: Option<Instant>, stats: &mut NamespaceStats) {
        self.live -= 1;
        stats.queue_depth = self.live;
        let request = &mut self.requests[id as usize];
        if request.stage == Stage::Orphaned {
            request.failure = None;
            self.release(id);
            return;
        }
        let (kind, bytes) = request.counts_as;
        let counted = stats.of(kind);
        match &request.failure {
            Some((failure, _)) if !failure.miscompare => counted.failed += 1,
            _ => {
                let nanos = request.began.zip(now).map(|(began, now)| {
                    u64::try_from(now.saturating_since(began).as_nanos()).unwrap_or(u64::MAX)
                });
                counted.record(bytes, nanos);
            }
        }
        request.stage = Stage::Done;
        self.woken.extend(request.waker.take());
    }

    /// Those to wake. Give the list back with [`Flight::return_woken`], so that it is not made
    /// anew.
    pub(super) fn take_woken(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.woken)
    }

    pub(super) fn return_woken(&mut self, mut woken: Vec<Waker>) {
        if self.woken.is_empty() {
            woken.clear();
            self.woken = woken;
        }
    }

    /// The queue ended. If it is not `clean`, memory that the device had stays allocated for ever.
    pub(super) fn give_up(&mut self, clean: bool) {
        self.line.clear();
        let sent = self.slots.iter_mut().filter_map(Option::take);
        for sent in sent.chain(self.again.drain(..)) {
            let request = &mut self.requests[sent.request as usize];
            let kept = request.kept.take();
            if !clean {
                std::mem::forget((sent, kept));
            }
        }
    }
}

fn nothing_to_copy_to() -> Failure {
    Failure {
        outcome: Outcome::NotStarted,
        ..Failure::new(
            ErrorKind::OutOfMemory,
            "the memory is none that the device can reach, and the core's arena has none left for a copy: \
             give the core a larger arena, or take buffers from it",
        )
    }
}

/// How long the next command is of a request that wants `left` bytes from `offset` on.
fn command_len(info: &NamespaceInfo, kind: CommandKind, offset: u64, left: u64) -> u64 {
    match kind {
        CommandKind::Flush | CommandKind::CompareAndWrite => left,
        CommandKind::Trim | CommandKind::WriteZeroes => left.min(MAX_RANGE_BYTES),
        CommandKind::Read | CommandKind::Write { .. } => {
            let len = left.min(info.max_transfer_bytes.into()).min(MAX_COMMAND_BYTES);
            match u64::from(info.optimal_boundary_bytes) {
                0 => len,
                boundary => len.min(boundary - offset % boundary),
            }
        }
    }
}

pub(super) fn segment(buf: &mut [u8]) -> Segment {
    let len = buf.len();
    Segment { ptr: std::ptr::NonNull::from(buf).cast(), len }
}

/// The pieces of `memory` from byte `from` on, `len` bytes of them.
fn pieces(memory: &[Segment], from: u64, len: u64, pieces: &mut Pieces) {
    pieces.clear();
    let mut skip = usize::try_from(from).unwrap_or(usize::MAX);
    let mut left = usize::try_from(len).unwrap_or(usize::MAX);
    for segment in memory {
        if skip >= segment.len {
            skip -= segment.len;
            continue;
        }
        let len = (segment.len - skip).min(left);
        // SAFETY: `skip` is less than the segment's length, so the pointer stays inside its memory.
        let ptr = unsafe { segment.ptr.add(skip) };
        pieces.push(Segment { ptr, len });
        skip = 0;
        left -= len;
        if left == 0 {
            break;
        }
    }
}

fn replace(pieces: &mut Pieces, copy: &mut [u8]) {
    pieces.clear();
    pieces.push(segment(copy));
}

/// Copies what `pieces` hold to the front of `copy`.
fn copy_in(pieces: &[Segment], copy: &mut [u8]) {
    let mut rest = copy;
    for piece in pieces {
        let (to, after) = rest.split_at_mut(piece.len);
        // SAFETY: the pieces are of the memory of a request, which its future keeps valid and does
        // not use meanwhile (`Flight::begin`); the device does not have it yet. The copy is another
        // buffer.
        unsafe { piece.ptr.copy_to_nonoverlapping(std::ptr::NonNull::from(to).cast(), piece.len) };
        rest = after;
    }
}

/// Copies the front of `copy` to `pieces`.
fn copy_out(copy: &[u8], pieces: &[Segment]) {
    let mut rest = copy;
    for piece in pieces {
        let (from, after) = rest.split_at(piece.len);
        // SAFETY: as in `copy_in`; the request is live, so its future keeps the memory.
        unsafe { piece.ptr.copy_from_nonoverlapping(std::ptr::NonNull::from(from).cast(), piece.len) };
        rest = after;
    }
}
