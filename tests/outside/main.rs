//! `boson serve` in a virtual machine, with clients outside of it: what they were told is written
//! is there after SIGKILL, after a power cut, and after any power cut that the log of the device's
//! writes allows.
//!
//! `scripts/guest` makes the machine and runs these tests; elsewhere they are ignored. They look at
//! one [`Story`], because an emulated machine takes its time to boot.

#[path = "../support/mod.rs"]
mod support;

mod image;
mod machine;
mod write_log;

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use image::ImageServer;
use machine::{Machine, file, logged, said};
use support::server::{Client, Directory};
use support::steps::{Random, Writer};
use write_log::{Crashes, Flushes, WriteLog};

/// How long the servers are written to before they are killed, and once more before the power goes,
/// unless `BOSON_OUTSIDE_LOAD` says another number of seconds.
const LOAD_SECONDS: u64 = 3;
const WRITERS: usize = 3;
/// A server, the namespace below it and those who write to it.
struct Store {
    address: String,
    /// What `scripts/guest` calls the namespace: its log is in a file of this name.
    name: &'static str,
    durability: &'static str,
    block: usize,
    writers: Vec<Writer>,
    /// For each writer: how many steps were acknowledged, and how many entries the log had then.
    told: Vec<Vec<(u64, u64)>>,
    /// The most steps that each writer sent.
    sent: Vec<u64>,
    /// What redis-cli got for a key that it had set.
    answer: String,
    /// What is wrong with what the store held after SIGKILL, and after the power cut.
    after_kill: Result<(), String>,
    after_power_cut: Result<(), String>,
}

impl Store {
    fn new(variable: &str, name: &'static str, durability: &'static str, block: usize) -> Self {
        Self {
            // QEMU's controller takes the bit for forced unit access and does not heed it:
            // `nvme_do_write` in hw/nvme/ctrl.c of 7.2 looks at the command's control word for
            // protection information only, and `nvme_blk_write` hands the data to
            // `blk_aio_pwritev` or `dma_blk_write` without BDRV_REQ_FUA. So a forced write is in
            // the log without a flush, and a power cut may lose it.
            address: format!("{}?fua=off", said(variable)),
            name,
            durability,
            block,
            writers: (0..WRITERS).map(Writer::new).collect(),
            told: vec![Vec::new(); WRITERS],
            sent: vec![0; WRITERS],
            answer: String::new(),
            after_kill: Ok(()),
            after_power_cut: Ok(()),
        }
    }

    fn arguments(&self) -> String {
        format!("--store {} --durability {}", self.address, self.durability)
    }

    fn log(&self) -> PathBuf {
        file(&format!("{}.log", self.name))
    }

    fn acknowledged(&self) -> u64 {
        self.writers.iter().map(Writer::acknowledged).sum()
    }

    /// Compares what a server holds with what the writers know.
    fn check(&mut self, address: SocketAddr) -> Result<(), String> {
        let mut client = Client::connect(address).expect("it answers");
        for (writer, sent) in self.writers.iter_mut().zip(&mut self.sent) {
            *sent = writer.sent().max(*sent);
            writer.check(&mut client).map_err(|what| format!("{}: {what}", self.address))?;
        }
        Ok(())
    }
}

/// Starts a server on each store.
fn start(machine: &mut Machine, stores: &[Store]) {
    for (number, store) in stores.iter().enumerate() {
        machine.serve(number, &store.arguments());
    }
    (0..stores.len()).for_each(|number| machine.until_served(number));
}

/// Writes to all servers, and ends that after a while by `end`.
fn load(
    machine: Machine,
    stores: &mut [Store],
    end: impl FnOnce(Machine) -> Option<Machine>,
) -> Option<Machine> {
    std::thread::scope(|scope| {
        for (number, store) in stores.iter_mut().enumerate() {
            let address = machine.address(number);
            for (writer, told) in store.writers.iter_mut().zip(&mut store.told) {
                let log = File::open(file(&format!("{}.log", store.name))).expect("QEMU made it");
                scope.spawn(move || writer.run(address, |steps| told.push((steps, logged(&log)))));
            }
        }
        std::thread::sleep(Duration::from_secs(setting("BOSON_OUTSIDE_LOAD", LOAD_SECONDS)));
        end(machine)
    })
}

/// What redis-cli, a program of somebody else's, gets from a server.
fn redis_cli(address: SocketAddr) -> String {
    let run = |arguments: &[&str]| {
        let port = address.port().to_string();
        let output =
            Command::new("redis-cli").args(["-h", "127.0.0.1", "-p", &port]).args(arguments).output();
        String::from_utf8(output.expect("redis-tools is installed").stdout).expect("UTF-8")
    };
    run(&["SET", "greeting", "hello"]) + &run(&["GET", "greeting"])
}

/// What happened to four servers: the first three acknowledge what is durable, the last one before
/// it has written anything.
struct Story {
    stores: Vec<Store>,
    /// A copy of each store's log as it was when the power went.
    logs: Directory,
}

impl Story {
    fn tell() -> Self {
        let mut stores = vec![
            Store::new("BOSON_OUTSIDE_NVME", "vfio1", "sync", 512),
            Store::new("BOSON_OUTSIDE_NVME_4096", "faulty1", "sync", 4096),
            Store::new("BOSON_OUTSIDE_NG", "nvme1", "sync", 512),
            Store::new("BOSON_OUTSIDE_EARLY", "nvme2", "none", 4096),
        ];
        let started = Instant::now();
        let happened = |what: &str| println!("{:5.1} s: {what}", started.elapsed().as_secs_f64());
        let servers = u16::try_from(stores.len()).expect("few");
        let mut machine = Machine::boot(servers);
        happened("the machine is up");
        start(&mut machine, &stores);
        for (number, store) in stores.iter_mut().enumerate() {
            store.answer = redis_cli(machine.address(number));
        }
        happened("redis-cli was answered");
        let machine = load(machine, &mut stores, |mut machine| {
            machine.kill_servers();
            Some(machine)
        });
        let mut machine = machine.expect("it is on");
        happened("the servers were killed");
        start(&mut machine, &stores);
        for (number, store) in stores.iter_mut().enumerate() {
            println!("{}: {} writes acknowledged", store.address, store.acknowledged());
            store.after_kill = store.check(machine.address(number));
        }
        happened("and started again");
        load(machine, &mut stores, |machine| {
            machine.cut_power();
            None
        });
        happened("the power was cut");
        let logs = Directory::new("outside-logs");
        for store in &stores {
            println!("{}: {} writes acknowledged", store.address, store.acknowledged());
            std::fs::copy(store.log(), logs.path().join(store.name)).expect("copied");
        }
        let mut machine = Machine::boot(servers);
        start(&mut machine, &stores);
        for (number, store) in stores.iter_mut().enumerate() {
            store.after_power_cut = store.check(machine.address(number));
        }
        happened("the machine is up again");
        Self { stores, logs }
    }

    /// Those that promise something.
    fn durable(&self) -> impl Iterator<Item = &Store> {
        self.stores.iter().filter(|store| store.durability == "sync")
    }

    /// The one that acknowledges too early.
    fn early(&self) -> &Store {
        self.stores.iter().find(|store| store.durability == "none").expect("one of them")
    }

    fn log(&self, store: &Store) -> WriteLog {
        WriteLog::read(&self.logs.path().join(store.name)).expect("copied")
    }

    /// Opens a store as it may be after power cuts at `points` of its log, and compares it with
    /// what was acknowledged until then.
    fn replay(
        &self,
        store: &Store,
        log: &WriteLog,
        points: &[usize],
        flushes: Flushes,
        random: &mut Random,
    ) -> Result<(), String> {
        let image = std::fs::metadata(file(&format!("{}.img", store.name))).expect("QEMU has it");
        let size = usize::try_from(image.len()).expect("it fits");
        let mut crashes = Crashes::new(log, size, store.block, flushes);
        for &point in points {
            let image = crashes.at(point, random);
            let block = u32::try_from(store.block).expect("small");
            let server = ImageServer::open(image, block)
                .map_err(|why| format!("{} after {point} entries: {why}", store.address))?;
            let mut client = server.client();
            for (number, (told, sent)) in store.told.iter().zip(&store.sent).enumerate() {
                let by_then = told.iter().filter(|(_, entries)| *entries <= point as u64);
                let acknowledged = by_then.map(|(steps, _)| *steps).max().unwrap_or(0);
                Writer::after(number, acknowledged, *sent)
                    .check(&mut client)
                    .map_err(|what| format!("{} after {point} entries: {what}", store.address))?;
            }
        }
        Ok(())
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect(name))
}

/// Points of a log in its order: right after each flush, and as many anywhere.
fn points(log: &WriteLog, random: &mut Random) -> Vec<usize> {
    let mut points = log.flushes();
    let anywhere = |_| usize::try_from(random.next(log.len() as u64 + 1)).expect("it was below a size");
    points.extend((0..points.len()).map(anywhere).collect::<Vec<_>>());
    points.sort_unstable();
    points.dedup();
    points
}

static STORY: LazyLock<Story> = LazyLock::new(Story::tell);

#[test]
#[ignore = "takes a virtual machine: scripts/guest"]
fn redis_cli_outside_of_the_machine_is_answered() {
    for store in &STORY.stores {
        assert_eq!(store.answer, "OK\nhello\n", "{}", store.address);
    }
}

#[test]
#[ignore = "takes a virtual machine: scripts/guest"]
fn what_was_acknowledged_outside_survives_sigkill_and_a_power_cut() {
    for store in STORY.durable() {
        assert!(store.acknowledged() > 20, "{}: {}", store.address, store.acknowledged());
        store.after_kill.as_ref().expect("nothing is lost to SIGKILL");
        store.after_power_cut.as_ref().expect("nothing is lost to a power cut");
    }
}

/// The canary: who acknowledges before it writes is found out.
#[test]
#[ignore = "takes a virtual machine: scripts/guest"]
fn sigkill_or_a_power_cut_finds_out_who_acknowledged_too_early() {
    // Either misses it if the server has just written all that it had.
    let early = STORY.early();
    let found = early.after_kill.as_ref().and(early.after_power_cut.as_ref());
    let found = found.expect_err("what was only in memory is gone");
    println!("found, as it must be: {found}");
}

#[test]
#[ignore = "takes a virtual machine: scripts/guest"]
fn what_was_acknowledged_survives_a_power_cut_at_any_point_of_the_log() {
    let first = setting("BOSON_SEED", 1);
    for store in STORY.durable() {
        let (started, log) = (Instant::now(), STORY.log(store));
        let mut opened = 0;
        for seed in first..first + setting("BOSON_SEEDS", 1) {
            let mut random = Random(seed);
            let points = points(&log, &mut random);
            opened += points.len();
            let replayed = STORY.replay(store, &log, &points, Flushes::Heeded, &mut random);
            replayed.unwrap_or_else(|what| panic!("BOSON_SEED={seed}: {what}"));
        }
        println!(
            "{}: {} entries with {} flushes, opened after {opened} power cuts in {:.1} s",
            store.address,
            log.len(),
            log.flushes().len(),
            started.elapsed().as_secs_f64()
        );
    }
}

/// The canaries: a device that dropped its last flush, and a server that waits for none, are found
/// out.
#[test]
#[ignore = "takes a virtual machine: scripts/guest"]
fn a_replay_finds_out_a_flush_that_was_dropped_and_writes_acknowledged_too_early() {
    let mut random = Random(1);
    let durable = STORY.durable().map(|store| (store, Flushes::LastDropped));
    for (store, flushes) in durable.chain([(STORY.early(), Flushes::Heeded)]) {
        let log = STORY.log(store);
        // Before that nobody was promised anything.
        let first = store.told.iter().flatten().map(|(_, entries)| *entries).min().expect("some write");
        let after_first = |point: &usize| *point as u64 >= first;
        let points: Vec<_> = log.flushes().into_iter().filter(after_first).collect();
        let result = STORY.replay(store, &log, &points, flushes, &mut random);
        println!("found, as it must be: {}", result.expect_err("something is lost"));
    }
}
