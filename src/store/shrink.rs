//! Giving space back: a namespace that is much larger than what it holds becomes smaller.
//!
//! A step (`evacuate::step`) follows each checkpoint. When the namespace is larger than
//! `StoreState::largest_units` and a growth step, it gets a ceiling: what is written from then on
//! lies below. Pages and values beyond the ceiling are moved, some at a time, by counting them as
//! changed; the next checkpoint writes them below. Once nothing lies beyond, the map is cut, a
//! checkpoint records the smaller size, and the end is given back. So a crash at any point finds a
//! namespace that is at least as large as its superblock says.
//!
//! Since a namespace shrinks only after about a third of it became free, and is then left some free
//! room, moving costs a small part of the writes that made the room.
//!
//! The task that takes checkpoints makes every transition, after a checkpoint:
//!
//! | from | to | when |
//! |---|---|---|
//! | idle | evacuating | the namespace is too large |
//! | evacuating | truncating | nothing lay beyond the target, the map was cut, and the checkpoint that was just taken records the smaller size |
//! | evacuating | resting | more was written than was foreseen, nothing more can be moved, it took too many checkpoints, or an I/O failed |
//! | truncating | idle | the end was given back |
//! | truncating | resting | the end could not be given back |
//! | resting | idle | enough checkpoints have passed |
//!
//! A write that finds no room looks at it, and changes nothing: while the end is being given back
//! it waits; where the map was cut and the end is still there, it takes the end back by growing the
//! map, and the evacuation goes on.

/// After how many checkpoints a failed attempt is followed by another.
const RETRY_AFTER: u32 = 64;

/// How a namespace is being made smaller.
#[derive(Debug, Default)]
pub(super) enum Shrink {
    /// It need not become smaller, as far as is known.
    #[default]
    Idle,
    /// What lies beyond its new end is moved. The allocation map has its ceiling there.
    Evacuating(Evacuation),
    /// The end is being given back: it must not grow meanwhile.
    Truncating,
    /// An attempt failed; the next one comes after so many checkpoints.
    Resting(u32),
}

/// How far an evacuation has come.
#[derive(Debug)]
pub(super) struct Evacuation {
    /// What the size is to become, in units.
    pub(super) target: u64,
    /// How many checkpoints were taken for it.
    rounds: u64,
    /// Where the current pass is: a tree, and a key in it.
    pub(super) tree: usize,
    pub(super) key: Vec<u8>,
}

impl Shrink {
    /// The state after an attempt that failed.
    pub(super) fn after_failure() -> Self {
        Self::Resting(RETRY_AFTER)
    }

    pub(super) fn is_truncating(&self) -> bool {
        matches!(self, Self::Truncating)
    }

    pub(super) fn is_resting(&self) -> bool {
        matches!(self, Self::Resting(_))
    }

    pub(super) fn evacuation(&mut self) -> Option<&mut Evacuation> {
        match self {
            Self::Evacuating(evacuation) => Some(evacuation),
            Self::Idle | Self::Truncating | Self::Resting(_) => None,
        }
    }

    /// Counts a checkpoint of a rest. Returns whether it was one.
    pub(super) fn rest(&mut self) -> bool {
        let Self::Resting(left) = self else { return false };
        *left -= 1;
        if *left == 0 {
            *self = Self::Idle;
        }
        true
    }

    /// Moves the pass of an evacuation on.
    pub(super) fn go_on_at(&mut self, tree: usize, key: Vec<u8>) {
        if let Self::Evacuating(evacuation) = self {
            (evacuation.tree, evacuation.key) = (tree, key);
        }
    }
}

impl Evacuation {
    /// One that makes the namespace `target` units large.
    pub(super) fn to(target: u64) -> Self {
        Self { target, rounds: 0, tree: 0, key: Vec::new() }
    }

    /// Counts a checkpoint that is taken for it; returns how many there were.
    pub(super) fn count_round(&mut self) -> u64 {
        self.rounds += 1;
        self.rounds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_lasts_as_many_checkpoints_as_it_says() {
        let mut shrink = Shrink::after_failure();
        for _ in 0..RETRY_AFTER {
            assert!(shrink.is_resting() && shrink.rest());
        }
        assert!(!shrink.is_resting() && !shrink.rest(), "{shrink:?}");
    }

    #[test]
    fn a_pass_goes_on_only_while_something_is_moved() {
        let mut shrink = Shrink::Evacuating(Evacuation::to(7));
        shrink.go_on_at(3, b"key".to_vec());
        let evacuation = shrink.evacuation().expect("it has begun");
        assert_eq!((evacuation.target, evacuation.tree, &evacuation.key[..]), (7, 3, &b"key"[..]));
        assert_eq!((evacuation.count_round(), evacuation.count_round()), (1, 2));
        let mut truncating = Shrink::Truncating;
        truncating.go_on_at(3, b"key".to_vec());
        assert!(truncating.is_truncating() && truncating.evacuation().is_none());
    }
}
