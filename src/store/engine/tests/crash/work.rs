//! Clients: they write in phases until the power fails.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::history::Write;
use super::{Machine, add};
use crate::rt;
use crate::store::btree::Change;
use crate::store::engine::registry::catalog;
use crate::store::engine::tests::Store;
use crate::store::options::Durability;

const INTERVAL: Duration = Duration::from_millis(60);

/// What the clients of one seed do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workload {
    pub(super) keys: u32,
    /// Values are shorter than this.
    longest: usize,
    /// One in so many keys is long.
    long_keys: u32,
}

/// What a client does for a while.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Puts and deletes of any keys.
    Mixed,
    /// Puts of a range, upwards.
    Insert,
    /// Deletes a range.
    Delete,
    /// Puts one key again and again.
    Hot,
}

impl Workload {
    pub(super) fn random(random: &mut StdRng) -> Self {
        Self {
            keys: [30, 400, 2500][random.random_range(0..3)],
            longest: [20, 300, 1000][random.random_range(0..3)],
            long_keys: [10, 1000, u32::MAX][random.random_range(0..3)],
        }
    }

    pub(super) fn key(&self, number: u32) -> Vec<u8> {
        let mut key = number.to_be_bytes().to_vec();
        if number % self.long_keys == 7 {
            key.resize(700, b'k');
        }
        key
    }
}

thread_local! {
    static STAMP: Cell<u32> = const { Cell::new(0) };
}

/// A value that no other write has, if it is long enough.
fn value(random: &mut StdRng, longest: usize) -> Vec<u8> {
    let stamp = STAMP.get().wrapping_add(1);
    STAMP.set(stamp);
    let mut value = vec![random.random(); random.random_range(0..longest)];
    value.iter_mut().zip(stamp.to_le_bytes()).for_each(|(to, from)| *to = from);
    value
}

/// What tells a value from others.
pub(super) fn stamp(value: &[u8]) -> u32 {
    let mut bytes = [0; 4];
    value.iter().zip(&mut bytes).for_each(|(from, to)| *to = *from);
    u32::from_le_bytes(bytes)
}

/// Works until the power fails, or the store does.
pub(super) async fn client(machine: Rc<Machine>, store: Store, seed: u64) {
    if let Err(error) = work(&machine, &store, seed).await {
        machine.history.borrow_mut().failed.get_or_insert(format!("a client: {error}"));
    }
}

async fn work(machine: &Machine, store: &Store, seed: u64) -> crate::error::Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let workload = machine.workload;
    let durability = match random.random_range(0..4) {
        0 => Durability::None,
        1 => Durability::Interval(INTERVAL),
        _ => Durability::Sync,
    };
    loop {
        let phase = [Phase::Mixed, Phase::Insert, Phase::Delete, Phase::Hot][random.random_range(0..4)];
        let count = random.random_range(1..=workload.keys);
        let first = random.random_range(0..workload.keys);
        for step in 0..count {
            let upwards = (first + step) % workload.keys;
            let number = match phase {
                Phase::Mixed => random.random_range(0..workload.keys),
                Phase::Insert | Phase::Delete => upwards,
                Phase::Hot => first,
            };
            let is_delete = match phase {
                Phase::Mixed => random.random_ratio(1, 3),
                Phase::Insert | Phase::Hot => false,
                Phase::Delete => true,
            };
            let value = (!is_delete).then(|| value(&mut random, workload.longest));
            write(machine, store, (number, value), durability, &mut random).await?;
        }
        match random.random_range(0..12) {
            0 => {
                let last = machine.history.borrow().last();
                store.checkpoint().await?;
                machine.history.borrow_mut().acknowledge(last);
            }
            1..=3 => rt::sleep(Duration::from_millis(random.random_range(0..20))).await,
            _ => {}
        }
    }
}

async fn write(
    machine: &Machine,
    store: &Store,
    (number, value): (u32, Option<Vec<u8>>),
    durability: Durability,
    random: &mut StdRng,
) -> crate::error::Result<()> {
    let key = machine.workload.key(number);
    let change = value.as_deref().map_or(Change::Delete, Change::Put);
    let written = store.write(catalog(), &key, change, durability).await?;
    machine.history.borrow_mut().wrote(written, Write { key, value });
    add(&machine.coverage.writes, 1);
    match durability {
        // Some go on, and wait with a later write.
        Durability::Sync if random.random_ratio(2, 3) => {}
        Durability::Sync => {
            store.wait(written).await?;
            machine.history.borrow_mut().acknowledge(written);
        }
        Durability::Interval(within) => machine.history.borrow_mut().promise(written, rt::now() + within),
        Durability::None => {}
    }
    if random.random_ratio(1, 2) {
        rt::sleep(Duration::from_micros(random.random_range(0..200))).await;
    }
    Ok(())
}
