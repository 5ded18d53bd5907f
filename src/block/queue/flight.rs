//! The requests of a queue, and the commands that the device has of them.

use std::collections::VecDeque;
use std::task::Waker;

use super::super::NamespaceInfo;
use super::super::stats::NamespaceStats;
use super::pieces::{self, Pieces};
use super::port::{Command, CommandKind, Failure, Port, Refused, Segment};
use super::request::{Kept, Request, Stage, Wanted};
use super::transfer::Memory;
use crate::error::{ErrorKind, Outcome};
use crate::mem::{Arena, DmaBuf};
use crate::time::Instant;

/// The longest command that moves bytes: what a copy of its memory fits into.
const MAX_COMMAND_BYTES: u64 = 1 << 20;
/// The longest command that moves none (a trim, zeros).
const MAX_RANGE_BYTES: u64 = 32 << 20;
/// How often a command is sent again that the device asks to send again.
const MAX_TRIES: u8 = 4;
/// After this many commands a request gives way to those behind it: a trim of a terabyte has many
/// thousands.
const COMMANDS_PER_TURN: u32 = 16;

/// The number of a request.
pub(super) type RequestId = u32;

/// Whose command a slot has.
enum Slot {
    Free,
    /// That of a plain request, or of one that was.
    Plain(RequestId),
    Part(Sent),
}

/// A command of a request that is not plain.
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
    slots: Vec<Slot>,
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
            slots: (0..slots).map(|_| Slot::Free).collect(),
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

    /// A new request, which is last in line; sends what there is room for.
    ///
    /// The caller keeps `memory` in place, and uses it no more, until the request has ended or
    /// [`Flight::orphan`] took it.
    #[inline]
    pub(super) fn begin<P: Port, M: Memory>(
        &mut self,
        wanted: Wanted,
        waker: Waker,
        memory: &mut M,
        (port, info): (&mut P, &NamespaceInfo),
        stats: &mut NamespaceStats,
    ) -> RequestId {
        let id = self.free_requests.pop().unwrap_or_else(|| self.another_request());
        let request = &mut self.requests[id as usize];
        (request.kind, request.offset, request.len) = (wanted.kind, wanted.offset, wanted.len);
        request.waker = Some(waker);
        request.began = Instant::FAR_FUTURE;
        self.fresh.push(id);
        self.live += 1;
        stats.queue_depth = self.live;
        stats.max_queue_depth = stats.max_queue_depth.max(self.live);
        let is_plain = memory.one().is_some_and(|piece| self.send_plain(port, info, id, &wanted, piece));
        if !is_plain {
            self.begin_parts(id, wanted, memory, (port, info), stats);
        }
        id
    }

    #[cold]
    fn another_request(&mut self) -> RequestId {
        self.requests.push(Request::free());
        RequestId::try_from(self.requests.len() - 1).expect("memory ends before the numbers do")
    }

    /// Sends a whole request as one command, if nobody is before it and the port takes it so: most
    /// are like that.
    #[inline]
    fn send_plain<P: Port>(
        &mut self,
        port: &mut P,
        info: &NamespaceInfo,
        id: RequestId,
        wanted: &Wanted,
        piece: Segment,
    ) -> bool {
        let Wanted { kind, offset, len, then_flush } = *wanted;
        let Some(&slot) = self.free_slots.last() else { return false };
        let is_first = self.line.is_empty() && self.again.is_empty();
        let memory = [piece];
        if then_flush || !is_first || command_len(info, kind, offset, len) != len || !port.accepts(&memory) {
            return false;
        }
        let command = Command { kind, offset, len, memory: &memory, expected: &[] };
        // SAFETY: the slot is on the free list, so it is not in use and less than `slots`. The
        // memory is that of the request, which keeps it in place until its command has ended
        // (`begin`, `orphan`).
        if unsafe { port.submit(slot, &command) }.is_err() {
            // What that means is found out with the next attempt.
            return false;
        }
        self.occupy(slot, Slot::Plain(id));
        let request = &mut self.requests[id as usize];
        request.memory = piece.ptr;
        request.stage = Stage::Plain;
        true
    }

    /// Begins a request that is not plain.
    #[inline(never)]
    fn begin_parts<P: Port, M: Memory>(
        &mut self,
        id: RequestId,
        wanted: Wanted,
        memory: &mut M,
        (port, info): (&mut P, &NamespaceInfo),
        stats: &mut NamespaceStats,
    ) {
        let parts = self.requests[id as usize].begin_parts(wanted);
        memory.segments(&mut parts.memory, &mut parts.expected);
        self.line.push_back(id);
        self.send(port, info, stats);
    }

    /// The result of a request that ended, once.
    #[inline]
    pub(super) fn take_ended(&mut self, id: RequestId) -> Option<Ended> {
        let request = &mut self.requests[id as usize];
        let ended = match request.stage {
            Stage::Done => Ok(()),
            Stage::Failed => request.parts().failure.take().map_or(Ok(()), Err),
            Stage::Free | Stage::Plain | Stage::Live | Stage::Orphaned => return None,
        };
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
        if request.stage == Stage::Plain {
            request.make_live();
        }
        if request.stage == Stage::Live {
            let parts = request.parts();
            if std::mem::replace(&mut parts.has_more, false) {
                self.leave_line(id);
            }
            let request = &mut self.requests[id as usize];
            let parts = request.parts();
            if parts.commands > 0 {
                parts.wanted.then_flush = false;
                parts.kept = kept;
                request.stage = Stage::Orphaned;
                return waker;
            }
            self.live -= 1;
            stats.queue_depth = self.live;
        }
        self.forget(id);
        waker
    }

    #[cold]
    fn leave_line(&mut self, id: RequestId) {
        if self.line.front() == Some(&id) {
            self.turn_left = COMMANDS_PER_TURN;
        }
        self.line.retain(|other| *other != id);
    }

    /// A request of which nobody takes the result is free, and whatever it kept.
    fn forget(&mut self, id: RequestId) {
        self.requests[id as usize].forget();
        self.release(id);
    }

    #[inline]
    fn release(&mut self, id: RequestId) {
        self.requests[id as usize].stage = Stage::Free;
        self.free_requests.push(id);
    }

    /// Latencies count from here.
    pub(super) fn begin_turn(&mut self, now: Instant) {
        for id in self.fresh.drain(..) {
            let began = &mut self.requests[id as usize].began;
            *began = now.min(*began);
        }
    }

    /// Sends what is in line, as far as there is room.
    pub(super) fn send<P: Port>(&mut self, port: &mut P, info: &NamespaceInfo, stats: &mut NamespaceStats) {
        while let Some(sent) = self.again.pop_front() {
            let request = &mut self.requests[sent.request as usize];
            if request.stage != Stage::Live || request.parts().failure.is_some() {
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
        let parts = self.requests[id as usize].parts();
        let offset = parts.wanted.offset + parts.sent;
        let left = parts.wanted.len - parts.sent;
        let len = command_len(info, parts.wanted.kind, offset, left);
        parts.commands += 1;
        let sent = Sent { request: id, offset, len, tries: 0, copy: None };
        if self.send_one(port, sent, stats).is_err() {
            self.requests[id as usize].parts().commands -= 1;
            return Next::Full;
        }
        let parts = self.requests[id as usize].parts();
        parts.sent += len;
        // One that failed has no more.
        parts.has_more &= len < left;
        if parts.has_more { Next::More } else { Next::AllSent }
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
        let parts = self.requests[sent.request as usize].parts();
        let kind = parts.wanted.kind;
        let (memory, expected) = if sent.len == parts.wanted.len {
            (&parts.memory, &parts.expected)
        } else {
            self.cut(sent.request, sent.offset, sent.len);
            (&self.pieces, &self.expected_pieces)
        };
        let reaches = |memory: &[Segment]| memory.is_empty() || port.accepts(memory);
        if !(reaches(memory) && reaches(expected)) {
            return self.send_copied(port, slot, sent, stats);
        }
        let command = Command { kind, offset: sent.offset, len: sent.len, memory, expected };
        // SAFETY: the slot is on the free list, so it is not in use and less than `slots`. The
        // memory is that of the request, which keeps it in place until its last command has ended
        // (`begin`, `orphan`).
        match unsafe { port.submit(slot, &command) } {
            Ok(()) => {
                self.occupy(slot, Slot::Part(sent));
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
            kind: self.requests[sent.request as usize].parts().wanted.kind,
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
                self.occupy(slot, Slot::Part(sent));
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
    #[inline(always)]
    fn occupy(&mut self, slot: u16, by: Slot) {
        let last = self.free_slots.pop();
        debug_assert_eq!(last, Some(slot), "it was the last of the free ones");
        self.slots[usize::from(slot)] = by;
    }

    /// The device never sees the command.
    #[cold]
    fn refuse(&mut self, sent: &Sent, failure: Failure, stats: &mut NamespaceStats) {
        self.end_command(sent.request, Some((Box::new(failure), sent.offset)), None, stats);
    }

    /// Finds the pieces of a command within the memory of its request.
    fn cut(&mut self, request: RequestId, offset: u64, len: u64) {
        let parts = self.requests[request as usize].parts();
        let from = offset - parts.wanted.offset;
        pieces::cut(&parts.memory, from, len, &mut self.pieces);
        pieces::cut(&parts.expected, from, len, &mut self.expected_pieces);
    }

    /// Copies the command that is being sent to the arena, and points its pieces there. `None` if
    /// the arena has nothing left.
    fn copy(&mut self, request: RequestId, len: u64) -> Option<DmaBuf> {
        let kind = self.requests[request as usize].parts().wanted.kind;
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        let two = if self.expected_pieces.is_empty() { 1 } else { 2 };
        // What is not from the arena the device reaches no better.
        let mut copy = self.arena.alloc_within(bytes * two)?;
        let (front, back) = copy.split_at_mut(bytes);
        if matches!(kind, CommandKind::Write { .. } | CommandKind::CompareAndWrite) {
            pieces::copy_in(&self.pieces, front);
            pieces::copy_in(&self.expected_pieces, back);
        }
        pieces::replace(&mut self.pieces, front);
        if two == 2 {
            pieces::replace(&mut self.expected_pieces, back);
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
        let Some(place) = self.slots.get_mut(usize::from(slot)) else {
            debug_assert!(false, "the port says that slot {slot} is done, which it has not");
            return;
        };
        let sent = match std::mem::replace(place, Slot::Free) {
            Slot::Plain(id) => {
                let request = &mut self.requests[id as usize];
                if request.stage == Stage::Plain && result.is_ok() {
                    self.free_slots.push(slot);
                    self.end_request(id, Stage::Done, Some(now), stats);
                    return;
                }
                self.part_of_plain(id)
            }
            Slot::Part(sent) => sent,
            Slot::Free => {
                debug_assert!(false, "the port says that slot {slot} is done, which is not in use");
                return;
            }
        };
        self.free_slots.push(slot);
        self.complete_part(sent, result, now, stats);
    }

    /// The command of a request that was sent as a plain one.
    #[cold]
    fn part_of_plain(&mut self, id: RequestId) -> Sent {
        let request = &mut self.requests[id as usize];
        if request.stage == Stage::Plain {
            request.make_live();
        }
        Sent { request: id, offset: request.offset, len: request.len, tries: 0, copy: None }
    }

    /// The same with a command of a request that is not plain.
    #[inline(never)]
    fn complete_part(
        &mut self,
        mut sent: Sent,
        result: Result<(), Box<Failure>>,
        now: Instant,
        stats: &mut NamespaceStats,
    ) {
        let request = &mut self.requests[sent.request as usize];
        let is_live = request.stage == Stage::Live;
        let parts = request.parts();
        let failure = match result {
            Ok(()) => {
                parts.was_sent = true;
                if let Some(copy) = &sent.copy
                    && is_live
                    && parts.wanted.kind == CommandKind::Read
                {
                    let from = sent.offset - parts.wanted.offset;
                    pieces::cut(&parts.memory, from, sent.len, &mut self.pieces);
                    pieces::copy_out(copy, &self.pieces);
                }
                None
            }
            Err(failure) if failure.retry && is_live && sent.tries + 1 < MAX_TRIES => {
                stats.retries += 1;
                parts.was_sent = true;
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
        let parts = self.requests[id as usize].parts();
        parts.commands -= 1;
        if failure.is_some() && parts.failure.is_none() {
            parts.failure = failure;
        }
        // Others of its commands are with the device, or were.
        if (parts.was_sent || parts.commands > 0)
            && let Some((failure, _)) = &mut parts.failure
        {
            failure.outcome = Outcome::Unknown;
        }
        if parts.failure.is_some() && parts.has_more {
            // It sends no more.
            parts.has_more = false;
            self.leave_line(id);
        }
        let parts = self.requests[id as usize].parts();
        if parts.commands > 0 || parts.has_more {
            return;
        }
        if parts.wanted.then_flush && parts.failure.is_none() {
            parts.wanted.then_flush = false;
            parts.wanted.kind = CommandKind::Flush;
            (parts.wanted.len, parts.sent) = (0, 0);
            parts.memory.clear();
            parts.has_more = true;
            self.line.push_back(id);
            return;
        }
        let ended = if parts.failure.is_some() { Stage::Failed } else { Stage::Done };
        self.end_request(id, ended, now, stats);
    }

    /// A request has ended, as done or as failed.
    #[inline]
    fn end_request(&mut self, id: RequestId, ended: Stage, now: Option<Instant>, stats: &mut NamespaceStats) {
        self.live -= 1;
        stats.queue_depth = self.live;
        let request = &mut self.requests[id as usize];
        if request.stage == Stage::Orphaned {
            self.forget(id);
            return;
        }
        let counted = stats.of(request.kind);
        if ended == Stage::Failed && !request.missed() {
            counted.failed += 1;
        } else {
            // Of one that was refused at once there is no time.
            let now = now.filter(|_| request.began != Instant::FAR_FUTURE);
            let took = now.map(|now| now.saturating_since(request.began).as_nanos());
            counted.record(request.len, took.map(|nanos| u64::try_from(nanos).unwrap_or(u64::MAX)));
        }
        request.stage = ended;
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
        for at in 0..self.slots.len() {
            let sent = match std::mem::replace(&mut self.slots[at], Slot::Free) {
                Slot::Free => continue,
                Slot::Plain(id) => self.part_of_plain(id),
                Slot::Part(sent) => sent,
            };
            self.let_go(sent, clean);
        }
        while let Some(sent) = self.again.pop_front() {
            self.let_go(sent, clean);
        }
    }

    fn let_go(&mut self, sent: Sent, clean: bool) {
        let parts = self.requests[sent.request as usize].parts();
        let kept = std::mem::replace(&mut parts.kept, Kept::Nothing);
        if !clean {
            std::mem::forget((sent, kept));
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
