//! Random programs over virtual cores, against an oracle: every message that was sent arrives once
//! and in its sender's order, a lock has one holder, nobody sleeps too short or too long, and
//! everything ends.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use boson::rt::{self, CancelToken, Handle, JoinError};
use boson::sim::{Defect, World, WorldOptions};
use boson::sync::{Mutex, WaitGroup, WaitToken, local, mpsc};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

const CHANNELS: usize = 2;
const MUTEXES: usize = 2;
/// A timer of an idle core is late by less than a tick.
const TICK: Duration = Duration::from_nanos(1 << 14);

/// What a task does next.
#[derive(Clone, Debug)]
enum Operation {
    /// Starts a task on this core, and waits for it or not.
    SpawnHere {
        program: Vec<Operation>,
        join: bool,
    },
    /// The same on another core.
    SpawnThere {
        core: usize,
        program: Vec<Operation>,
        join: bool,
    },
    /// Starts a task on this core and cancels it after some yields.
    Cancel {
        program: Vec<Operation>,
        after: u8,
    },
    /// Starts a task on another core that runs until its token is cancelled.
    CancelThere {
        core: usize,
        program: Vec<Operation>,
        after: u8,
    },
    Send {
        channel: usize,
    },
    /// Locks a mutex of all cores, yields, and unlocks it.
    Lock {
        mutex: usize,
        yields: u8,
    },
    /// The same, but gives up after a while.
    LockFor {
        mutex: usize,
        micros: u64,
    },
    /// Locks the mutex of this core, sleeps, and unlocks it.
    LockHere {
        micros: u64,
    },
    Sleep {
        micros: u64,
    },
    Yield,
    /// Work for a thread that may block.
    Offload,
}

fn programs() -> impl Strategy<Value = Vec<Operation>> {
    let leaf = prop_oneof![
        4 => (0..CHANNELS).prop_map(|channel| Operation::Send { channel }),
        2 => (0..MUTEXES, 0..3u8).prop_map(|(mutex, yields)| Operation::Lock { mutex, yields }),
        1 => (0..MUTEXES, 0..50u64).prop_map(|(mutex, micros)| Operation::LockFor { mutex, micros }),
        1 => (0..50u64).prop_map(|micros| Operation::LockHere { micros }),
        2 => (0..200u64).prop_map(|micros| Operation::Sleep { micros }),
        1 => Just(Operation::Yield),
        1 => Just(Operation::Offload),
    ];
    let operation = leaf.prop_recursive(3, 40, 6, |inner| {
        let program = || prop::collection::vec(inner.clone(), 0..6);
        prop_oneof![
            2 => inner.clone(),
            1 => (program(), any::<bool>()).prop_map(|(program, join)| Operation::SpawnHere { program, join }),
            2 => (0..4usize, program(), any::<bool>())
                .prop_map(|(core, program, join)| Operation::SpawnThere { core, program, join }),
            1 => (program(), 0..4u8).prop_map(|(program, after)| Operation::Cancel { program, after }),
            1 => (0..4usize, program(), 0..4u8)
                .prop_map(|(core, program, after)| Operation::CancelThere { core, program, after }),
        ]
    });
    prop::collection::vec(operation, 1..10)
}

/// What happened, as the oracle sees it.
#[derive(Default)]
struct Log {
    senders: u64,
    /// What was sent and received, by channel: sender and number.
    sent: [Vec<(u64, u64)>; CHANNELS],
    received: [Vec<(u64, u64)>; CHANNELS],
    /// Whether a mutex has a holder.
    held: [bool; MUTEXES],
    started: u64,
    ended: u64,
    wrong: Vec<String>,
}

/// What all cores share.
#[derive(Clone)]
struct Everywhere {
    log: Arc<StdMutex<Log>>,
    channels: [mpsc::Sender<(u64, u64)>; CHANNELS],
    mutexes: Arc<[Mutex<()>; MUTEXES]>,
    cores: Arc<[Handle]>,
    _token: WaitToken,
}

impl Everywhere {
    fn log<R>(&self, write: impl FnOnce(&mut Log) -> R) -> R {
        write(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn core(&self, number: usize) -> &Handle {
        &self.cores[number % self.cores.len()]
    }
}

thread_local! {
    /// What the tasks of each core share, by its number.
    static HERE: RefCell<Vec<Rc<Here>>> = const { RefCell::new(Vec::new()) };
}

/// What the tasks of one core share.
#[derive(Default)]
struct Here {
    mutex: local::Mutex<()>,
    held: Cell<bool>,
}

/// Counts a task from its start to its end, however that comes.
struct Counted(Everywhere);

impl Counted {
    fn new(everywhere: &Everywhere) -> Self {
        everywhere.log(|log| log.started += 1);
        Self(everywhere.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.log(|log| log.ended += 1);
    }
}

/// Says that a mutex has no holder any more, also if its holder is cancelled.
struct Held<'a>(&'a Everywhere, usize);

impl<'a> Held<'a> {
    fn new(everywhere: &'a Everywhere, mutex: usize) -> Self {
        everywhere.log(|log| {
            if std::mem::replace(&mut log.held[mutex], true) {
                log.wrong.push(format!("mutex {mutex} has two holders"));
            }
        });
        Self(everywhere, mutex)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.log(|log| log.held[self.1] = false);
    }
}

struct HeldHere<'a>(&'a Cell<bool>);

impl Drop for HeldHere<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

struct CancelOnDrop(CancelToken);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Runs a program as a task of the core with this number.
fn run(everywhere: Everywhere, core: usize, program: Vec<Operation>) -> Pin<Box<dyn Future<Output = ()>>> {
    let counted = Counted::new(&everywhere);
    let here = HERE.with_borrow(|here| Rc::clone(&here[core]));
    Box::pin(async move {
        let _counted = counted;
        let sender = everywhere.log(|log| {
            log.senders += 1;
            log.senders
        });
        let mut sent = 0;
        for operation in program {
            run_one(&everywhere, &here, core, (sender, &mut sent), operation).await;
        }
    })
}

async fn run_one(
    everywhere: &Everywhere,
    here: &Here,
    core: usize,
    (sender, sent): (u64, &mut u64),
    operation: Operation,
) {
    match operation {
        Operation::SpawnHere { program, join } => {
            let task = rt::named("here").spawn(run(everywhere.clone(), core, program));
            if join {
                task.await.expect("no panic");
            }
        }
        Operation::SpawnThere { core, program, join } => {
            let core = core % everywhere.cores.len();
            let shared = everywhere.clone();
            let task = rt::named("there").spawn_on(everywhere.core(core), move || run(shared, core, program));
            if join {
                task.await.expect("no panic");
            }
        }
        Operation::Cancel { program, after } => {
            let task = rt::named("cancelled").spawn(run(everywhere.clone(), core, program));
            for _ in 0..after {
                rt::yield_now().await;
            }
            task.cancel();
            assert!(matches!(task.await, Ok(()) | Err(JoinError::Cancelled)));
        }
        Operation::CancelThere { core, program, after } => {
            let core = core % everywhere.cores.len();
            let (token, shared) = (CancelToken::new(), everywhere.clone());
            let child = token.child();
            // Also if this task is cancelled itself.
            let cancel = CancelOnDrop(token);
            let task = rt::named("until cancelled").spawn_on(everywhere.core(core), move || async move {
                let program = run(shared, core, program);
                let end = async {
                    program.await;
                    std::future::pending::<()>().await;
                };
                child.run(end).await.expect_err("it ends only by being cancelled");
            });
            for _ in 0..after {
                rt::yield_now().await;
            }
            drop(cancel);
            task.await.expect("no panic");
        }
        Operation::Send { channel } => {
            let message = (sender, *sent);
            everywhere.channels[channel].send(message).await.expect("the receivers outlive the senders");
            everywhere.log(|log| log.sent[channel].push(message));
            *sent += 1;
        }
        Operation::Lock { mutex, yields } => {
            let _guard = everywhere.mutexes[mutex].lock().await;
            let _held = Held::new(everywhere, mutex);
            for _ in 0..yields {
                rt::yield_now().await;
            }
        }
        Operation::LockFor { mutex, micros } => {
            let within = Duration::from_micros(micros);
            if let Ok(_guard) = rt::timeout(within, everywhere.mutexes[mutex].lock()).await {
                let _held = Held::new(everywhere, mutex);
                rt::yield_now().await;
            }
        }
        Operation::LockHere { micros } => {
            let _guard = here.mutex.lock().await;
            assert!(!here.held.replace(true), "a core's mutex has one holder");
            let _held = HeldHere(&here.held);
            rt::sleep(Duration::from_micros(micros)).await;
        }
        Operation::Sleep { micros } => {
            let (from, time) = (rt::now(), Duration::from_micros(micros));
            rt::sleep(time).await;
            let took = rt::now() - from;
            if took < time || took >= time + TICK {
                everywhere.log(|log| log.wrong.push(format!("slept {took:?} instead of {time:?}")));
            }
        }
        Operation::Yield => rt::yield_now().await,
        Operation::Offload => rt::offload("work", || ()).await.expect("no panic"),
    }
}

/// Runs one program in one world; returns its trace, or what is wrong.
fn check(options: WorldOptions, cores: usize, programs: &[Vec<Operation>]) -> Result<u64, String> {
    let world = World::with(options);
    let all: Vec<_> = (0..cores).map(|number| world.core(&number.to_string())).collect();
    HERE.set((0..cores).map(|_| Rc::default()).collect());
    let log = Arc::new(StdMutex::new(Log::default()));
    let group = WaitGroup::new();
    let mut senders = Vec::new();
    let mut receivers = Vec::new();
    for channel in 0..CHANNELS {
        let (sender, mut receiver) = mpsc::channel::<(u64, u64)>(channel + 1);
        let log = Arc::clone(&log);
        senders.push(sender);
        let receive = async move {
            while let Some(message) = receiver.recv().await {
                log.lock().unwrap_or_else(PoisonError::into_inner).received[channel].push(message);
            }
        };
        receivers.push(all[channel % cores].spawn_named("receiver", receive).expect("the world lives"));
    }
    let everywhere = Everywhere {
        log: Arc::clone(&log),
        channels: senders.try_into().expect("as many as channels"),
        mutexes: Arc::default(),
        cores: all.iter().map(|core| core.handle()).collect(),
        _token: group.token(),
    };
    for (number, program) in programs.iter().enumerate() {
        let core = number % cores;
        drop(all[core].spawn_named("program", run(everywhere.clone(), core, program.clone())));
    }
    drop(everywhere);
    let ended = async {
        group.wait().await;
        // The receivers end with the last sender, which goes with the last token.
        rt::sleep(Duration::from_millis(1)).await;
    };
    all[0].try_block_on(ended).map_err(|stuck| stuck.to_string())?;
    let left: Vec<_> = all.iter().flat_map(|core| core.tasks()).map(|task| task.to_string()).collect();
    let all_received = receivers.iter().all(|receiver| receiver.is_finished());
    let trace = world.trace();
    drop(world);
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    if !left.is_empty() || !all_received {
        log.wrong.push(format!("tasks are left: {left:?}"));
    }
    if log.started != log.ended {
        let (started, ended) = (log.started, log.ended);
        log.wrong.push(format!("{started} tasks started and {ended} ended"));
    }
    for channel in 0..CHANNELS {
        if let Some(wrong) = compare(&log.sent[channel], &log.received[channel]) {
            log.wrong.push(format!("channel {channel}: {wrong}"));
        }
    }
    if log.wrong.is_empty() { Ok(trace) } else { Err(log.wrong.join("; ")) }
}

/// What is wrong with what arrived.
fn compare(sent: &[(u64, u64)], received: &[(u64, u64)]) -> Option<String> {
    let sorted = |messages: &[(u64, u64)]| {
        let mut sorted = messages.to_vec();
        sorted.sort_unstable();
        sorted
    };
    if sorted(sent) != sorted(received) {
        return Some(format!("sent {sent:?}, received {received:?}"));
    }
    let mut last = std::collections::BTreeMap::new();
    let out_of_order = received
        .iter()
        .find(|(sender, number)| last.insert(*sender, *number).is_some_and(|last| last >= *number));
    out_of_order.map(|message| format!("{message:?} is out of order in {received:?}"))
}

/// Programs for 1 to 4 cores, and the seed of the first world that they run in.
fn cases() -> impl Strategy<Value = (usize, Vec<Vec<Operation>>, u64)> {
    (1..=4usize, prop::collection::vec(programs(), 1..6), any::<u64>())
}

/// Makes the programs that follow from `seed`, runs them with `check`, and if that fails looks for
/// smaller ones that fail.
fn run_case(
    seed: u64,
    max_shrink_iters: u32,
    check: impl Fn(usize, &[Vec<Operation>], u64) -> Result<(), String>,
) -> Result<(), String> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases: 1, failure_persistence: None, max_shrink_iters, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
        .run(&cases(), |(cores, programs, seed)| check(cores, &programs, seed).map_err(TestCaseError::fail))
        .map_err(|error| error.to_string())
}

/// Programs that must pass, unless the environment says how many.
const SEEDS: u64 = 300;
/// Worlds that each of them runs in.
const WORLDS: u64 = 4;
/// A defect must be noticed within this many programs, each in one world.
const DEFECT_SEEDS: u64 = 100;

#[test]
fn random_programs_do_what_they_say() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let chosen = number("BOSON_SEED");
    let seeds = number("BOSON_SEEDS").unwrap_or(SEEDS);
    let operations = Cell::new(0);
    for seed in chosen.map_or(0..seeds, |seed| seed..seed + 1) {
        let result = run_case(seed, 1000, |cores, programs, world| {
            operations.set(operations.get() + programs.iter().map(Vec::len).sum::<usize>());
            for world in (0..WORLDS).map(|nth| world.wrapping_add(nth)) {
                let trace = check(WorldOptions::new(world), cores, programs)?;
                if check(WorldOptions::new(world), cores, programs)? != trace {
                    return Err(format!("two runs of the world with the seed {world} differ"));
                }
            }
            Ok(())
        });
        if let Err(error) = result {
            panic!("{error}; see it again with BOSON_SEED={seed}");
        }
    }
    println!("{} operations at the top of programs", operations.get());
    assert!(chosen.is_some() || operations.get() > 3_000, "programs are small: {}", operations.get());
}

#[cfg(debug_assertions)]
#[test]
fn random_programs_notice_every_defect() {
    for defect in [Defect::SleepWithoutLook, Defect::LookBeforeListing, Defect::WakeUnlisted] {
        let noticed = (0..DEFECT_SEEDS).find_map(|seed| {
            let run = |cores, programs: &[Vec<Operation>], world| {
                let options = WorldOptions::new(world).defect(defect);
                check(options, cores, programs).map(drop)
            };
            run_case(seed, 0, run).err().map(|error| (seed, error))
        });
        let (seed, error) = noticed.expect("a defect must be noticed");
        println!("{defect:?}, seed {seed}: {}", error.lines().next().unwrap_or_default());
    }
}
