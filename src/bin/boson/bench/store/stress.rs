//! `boson bench store --stress`: several tasks do everything to the same keys, and what each of
//! them finds is held against a model in memory.
//!
//! Some keys are written one by one. Others belong to groups that are written together, by one task
//! at a time, so that whatever happens all keys of a group have the same version.

pub(super) mod crash;
pub(super) mod model;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use boson::rt;
use boson::rt::signal::Signals;
use boson::sync::local::WaitGroup;
use boson::{Error, ErrorKind, Result};

use super::StoreOptions;
use super::data::{self, ABSENT, Key, KeyOrder, Values};
use super::draw::Random;
use super::engine::Engine;
use super::progress::Progress;
use crash::Report;
use model::Model;

/// How many keys a group has.
const GROUP_KEYS: usize = 8;
/// How many keys half of the operations are at, so that tasks meet.
const HOT_KEYS: u64 = 32;
const SCAN_LENGTH: u64 = 50;
/// The other tasks have a turn after this many operations.
const OPERATIONS_AT_ONCE: u64 = 4;

/// The keys, and what is expected of each.
pub(super) struct Stress<E> {
    engine: E,
    values: Values,
    /// Single keys, then groups.
    keys: Vec<Key>,
    singles: usize,
    sorted: Vec<(Key, usize)>,
    numbers: HashMap<Key, usize>,
    busy_groups: RefCell<Vec<bool>>,
    pub(super) model: RefCell<Model>,
    report: Option<Report>,
    operations: Cell<u64>,
}

impl<E: Engine> Stress<E> {
    /// Over `singles` keys, and groups with as many together.
    pub(super) fn new(engine: E, values: Values, singles: u64, report: Option<Report>) -> Self {
        let singles = usize::try_from(singles).unwrap_or(usize::MAX);
        let groups = singles.div_ceil(GROUP_KEYS);
        let all = singles + groups * GROUP_KEYS;
        let keys: Vec<Key> = (0..all as u64).map(|number| data::key(number, KeyOrder::Scattered)).collect();
        let numbers: HashMap<Key, usize> = keys.iter().copied().zip(0..).collect();
        let mut sorted: Vec<(Key, usize)> = keys.iter().copied().zip(0..).collect();
        sorted.sort_unstable();
        Self {
            engine,
            values,
            keys,
            singles,
            sorted,
            numbers,
            busy_groups: RefCell::new(vec![false; groups]),
            model: RefCell::new(Model::new(all)),
            report,
            operations: Cell::new(0),
        }
    }

    /// Runs `tasks` until `progress` is stopped or for `time`.
    async fn run(
        self: &Rc<Self>,
        tasks: u64,
        seed: u64,
        time: Duration,
        progress: &Arc<Progress>,
    ) -> Result<()>
    where
        E: Engine,
    {
        let (group, until) = (WaitGroup::new(), rt::now() + time);
        let failure = Rc::new(RefCell::new(None));
        for task in 0..tasks {
            let (stress, progress, token) = (Rc::clone(self), Arc::clone(progress), group.token());
            let (failure, mut random) = (Rc::clone(&failure), Random::new(seed, task));
            rt::named("bench stress")
                .spawn(async move {
                    let _token = token;
                    while !progress.is_stopped() && rt::now() < until {
                        if let Err(error) = stress.operate(&mut random).await {
                            failure.borrow_mut().get_or_insert(error);
                            progress.stop();
                        }
                        progress.add(1);
                        stress.operations.set(stress.operations.get() + 1);
                        if stress.operations.get() % OPERATIONS_AT_ONCE == 0 {
                            rt::yield_now().await;
                        }
                    }
                })
                .detach();
        }
        group.wait().await;
        let failure = failure.borrow_mut().take();
        failure.map_or(Ok(()), Err)
    }

    async fn operate(&self, random: &mut Random) -> Result<()> {
        let singles = self.singles as u64;
        let among = if random.draw() & 1 == 0 { HOT_KEYS.min(singles) } else { singles };
        let key = usize::try_from(random.below(among)).unwrap_or(0);
        match random.below(1000) {
            0..350 => self.read(key).await,
            350..600 => self.put(key).await,
            600..700 => self.delete(key).await,
            700..800 => self.modify(key).await,
            800..900 => self.put_group(random).await,
            900..950 => self.scan(random).await,
            950..997 => self.read_missing(random.below(singles)).await,
            997..999 => self.engine.flush().await,
            _ => self.engine.checkpoint().await,
        }
    }

    async fn read(&self, key: usize) -> Result<()> {
        let reading = self.model.borrow().read(key);
        let found = self.find(key).await?;
        self.model.borrow().check(key, &reading, found).map_err(wrong)
    }

    /// The version that is found at `key`.
    async fn find(&self, key: usize) -> Result<Option<u64>> {
        let bytes = &self.keys[key];
        let found = self.engine.read(bytes, |value| self.values.check(bytes, value)).await?;
        found.transpose().map_err(|why| wrong(format!("key {key}: {why}")))
    }

    async fn read_missing(&self, number: u64) -> Result<()> {
        let key = data::key(ABSENT + number, KeyOrder::Scattered);
        match self.engine.read(&key, |_| ()).await? {
            None => Ok(()),
            Some(()) => Err(wrong("a key is there that was never written".to_owned())),
        }
    }

    /// Begins a write at each of `keys`; returns its version.
    fn begin(&self, keys: std::ops::Range<usize>, is_delete: bool) -> u64 {
        let version = self.model.borrow_mut().draw();
        for key in keys {
            self.model.borrow_mut().begin(key, version, is_delete);
            self.report.iter().for_each(|report| report.begun(key, version, is_delete));
        }
        version
    }

    fn acknowledged(&self, keys: std::ops::Range<usize>, version: u64) {
        for key in keys {
            self.model.borrow_mut().acknowledge(key, version);
            self.report.iter().for_each(|report| report.acknowledged(key, version));
        }
    }

    async fn put(&self, key: usize) -> Result<()> {
        let version = self.begin(key..key + 1, false);
        let mut value = Vec::new();
        self.values.fill(&self.keys[key], version, &mut value);
        self.engine.put(&self.keys[key], &value).await?;
        self.acknowledged(key..key + 1, version);
        Ok(())
    }

    async fn delete(&self, key: usize) -> Result<()> {
        let version = self.begin(key..key + 1, true);
        self.engine.delete(&self.keys[key]).await?;
        self.acknowledged(key..key + 1, version);
        Ok(())
    }

    async fn modify(&self, key: usize) -> Result<()> {
        let version = self.begin(key..key + 1, false);
        let bytes = &self.keys[key];
        let change = |old: Option<&[u8]>, new: &mut Vec<u8>| {
            self.values.fill(bytes, version, new);
            let found = old.map(|value| self.values.check(bytes, value)).transpose();
            // In one step with the write: what is found is what is there now.
            found.map_err(str::to_owned).and_then(|found| self.model.borrow().check_now(key, found))
        };
        self.engine.modify(bytes, change).await?.map_err(wrong)?;
        self.acknowledged(key..key + 1, version);
        Ok(())
    }

    fn group(&self, group: usize) -> std::ops::Range<usize> {
        let first = self.singles + group * GROUP_KEYS;
        first..first + GROUP_KEYS
    }

    async fn put_group(&self, random: &mut Random) -> Result<()> {
        let groups = self.busy_groups.borrow().len();
        let group = usize::try_from(random.below(groups as u64)).unwrap_or(0);
        if std::mem::replace(&mut self.busy_groups.borrow_mut()[group], true) {
            return Ok(());
        }
        let keys = self.group(group);
        let version = self.begin(keys.clone(), false);
        let mut pairs: Vec<(Key, Vec<u8>)> = Vec::new();
        for key in keys.clone() {
            let mut value = Vec::new();
            self.values.fill(&self.keys[key], version, &mut value);
            pairs.push((self.keys[key], value));
        }
        self.engine.put_all(&pairs).await?;
        self.acknowledged(keys, version);
        self.busy_groups.borrow_mut()[group] = false;
        Ok(())
    }

    /// Everything that nobody wrote to meanwhile is found, in order.
    async fn scan(&self, random: &mut Random) -> Result<()> {
        let at = usize::try_from(random.below(self.sorted.len() as u64)).unwrap_or(0);
        let reading = self.model.borrow().read(0);
        let mut found: Vec<(Key, u64)> = Vec::new();
        let mut failure = None;
        let each = |key: &[u8], value: &[u8]| match (Key::try_from(key), self.values.check(key, value)) {
            (Ok(key), Ok(version)) => found.push((key, version)),
            (Err(_), _) => failure = Some("a scan finds a key that was never written".to_owned()),
            (_, Err(why)) => failure = Some(format!("a scan finds {key:?}: {why}")),
        };
        let count = self.engine.scan(&self.sorted[at].0, SCAN_LENGTH, each).await?;
        if !found.is_sorted_by(|one, next| one.0 < next.0) {
            failure = Some("a scan is not in order".to_owned());
        }
        if let Some(failure) = failure {
            return Err(wrong(failure));
        }
        let last = if count < SCAN_LENGTH { None } else { found.last().map(|(key, _)| *key) };
        let model = self.model.borrow();
        let mut found = found.into_iter().peekable();
        for (key, number) in
            self.sorted[at..].iter().take_while(|(key, _)| last.is_none_or(|last| *key <= last))
        {
            let here = found.next_if(|(found, _)| found == key).map(|(_, version)| version);
            if let Some(expected) = model.settled(*number, &reading)
                && expected != here
            {
                let why = format!("a scan finds {here:?} at key {number}, where {expected:?} is settled");
                return Err(wrong(why));
            }
        }
        found.next().map_or(Ok(()), |(key, _)| {
            let known = self.numbers.contains_key(&key);
            Err(wrong(format!("a scan finds {key:?}, which it should not (known: {known})")))
        })
    }

    /// Reads every key while nobody writes, and holds it against the model.
    pub(super) async fn verify(&self) -> Result<Vec<Option<u64>>> {
        let mut all = Vec::with_capacity(self.keys.len());
        for key in 0..self.keys.len() {
            let found = self.find(key).await?;
            self.model.borrow().check_now(key, found).map_err(wrong)?;
            all.push(found);
        }
        for group in 0..self.busy_groups.borrow().len() {
            let versions = &all[self.group(group)];
            if versions.iter().any(|version| *version != versions[0]) {
                return Err(wrong(format!("a write of several keys is there in part: {versions:?}")));
            }
        }
        let mut count = 0;
        self.engine.scan(b"", u64::MAX, |_, _| count += 1).await?;
        let there = all.iter().flatten().count();
        if count != there {
            return Err(wrong(format!("a scan finds {count} keys, where {there} are there")));
        }
        Ok(all)
    }

    /// Takes what is in the store as what is expected of it.
    pub(super) async fn adopt(&self) -> Result<()> {
        for key in 0..self.keys.len() {
            let found = self.find(key).await?;
            self.model.borrow_mut().adopt(key, found);
        }
        Ok(())
    }
}

pub(super) fn wrong(why: String) -> Error {
    Error::new(ErrorKind::Corrupt, "stress").because(why)
}

/// Stress in this process: runs, verifies, closes, opens again, verifies.
pub(super) async fn run(options: &StoreOptions, signals: &Signals) -> Result<String> {
    let place = options.place().await?;
    if !options.format && !place.is_empty().await? {
        return Err(super::engine::not_empty(&options.namespace.to_string()));
    }
    let store = place.store(options.setup(), options.format).await?;
    let stress = Rc::new(Stress::new(store.clone(), options.values(), options.records(), None));
    let progress = Arc::new(Progress::default());
    let time = options.time().unwrap_or(Duration::MAX);
    let running = stress.run(options.tasks, options.seed, time, &progress);
    super::watched(running, "stress", &progress, signals).await?;
    let operations = stress.operations.get();
    stress.verify().await?;
    store.close().await?;
    // Nothing of it may be left that would keep the next one out.
    let before = Rc::into_inner(stress).ok_or_else(|| wrong("a task is still there".to_owned()))?;
    let model = before.model.into_inner();
    drop((store, before.engine));
    let store = place.store(options.setup(), false).await?;
    let after = Stress::new(store.clone(), options.values(), options.records(), None);
    let keys = model.len();
    *after.model.borrow_mut() = model;
    after.verify().await?;
    store.close().await?;
    Ok(format!(
        "{operations} operations by {} tasks, {keys} keys verified, also after reopening: no acknowledged \
         write lost",
        options.tasks
    ))
}
