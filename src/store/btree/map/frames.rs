//! Frames of the mapping: 256 neighbouring ids, which of them are free, and the stack of frames
//! that are worth filling again.

use std::fmt;

use super::{Entry, WORTHWHILE};
use crate::store::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use crate::store::pages::MapPage;
use crate::store::word::MapWord;

/// Fewer in models, where each is an object of its own.
pub(super) const FRAME_LEN: usize = if cfg!(any(loom, shuttle)) { 64 } else { 256 };

/// 256 neighbouring ids.
pub(super) struct Frame {
    pub(super) entries: [Entry; FRAME_LEN],
    /// A bit for each id: whether it is free.
    free: [AtomicU64; FRAME_LEN / 64],
    /// Whether a core fills this frame or it is on the stack. So it is there once.
    is_claimed: AtomicBool,
    /// The frame below it on the stack, as in [`FrameStack`].
    below: AtomicU32,
}

impl Frame {
    /// All ids are free, and the caller fills it.
    pub(super) fn new() -> Self {
        Self {
            entries: std::array::from_fn(|_| Entry::default()),
            free: std::array::from_fn(|_| AtomicU64::new(u64::MAX)),
            is_claimed: AtomicBool::new(true),
            below: AtomicU32::new(0),
        }
    }

    /// What a map page says. Nobody fills it. The first `reserved` ids are not given out.
    pub(super) fn of(page: &MapPage, reserved: u64) -> Self {
        let words: [_; FRAME_LEN] = std::array::from_fn(|at| page.entries()[at].words());
        let is_free = |at: usize| at as u64 >= reserved && words[at].0 == MapWord::FREE;
        let free_bits = |word: usize| {
            let free = (0..64).filter(|bit| is_free(word * 64 + bit));
            free.fold(0, |bits, bit| bits | 1 << bit)
        };
        Self {
            entries: words.map(|(first, second)| Entry::new(first, second)),
            free: std::array::from_fn(|word| AtomicU64::new(free_bits(word))),
            is_claimed: AtomicBool::new(false),
            below: AtomicU32::new(0),
        }
    }

    /// None is free, and the caller fills it.
    #[cfg(all(test, loom))]
    pub(super) fn full() -> Self {
        Self { free: std::array::from_fn(|_| AtomicU64::new(0)), ..Self::new() }
    }

    /// Takes a free id; returns its place in the frame.
    pub(super) fn take(&self) -> Option<usize> {
        for (at, word) in self.free.iter().enumerate() {
            let mut bits = word.load(Ordering::Relaxed);
            while bits != 0 {
                let bit = bits.trailing_zeros();
                let without = bits & !(1 << bit);
                // Acquire: what the owner before stored into the entry.
                match word.compare_exchange(bits, without, Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => return Some(at * 64 + bit as usize),
                    Err(now) => bits = now,
                }
            }
        }
        None
    }

    /// Takes this id. False if it is not free.
    pub(super) fn take_this(&self, at: usize) -> bool {
        let bit = 1 << (at % 64);
        // Acquire: what the owner before stored into the entry.
        self.free[at / 64].fetch_and(!bit, Ordering::Acquire) & bit != 0
    }

    /// Gives an id back. Release: what was stored into its entry.
    pub(super) fn give(&self, at: usize) {
        let bit = 1 << (at % 64);
        let before = self.free[at / 64].fetch_or(bit, Ordering::Release);
        assert_eq!(before & bit, 0, "an id is freed once");
    }

    /// Whether the caller is to put the frame on the stack: it is worth filling, and nobody else
    /// does.
    pub(super) fn claim(&self) -> bool {
        // Of two cores that give ids of this frame back, one at least counts both.
        fence(Ordering::SeqCst);
        let free = self.free.iter().map(|word| word.load(Ordering::Relaxed).count_ones());
        // Release: a core that leaves the frame after this sees the ids that were counted here.
        free.sum::<u32>() >= WORTHWHILE && !self.is_claimed.swap(true, Ordering::AcqRel)
    }

    /// The core that filled it goes on to another one. Whether the caller is to put it on the
    /// stack: ids were given back meanwhile, whose owners left that to this core.
    pub(super) fn leave(&self) -> bool {
        // Acquire, and so no mere store: of those who found the frame claimed, it sees the ids.
        self.is_claimed.swap(false, Ordering::AcqRel);
        self.claim()
    }
}

/// A stack of frames, linked through the frames. Its head is one word: a frame's index plus one in
/// the low half, and above it how many were taken off, so that a frame which left and came back is
/// told apart.
#[derive(Default)]
pub(super) struct FrameStack(AtomicU64);

impl fmt::Debug for FrameStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameStack").finish_non_exhaustive()
    }
}

/// The halves of the head.
fn halves(head: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = head.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

fn head(top: u32, taken: u32) -> u64 {
    u64::from(taken) << 32 | u64::from(top)
}

impl FrameStack {
    /// Puts `frame`, number `index`, on the stack. It is not there yet, and `index` is not the last
    /// of 32 bits.
    pub(super) fn push(&self, index: u32, frame: &Frame) {
        let mut current = self.0.load(Ordering::Relaxed);
        loop {
            let (top, taken) = halves(current);
            frame.below.store(top, Ordering::Relaxed);
            // Release: the link.
            match self.0.compare_exchange_weak(
                current,
                head(index + 1, taken),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => current = now,
            }
        }
    }

    /// Takes the frame off that was put there last. `frame` finds frames by their number; they are
    /// never unmade.
    pub(super) fn pop<'a>(&self, frame: impl Fn(u32) -> &'a Frame) -> Option<u32> {
        let mut current = self.0.load(Ordering::Acquire);
        loop {
            let (top, taken) = halves(current);
            let index = top.checked_sub(1)?;
            // Another core may take this frame and push it again meanwhile: the count says so.
            let below = frame(index).below.load(Ordering::Relaxed);
            match self.0.compare_exchange_weak(
                current,
                head(below, taken.wrapping_add(1)),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(index),
                Err(now) => current = now,
            }
        }
    }
}
