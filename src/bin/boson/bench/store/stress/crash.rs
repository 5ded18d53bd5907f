//! `boson bench store --stress --crash`: the stress runs in a child that is killed at some moment,
//! again and again; what it reported as durable has to be there.
//!
//! The child reports on its standard output, a record of 24 bytes for each event, little endian:
//!
//! | offset | bytes | what |
//! |--:|--:|---|
//! | 0 | 8 | 1: a put begins; 2: a delete begins; 3: that write is durable; 4: it is ready |
//! | 8 | 8 | the key's number |
//! | 16 | 8 | the write's version |
//!
//! A write is reported before it begins, so whatever the store has of it is known. What the pipe
//! has survives the child. A part of a record at the end tells of something that had not happened
//! yet, or that nobody was told of.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boson::rt;
use boson::store::Durability;
use boson::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::StoreOptions;
use super::super::draw::Random;
use super::super::engine::{self, Engine};
use super::super::progress::Progress;
use super::model::Model;
use super::{Stress, wrong};
use crate::start;

const PUT: u64 = 1;
const DELETE: u64 = 2;
const DURABLE: u64 = 3;
const READY: u64 = 4;
const RECORD_BYTES: usize = 24;

/// How long a child may take until it is ready, and may be silent.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a child works before it is killed, in milliseconds.
const LIFETIME_MILLIS: std::ops::Range<u64> = 1..500;
/// How often a child whose writes are not durable by themselves flushes all of them.
const FLUSH_EVERY: Duration = Duration::from_millis(20);

/// What a child tells its parent.
#[derive(Clone)]
pub(in super::super) struct Report(Rc<Told>);

struct Told {
    /// Whether an acknowledged write is durable.
    at_once: bool,
    acknowledged: RefCell<Vec<(usize, u64)>>,
}

impl Report {
    pub(super) fn begun(&self, key: usize, version: u64, is_delete: bool) {
        send(if is_delete { DELETE } else { PUT }, key, version);
    }

    pub(super) fn acknowledged(&self, key: usize, version: u64) {
        if self.0.at_once {
            send(DURABLE, key, version);
        } else {
            self.0.acknowledged.borrow_mut().push((key, version));
        }
    }

    async fn flush<E: Engine>(&self, engine: &E) -> Result<()> {
        let before = std::mem::take(&mut *self.0.acknowledged.borrow_mut());
        engine.flush().await?;
        before.into_iter().for_each(|(key, version)| send(DURABLE, key, version));
        Ok(())
    }
}

fn send(what: u64, key: usize, version: u64) {
    let mut record = [0; RECORD_BYTES];
    for (part, number) in record.chunks_mut(8).zip([what, key as u64, version]) {
        part.copy_from_slice(&number.to_le_bytes());
    }
    let mut pipe = std::io::stdout().lock();
    if pipe.write_all(&record).and_then(|()| pipe.flush()).is_err() {
        // The parent is gone.
        std::process::exit(1);
    }
}

/// The child: takes what is in the store, says that it is ready, and works until it is killed.
pub(in super::super) async fn child(options: &StoreOptions, number: u64) -> Result<()> {
    let place = options.place().await?;
    let store = place.store(options.setup(), options.format).await?;
    let at_once = options.durability == Durability::Sync || options.claim_durable;
    let report = Report(Rc::new(Told { at_once, acknowledged: RefCell::default() }));
    let stress = Stress::new(store.clone(), options.values(), options.records(), Some(report.clone()));
    stress.adopt().await?;
    send(READY, 0, 0);
    let progress = Arc::new(Progress::default());
    if !at_once {
        let progress = Arc::clone(&progress);
        rt::spawn(async move {
            while !progress.is_stopped() {
                rt::sleep(FLUSH_EVERY).await;
                if report.flush(&store).await.is_err() {
                    // The tasks find out by themselves.
                    break;
                }
            }
        })
        .detach();
    }
    Rc::new(stress).run(options.tasks, number, Duration::from_secs(86_400), &progress).await
}

/// A child that is killed when this is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a round found.
#[derive(Debug, Default)]
struct Round {
    begun: u64,
    durable: u64,
}

/// Kills a child so often, and looks each time whether everything is there.
pub(in super::super) fn run(options: &StoreOptions, rounds: u64) -> Result<String> {
    let mut random = Random::new(options.seed, u64::MAX);
    let mut model = start::on_a_core(begin(options))?;
    let mut total = Round::default();
    for round in 0..rounds {
        let lifetime = LIFETIME_MILLIS.start + random.below(LIFETIME_MILLIS.end - LIFETIME_MILLIS.start);
        // What it draws is its own in each round, its values are those of all of them.
        let number = random.draw();
        let found = live_and_die(options, number, Duration::from_millis(lifetime), &mut model)?;
        let _ = writeln!(
            std::io::stderr(),
            "round {}: killed after {lifetime} ms; {} writes begun, {} of them durable",
            round + 1,
            found.begun,
            found.durable
        );
        total.begun += found.begun;
        total.durable += found.durable;
        let verified = start::on_a_core(verify(options, model));
        model = verified.map_err(|error| {
            let why = format!("after round {} (seed {}): {error}", round + 1, options.seed);
            options.error(error.kind(), why)
        })?;
    }
    if total.durable == 0 {
        let why = format!("no write was durable in {rounds} rounds: they show nothing");
        return Err(options.error(ErrorKind::TimedOut, why));
    }
    Ok(format!(
        "{rounds} rounds, {} writes begun, {} acknowledged as durable: no acknowledged write lost",
        total.begun, total.durable
    ))
}

/// Makes the store, which is empty: the model of that.
async fn begin(options: &StoreOptions) -> Result<Model> {
    let place = options.place().await?;
    if !place.outlives_the_process() {
        return Err(options.error(ErrorKind::InvalidInput, "memory does not outlive its process"));
    }
    if !options.format && !place.is_empty().await? {
        return Err(engine::not_empty(&options.namespace.to_string()));
    }
    let store = place.store(options.setup(), options.format).await?;
    let stress = Stress::new(store.clone(), options.values(), options.records(), None);
    stress.verify().await?;
    store.close().await?;
    Ok(stress.model.into_inner())
}

/// Opens what the child left, and holds it against the model: that of what was found.
async fn verify(options: &StoreOptions, model: Model) -> Result<Model> {
    let place = options.place().await?;
    let store = place.store(options.setup(), false).await?;
    let stress = Stress::new(store.clone(), options.values(), options.records(), None);
    *stress.model.borrow_mut() = model;
    let found = stress.verify().await?;
    store.close().await?;
    let mut model = stress.model.into_inner();
    found.into_iter().enumerate().for_each(|(key, found)| model.adopt(key, found));
    Ok(model)
}

/// One life of a child. What it reports goes to the model.
fn live_and_die(options: &StoreOptions, number: u64, lifetime: Duration, model: &mut Model) -> Result<Round> {
    let program = std::env::current_exe().map_err(|error| Error::io(error, "find this program"))?;
    let mut command = Command::new(program);
    command.args(options.arguments_of_a_child(number)).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = Killed(command.spawn().map_err(|error| Error::io(error, "start a child"))?);
    let Some(mut pipe) = child.0.stdout.take() else {
        return Err(wrong("the child has no pipe".to_owned()));
    };
    let (mut round, mut records, mut chunk) = (Round::default(), Vec::new(), vec![0; 64 << 10]);
    let mut until = Instant::now() + PATIENCE;
    let (mut is_ready, mut is_killed) = (false, false);
    loop {
        if !is_killed && !can_be_read(&pipe, until)? {
            if !is_ready {
                return Err(options.error(ErrorKind::TimedOut, "the child did not become ready"));
            }
            child.0.kill().map_err(|error| Error::io(error, "kill a child"))?;
            is_killed = true;
        }
        let read = pipe.read(&mut chunk).map_err(|error| Error::io(error, "read from a child"))?;
        if read == 0 {
            break;
        }
        records.extend_from_slice(&chunk[..read]);
        let whole = records.len() / RECORD_BYTES * RECORD_BYTES;
        for record in records[..whole].chunks(RECORD_BYTES) {
            if take(record, model, &mut round) && !is_ready {
                is_ready = true;
                until = Instant::now() + lifetime;
            }
        }
        records.drain(..whole);
    }
    let status = child.0.wait().map_err(|error| Error::io(error, "wait for a child"))?;
    if is_killed { Ok(round) } else { Err(wrong(format!("the child ended by itself: {status}"))) }
}

/// Takes what a child reports; returns whether it says that it is ready.
fn take(record: &[u8], model: &mut Model, round: &mut Round) -> bool {
    let number = |at: usize| {
        record[at..at + 8].iter().rev().fold(0, |number: u64, &byte| number << 8 | u64::from(byte))
    };
    let (key, version) = (usize::try_from(number(8)).unwrap_or(usize::MAX), number(16));
    match number(0) {
        what @ (PUT | DELETE) => {
            round.begun += 1;
            model.begin(key, version, what == DELETE);
        }
        DURABLE => {
            round.durable += 1;
            model.acknowledge(key, version);
        }
        _ => {}
    }
    number(0) == READY
}

/// Waits until there is something to read, or the other end is closed; not after `until`.
fn can_be_read(pipe: &impl AsFd, until: Instant) -> Result<bool> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(false);
    }
    let timeout = Timespec::try_from(left).map_err(|_| wrong("time does not fit".to_owned()))?;
    let mut fds = [PollFd::new(pipe, PollFlags::IN)];
    let ready =
        poll(&mut fds, Some(&timeout)).map_err(|errno| Error::io(errno.into(), "wait for a child"))?;
    Ok(ready > 0)
}
