//! The requests of a queue, and the commands that the device has of them.

use std::collections::VecDeque;
use std::task::Waker;

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
    /// There is more to send, and it is in line.
    in_line: bool,
    /// Its commands that the device has, or that are to be sent again.
    commands: u32,
    failure: Option<(Box<Failure>, u64)>,
    /// Commands of it were with the device: whatever a later one says, it may have had an effect.
    was_sent: bool,
    memory: Vec<Segment>,
    expected: Vec<Segment>,
    kept: Kept,
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
            in_line: false,
            commands: 0,
            failure: None,
            was_sent: false,
            memory: Vec::new(),
            expected: Vec::new(),
            kept: Kept::Nothing,
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
    /// The memory that the device works on, if it is not the request's own.
    copy: Option<DmaBuf>,
}

/// How a request ended.
pub(super) type Ended = Result<(), (Box<Failure>, u64)>;

/// See the table in [the module](super).
pub(super) struct Flight {
    requests: Vec<Request>,
    free_requests: Vec<RequestId>,
    /// Those that have something to send, in order.
    line: VecDeque<RequestId>,
    /// Commands that are to be sent again, before anything else.
    again: VecDeque<Sent>,
    slots: Vec<Option<Sent>>,
    free_slots: Vec<u16>,
    /// Requests that began since the last turn.
    fresh: Vec<RequestId>,
    woken: Vec<Waker>,
    live: u64,
    /// The pieces of the command that is being sent.
    pieces: Vec<Segment>,
    expected_pieces: Vec<Segment>,
    /// For copies of what the device cannot reach.
    arena: Arena,
}

impl Flight {
    pub(super) fn new(slots: u16, arena: Arena) -> Self {
        Self {
            requests: Vec::new(),
            free_requests: Vec::new(),
            line: VecDeque::new(),
            again: VecDeque::new(),
            slots: (0..slots).map(|_| None).collect(),
            free_slots: (0..slots).rev().collect(),
            fresh: Vec::new(),
            woken: Vec::new(),
            live: 0,
            pieces: Vec::new(),
            expected_pieces: Vec::new(),
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

    /// A new request, which is last in line. Its memory is what `fill` says.
    ///
    /// The caller keeps that memory in place, and uses it no more, until the request has ended or
    /// [`Flight::orphan`] took it.
    pub(super) fn begin(
        &mut self,
        wanted: Wanted,
        waker: Waker,
        fill: impl FnOnce(&mut Vec<Segment>, &mut Vec<Segment>),
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
        request.in_line = true;
        request.was_sent = false;
        request.waker = Some(waker);
        request.began = None;
        request.memory.clear();
        request.expected.clear();
        fill(&mut request.memory, &mut request.expected);
        self.line.push_back(id);
        self.fresh.push(id);
        self.live += 1;
        stats.queue_depth = self.live;
        stats.max_queue_depth = stats.max_queue_depth.max(self.live);
        id
    }

    /// The result of a request that ended, once.
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
        if request.stage == Stage::Live && request.in_line {
            request.in_line = false;
            self.line.retain(|other| *other != id);
        }
        let request = &mut self.requests[id as usize];
        if request.stage == Stage::Live && request.is_with_device() {
            request.stage = Stage::Orphaned;
            request.wanted.then_flush = false;
            request.kept = kept;
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

    fn release(&mut self, id: RequestId) {
        let request = &mut self.requests[id as usize];
        request.stage = Stage::Free;
        request.kept = Kept::Nothing;
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
                self.end_command(sent.request, None, stats);
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
            let request = &self.requests[id as usize];
            let offset = request.wanted.offset + request.sent;
            let len = command_len(info, request.wanted.kind, offset, request.wanted.len - request.sent);
            let is_last = request.sent + len == request.wanted.len;
            self.requests[id as usize].commands += 1;
            match self.send_one(port, Sent { request: id, offset, len, tries: 0, copy: None }, stats) {
                Ok(()) => {
                    let request = &mut self.requests[id as usize];
                    request.sent += len;
                    // It may have failed, and then have left the line.
                    if is_last && request.in_line {
                        request.in_line = false;
                        self.line.pop_front();
                    }
                }
                Err(_) => {
                    self.requests[id as usize].commands -= 1;
                    return;
                }
            }
        }
    }

    /// Sends one command, or says by its failure that the port cannot; gives it back if there is no
    /// room.
    fn send_one<P: Port>(
        &mut self,
        port: &mut P,
        mut sent: Sent,
        stats: &mut NamespaceStats,
    ) -> Result<(), Sent> {
        let Some(&slot) = self.free_slots.last() else { return Err(sent) };
        let request = &self.requests[sent.request as usize];
        let kind = request.wanted.kind;
        let from = sent.offset - request.wanted.offset;
        pieces(&request.memory, from, sent.len, &mut self.pieces);
        pieces(&request.expected, from, sent.len, &mut self.expected_pieces);
        let reaches = |memory: &[Segment]| memory.is_empty() || port.accepts(memory);
        let mut must_copy = !(reaches(&self.pieces) && reaches(&self.expected_pieces));
        loop {
            if must_copy {
                match self.copy(sent.request, sent.len) {
                    Some(copy) => sent.copy = Some(copy),
                    // Commands that end give something back.
                    None if self.in_use() > 0 => return Err(sent),
                    None => {
                        let failure = (Box::new(nothing_to_copy_to()), sent.offset);
                        self.end_command(sent.request, Some(failure), stats);
                        return Ok(());
                    }
                }
            }
            let command = Command {
                kind,
                offset: sent.offset,
                len: sent.len,
                memory: &self.pieces,
                expected: &self.expected_pieces,
            };
            // SAFETY: the slot is on the free list, so it is not in use and less than `slots`. The
            // memory is that of the request, which keeps it in place until its last command has
            // ended (`begin`, `orphan`), or the copy, which the slot keeps.
            match unsafe { port.submit(slot, &command) } {
                Ok(()) => {
                    if sent.copy.is_some() {
                        stats.copied_bytes += sent.len;
                    }
                    self.free_slots.pop();
                    self.slots[usize::from(slot)] = Some(sent);
                    return Ok(());
                }
                Err(Refused::Copy) if !must_copy => must_copy = true,
                Err(Refused::Full) => {
                    sent.copy = None;
                    return Err(sent);
                }
                Err(refused) => {
                    let failure = match refused {
                        Refused::Failed(failure) => failure,
                        _ => nothing_to_copy_to(),
                    };
                    let failure = (Box::new(failure), sent.offset);
                    self.end_command(sent.request, Some(failure), stats);
                    return Ok(());
                }
            }
        }
    }

    /// Copies the command that is being sent to the arena, and points its pieces there. `None` if
    /// the arena has nothing left.
    fn copy(&mut self, request: RequestId, len: u64) -> Option<DmaBuf> {
        let kind = self.requests[request as usize].wanted.kind;
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        let two = if self.expected_pieces.is_empty() { 1 } else { 2 };
        let mut copy = self.arena.alloc(bytes * two);
        // What is not from the arena the device reaches no better.
        copy.arena_offset()?;
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
        self.end_command_at(id, failure, Some(now), stats);
    }

    fn end_command(
        &mut self,
        id: RequestId,
        failure: Option<(Box<Failure>, u64)>,
        stats: &mut NamespaceStats,
    ) {
        self.end_command_at(id, failure, None, stats);
    }

    /// One command of a request has ended; the last one ends the request.
    fn end_command_at(
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
        if request.failure.is_some() && request.in_line {
            // It sends no more.
            request.in_line = false;
            self.line.retain(|other| *other != id);
        }
        let request = &mut self.requests[id as usize];
        if request.commands > 0 || request.in_line {
            return;
        }
        if request.wanted.then_flush && request.failure.is_none() {
            request.wanted.then_flush = false;
            request.wanted.kind = CommandKind::Flush;
            (request.wanted.len, request.sent) = (0, 0);
            request.memory.clear();
            request.in_line = true;
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
            let kept = std::mem::replace(&mut request.kept, Kept::Nothing);
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
fn pieces(memory: &[Segment], from: u64, len: u64, pieces: &mut Vec<Segment>) {
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

fn replace(pieces: &mut Vec<Segment>, copy: &mut [u8]) {
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
