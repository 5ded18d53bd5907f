//! A device that a seed makes difficult.

use std::cell::RefCell;
use std::rc::Rc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::block::queue::{Command, CommandKind, Failure, Port, Refused, Segment};
use crate::error::{ErrorKind, Outcome};
use crate::rt::poller::Park;
use crate::time::Instant;

pub(super) const BLOCK: usize = 512;

/// How difficult it is. Probabilities are in percent.
#[derive(Clone, Debug)]
pub(super) struct Difficulty {
    pub(super) slots: u16,
    /// Refuses a command though there is a slot.
    pub(super) full: u32,
    /// Fails a command for good.
    pub(super) fails: u32,
    /// Asks to send a command again.
    pub(super) asks_again: u32,
    /// Refuses a command for good when it gets it.
    pub(super) refuses: u32,
    /// Completes a command that it has, each time it is polled.
    pub(super) completes: u32,
    /// What it reaches: where it begins and ends. Nothing else.
    pub(super) reaches: std::ops::Range<usize>,
    /// In how many pieces it takes memory.
    pub(super) pieces: usize,
    /// It stops for certain.
    pub(super) stops: bool,
}

/// What the device has, and saw.
pub(super) struct Script {
    random: StdRng,
    pub(super) difficulty: Difficulty,
    pub(super) blocks: Vec<u8>,
    held: Vec<Held>,
    /// Completes nothing while it is true.
    pub(super) paused: bool,
    /// The kind, offset and length of each command that it took, in order.
    pub(super) taken: Vec<(CommandKind, u64, u64)>,
    /// How often it asked to send a command again.
    pub(super) asked_again: u64,
    pub(super) shut_down: u32,
}

struct Held {
    slot: u16,
    kind: CommandKind,
    offset: usize,
    len: usize,
    memory: Vec<Segment>,
    expected: Vec<Segment>,
    /// The device was shown it.
    shown: bool,
}

pub(super) struct ScriptedPort(pub(super) Rc<RefCell<Script>>);

impl Script {
    pub(super) fn new(seed: u64, blocks: usize, difficulty: Difficulty) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            random: StdRng::seed_from_u64(seed),
            difficulty,
            blocks: vec![0; blocks * BLOCK],
            held: Vec::new(),
            paused: false,
            taken: Vec::new(),
            asked_again: 0,
            shut_down: 0,
        }))
    }

    /// How many commands it has.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether it has a command that touches the range.
    pub(super) fn works_on(&self, range: &std::ops::Range<usize>) -> bool {
        self.held.iter().any(|held| held.offset < range.end && range.start < held.offset + held.len)
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    /// Does a command, wholly or in part.
    fn perform(&mut self, held: &Held, blocks: usize) -> Result<(), Box<Failure>> {
        let range = held.offset..held.offset + blocks * BLOCK;
        match held.kind {
            CommandKind::Read => scatter(&self.blocks[range], &held.memory),
            CommandKind::Write { .. } => {
                let bytes = gather(&held.memory);
                self.blocks[range.clone()].copy_from_slice(&bytes[..range.len()]);
            }
            CommandKind::CompareAndWrite => {
                if self.blocks[range.clone()] != gather(&held.expected)[..range.len()] {
                    return Err(Box::new(Failure {
                        miscompare: true,
                        outcome: Outcome::NotStarted,
                        ..Failure::new(ErrorKind::Os, "something else is there")
                    }));
                }
                let bytes = gather(&held.memory);
                self.blocks[range.clone()].copy_from_slice(&bytes[..range.len()]);
            }
            CommandKind::Trim | CommandKind::WriteZeroes => self.blocks[range].fill(0),
            CommandKind::Flush => {}
        }
        Ok(())
    }

    fn complete(&mut self, held: &Held) -> Result<(), Box<Failure>> {
        let blocks = held.len / BLOCK;
        let (fails, asks) = (self.difficulty.fails, self.difficulty.asks_again);
        let again = self.chance(asks);
        if again || self.chance(fails) {
            if held.kind != CommandKind::CompareAndWrite {
                let part = self.random.random_range(0..=blocks);
                self.perform(held, part)?;
            }
            self.asked_again += u64::from(again);
            return Err(Box::new(Failure {
                retry: again,
                ..Failure::new(ErrorKind::Os, "the script says that it fails")
            }));
        }
        self.perform(held, blocks)
    }
}

/// What the memory of a command holds.
fn gather(memory: &[Segment]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for segment in memory {
        let mut part = vec![0; segment.len];
        // SAFETY: the queue keeps the memory of a command valid from `submit` to the moment at
        // which `poll` says that it is done, which is after this.
        unsafe {
            segment.ptr.copy_to_nonoverlapping(std::ptr::NonNull::from(&mut part[..]).cast(), segment.len)
        };
        bytes.extend_from_slice(&part);
    }
    bytes
}

/// Fills the memory of a command, as far as `bytes` go.
fn scatter(bytes: &[u8], memory: &[Segment]) {
    let mut rest = bytes;
    for segment in memory {
        let (part, after) = rest.split_at(segment.len.min(rest.len()));
        // SAFETY: as in `gather`; the part is no longer than the segment, and is the device's own.
        unsafe { segment.ptr.copy_from_nonoverlapping(std::ptr::NonNull::from(part).cast(), part.len()) };
        rest = after;
    }
}

// SAFETY: a command's memory is used in `poll` only, before its slot is said to be done, which
// happens once because it then leaves `held`; `shut_down` forgets all commands, so it may say that
// no memory is used any more.
unsafe impl Port for ScriptedPort {
    const NAME: &'static str = "script";

    fn slots(&self) -> u16 {
        self.0.borrow().difficulty.slots
    }

    fn accepts(&self, memory: &[Segment]) -> bool {
        let script = self.0.borrow();
        let reaches = |segment: &Segment| {
            let start = segment.ptr.addr().get();
            script.difficulty.reaches.contains(&start)
                && start + segment.len <= script.difficulty.reaches.end
                && start.is_multiple_of(4)
        };
        memory.len() <= script.difficulty.pieces && memory.iter().all(reaches)
    }

    unsafe fn submit(&mut self, slot: u16, command: &Command<'_>) -> Result<(), Refused> {
        let script = &mut *self.0.borrow_mut();
        assert!(slot < script.difficulty.slots, "slot {slot}");
        assert!(script.held.iter().all(|held| held.slot != slot), "slot {slot} is in use");
        assert_eq!(script.shut_down, 0, "nothing is sent after the end");
        let total = |memory: &[Segment]| memory.iter().map(|segment| segment.len as u64).sum::<u64>();
        match command.kind {
            CommandKind::Read | CommandKind::Write { .. } => assert_eq!(total(command.memory), command.len),
            CommandKind::CompareAndWrite => {
                assert_eq!((total(command.memory), total(command.expected)), (command.len, command.len));
            }
            _ => assert_eq!(total(command.memory), 0),
        }
        let (full, refuses) = (script.difficulty.full, script.difficulty.refuses);
        // Only a device that has something can be full: otherwise nothing ever tells it to go on.
        if !script.held.is_empty() && script.chance(full) {
            return Err(Refused::Full);
        }
        if script.chance(refuses) {
            let failure = Failure::new(ErrorKind::Unsupported, "the script refuses it");
            return Err(Refused::Failed(Failure { outcome: Outcome::NotStarted, ..failure }));
        }
        let to_usize = |bytes: u64| usize::try_from(bytes).expect("small");
        script.taken.push((command.kind, command.offset, command.len));
        script.held.push(Held {
            slot,
            kind: command.kind,
            offset: to_usize(command.offset),
            len: to_usize(command.len),
            memory: command.memory.to_vec(),
            expected: command.expected.to_vec(),
            shown: false,
        });
        Ok(())
    }

    fn kick(&mut self) {
        self.0.borrow_mut().held.iter_mut().for_each(|held| held.shown = true);
    }

    fn poll(
        &mut self,
        _now: Instant,
        budget: usize,
        mut done: impl FnMut(u16, Result<(), Box<Failure>>),
    ) -> usize {
        let mut events = 0;
        let mut at = 0;
        while events < budget {
            let script = &mut *self.0.borrow_mut();
            if script.paused || at >= script.held.len() {
                break;
            }
            let completes = script.difficulty.completes;
            if !script.held[at].shown || !script.chance(completes) {
                at += 1;
                continue;
            }
            // In any order.
            let held = script.held.swap_remove(at);
            let result = script.complete(&held);
            events += 1;
            done(held.slot, result);
        }
        events
    }

    fn park(&mut self, in_use: usize) -> Park {
        if in_use > 0 { Park::Spin } else { Park::Idle }
    }

    fn shut_down(&mut self) -> bool {
        let script = &mut *self.0.borrow_mut();
        script.shut_down += 1;
        script.held.clear();
        script.difficulty.stops
    }
}
