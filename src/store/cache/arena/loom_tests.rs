//! Every interleaving of two cores that take and give blocks, with loom.
//!
//! A block is a cell of loom's, which the core that has it writes to: loom fails a model in which
//! two cores have a block at the same time, or the second one has it without an order after the
//! first.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::slabs::Slabs;

const SLABS: usize = 2;
/// Two blocks of class 0 in a slab, one of class 1.
const BLOCKS: [u32; 2] = [2, 1];

struct Model {
    slabs: Slabs,
    /// By slab and block.
    memory: [[UnsafeCell<u32>; 2]; SLABS],
}

// SAFETY: the cells are reached under the protocol that is tested, and loom watches them.
unsafe impl Sync for Model {}

fn model() -> Arc<Model> {
    let slab = || [(); 2].map(|()| UnsafeCell::new(0));
    Arc::new(Model { slabs: Slabs::new(SLABS, BLOCKS.into()), memory: [(); SLABS].map(|()| slab()) })
}

impl Model {
    /// Takes at most `most` blocks, and writes to them.
    fn take(&self, class: usize, most: u32) -> Vec<(usize, usize)> {
        let mut taken = Vec::new();
        self.slabs.take(class, most, 0, 0, |slab, block| taken.push((slab, block)));
        taken.iter().for_each(|&(slab, block)| self.touch(slab, block));
        taken
    }

    fn touch(&self, slab: usize, block: usize) {
        // SAFETY: loom fails the model if somebody else uses the cell at this moment.
        self.memory[slab][block].with_mut(|cell| unsafe { *cell += 1 });
    }

    fn give(&self, class: usize, taken: Vec<(usize, usize)>) {
        for (slab, block) in taken {
            self.touch(slab, block);
            self.slabs.give(class, slab, block);
        }
    }

    /// Nothing is in use: all slabs are empty, are found to be, and can be had in each form.
    fn is_whole_again(&self) {
        assert_eq!(self.slabs.empty_slabs(), SLABS);
        for class in [0, 1, 0] {
            let all: Vec<_> = (0..SLABS).map(|_| self.take(class, 2)).collect();
            let blocks: usize = all.iter().map(Vec::len).sum();
            assert_eq!(blocks, SLABS * usize::try_from(BLOCKS[class]).expect("few"), "class {class}");
            all.into_iter().for_each(|taken| self.give(class, taken));
        }
        let both = self.slabs.take_whole(2, 0, 0).expect("two slabs");
        self.slabs.give_whole(both);
    }
}

fn check(preemptions: usize, f: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(f);
}

/// Two cores do `work`, each with the class that is its own.
fn two_cores(preemptions: usize, classes: [usize; 2], work: fn(&Model, usize)) {
    check(preemptions, move || {
        let model = model();
        let other = {
            let model = Arc::clone(&model);
            thread::spawn(move || work(&model, classes[1]))
        };
        work(&model, classes[0]);
        other.join().expect("no panic");
        model.is_whole_again();
    });
}

#[test]
fn blocks_of_one_class() {
    two_cores(3, [0, 0], |model, class| {
        let one = model.take(class, 1);
        // None if the other core is just cutting the second slab.
        let two = model.take(class, 1);
        assert!(!one.is_empty(), "a slab for each");
        model.give(class, one);
        model.give(class, two);
    });
}

/// Both blocks of a slab are free, and two cores take one each.
#[test]
fn two_that_take_from_one_slab() {
    check(4, || {
        let model = model();
        let both = model.take(0, 2);
        model.give(0, both);
        let other = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.take(0, 1))
        };
        let own = model.take(0, 1);
        let others = other.join().expect("no panic");
        assert_eq!((own.len(), others.len()), (1, 1));
        model.give(0, own);
        model.give(0, others);
        model.is_whole_again();
    });
}

/// A core looks for a block where there was none while another one gives one back. The slab is
/// found in the end, also while it is not empty.
#[test]
fn a_free_block_is_not_forgotten() {
    check(4, || {
        let model = model();
        let mut first = model.take(0, 2);
        model.give(0, vec![first.remove(0)]);
        let block = model.take(0, 1);
        let rest = model.take(0, 2);
        let other = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.give(0, block))
        };
        let found = model.take(0, 1);
        other.join().expect("no panic");
        let found = if found.is_empty() { model.take(0, 1) } else { found };
        assert_eq!(found.len(), 1, "the block that was given back");
        for taken in [first, rest, found] {
            model.give(0, taken);
        }
        model.is_whole_again();
    });
}

#[test]
fn slabs_that_change_their_class() {
    two_cores(4, [0, 1], |model, class| {
        for _ in 0..2 {
            let taken = model.take(class, 2);
            assert!(!taken.is_empty(), "a slab for each");
            model.give(class, taken);
        }
    });
}

#[test]
fn whole_slabs_beside_blocks() {
    two_cores(4, [0, 1], |model, class| {
        if class == 0 {
            let taken = model.take(class, 1);
            model.give(class, taken);
        } else if let Some(slab) = model.slabs.take_whole(2, 0, 0) {
            for slab in slab..slab + 2 {
                model.touch(slab, 0);
            }
            model.slabs.give_whole(slab);
        }
    });
}

/// Two cores that must leave a slab empty, and one that need not.
#[test]
fn the_reserve_stays_empty() {
    check(3, || {
        let model = model();
        let take = |model: &Model| {
            let mut taken = Vec::new();
            model.slabs.take(0, 2, 0, 1, |slab, block| taken.push((slab, block)));
            taken
        };
        let other = {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                let taken = take(&model);
                model.give(0, taken);
            })
        };
        let own = take(&model);
        let reserved = model.take(1, 1);
        assert_eq!(reserved.len(), 1, "it is there for who may have it");
        other.join().expect("no panic");
        model.give(0, own);
        model.give(1, reserved);
        model.is_whole_again();
    });
}
