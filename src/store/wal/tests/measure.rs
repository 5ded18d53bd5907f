//! Two cores, one log: what a number, a record and a leader cost, without a tree
//! (`docs/experiments/two-cores-one-log.md`).

use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::fresh;
use crate::store::wal::group::Wal;
use crate::store::wal::order::Line;
use crate::store::wal::writer::{CoreLog, NoRoom};

const BUFFER_BYTES: usize = 1 << 20;
/// With its head of 8 bytes a record has 116.
const OPERATIONS_BYTES: usize = 108;
const WRITES: u64 = 16_000;
/// A core tries to lead after so many of its own writes.
const LEAD_EVERY: u64 = 256;
/// Steps of the tree between the hint and the draw, some 60 ns.
const AHEAD: u32 = 60;

/// How numbers are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Draws {
    /// One `fetch_add` a write.
    One,
    /// The same after a load of the counter.
    Loaded,
    /// The same after a hint.
    Hinted,
    /// Eight with one `fetch_add`: a pipeline whose slots were reserved before.
    Eight,
    /// Each core has a counter and a log of its own: what is left without the shared line.
    Own,
}

/// A log, and what leading it took.
struct Log {
    wal: Wal,
    lead: Mutex<Lead>,
}

struct Lead {
    out: Vec<u8>,
    nanos: u64,
    records: u64,
}

/// Makes one batch in memory, unless somebody else does.
fn lead_once(log: &Log) {
    let Ok(mut lead) = log.lead.try_lock() else { return };
    let lead = &mut *lead;
    let began = Instant::now();
    let mut role = log.wal.lead().expect("the other lock is held");
    let before = role.leader().position();
    let formed = role.next_batch(&mut lead.out).expect("no hole");
    role.written(true);
    // Segments are never read again here.
    let current = role.leader().position().segment;
    super::recycle(&mut role.leader().segments, current);
    if let Some(formed) = formed {
        lead.records += formed.end - before.first;
        lead.nanos += u64::try_from(began.elapsed().as_nanos()).expect("short");
    }
}

/// What a tree would do: `steps` dependent multiplications, of 1.1 ns each here.
fn tree(mut x: u64, steps: u32) -> u64 {
    for _ in 0..steps {
        x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (x >> 7);
    }
    x
}

fn pin_to(core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores).expect("two processors");
}

#[derive(Clone, Copy)]
struct Setup {
    draws: Draws,
    steps: u32,
    /// Only core 0 leads.
    one_leads: bool,
}

/// One core's writes.
fn work(setup: Setup, shared: &Log, log: &CoreLog, leads: bool) {
    let slot = Line(AtomicU64::new(0));
    let mut record = [0; OPERATIONS_BYTES];
    super::record(7, &mut record);
    let count = if setup.draws == Draws::Eight { 8 } else { 1 };
    let mut random = 0x9e37_79b9_7f4a_7c15 ^ std::ptr::from_ref(log).addr() as u64;
    let mut write = 0;
    while write < WRITES {
        if leads && write % LEAD_EVERY == 0 {
            lead_once(shared);
        }
        let mut room = loop {
            match log.room(count, OPERATIONS_BYTES * count as usize) {
                Ok(room) => break room,
                Err(NoRoom::Full) if leads => lead_once(shared),
                Err(NoRoom::Full) => std::hint::spin_loop(),
                Err(NoRoom::TooLong) => panic!("short"),
            }
        };
        let mut reserve = || {
            // Between a half and one and a half, so that the cores do not fall into step.
            random = tree(random, 1);
            let chance = u32::try_from(random >> 40).expect("24 bits") % (setup.steps + 1);
            black_box(tree(random, setup.steps / 2 + chance));
            if setup.draws == Draws::Hinted {
                log.prepare();
            }
            if setup.steps > 0 {
                black_box(tree(random, AHEAD));
            }
            // The slot in the leaf, reserved.
            let _ = slot.0.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);
        };
        (0..count).for_each(|_| reserve());
        if setup.draws == Draws::Loaded {
            black_box(shared.wal.order().next());
        }
        let mut draw = room.draw().expect("the first");
        for _ in 0..count {
            // The slot, live.
            let _ = slot.0.compare_exchange(1, 0, Ordering::Release, Ordering::Relaxed);
            draw.append(OPERATIONS_BYTES, |out| out.copy_from_slice(&record));
        }
        drop(draw);
        write += u64::from(count);
    }
}

/// Nanoseconds for a write of each core, and of the leader for a record.
fn round(setup: Setup, cpus: &[usize]) -> (f64, f64) {
    let own = setup.draws == Draws::Own;
    let groups = if own { cpus.len() } else { 1 };
    let members = cpus.len() / groups;
    let done = AtomicU64::new(0);
    let arrived = AtomicU64::new(0);
    let cores = cpus.len() as u64;
    let groups: Vec<_> = (0..groups)
        .map(|_| {
            let wal = fresh(1 << 20, 4096, (members, BUFFER_BYTES), None);
            Log { wal, lead: Mutex::new(Lead { out: vec![0; 128 << 10], nanos: 0, records: 0 }) }
        })
        .collect();
    let times: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = cpus
            .iter()
            .enumerate()
            .map(|(core, &cpu)| {
                let shared = &groups[if own { core } else { 0 }];
                let (done, arrived) = (&done, &arrived);
                scope.spawn(move || {
                    pin_to(cpu);
                    let log = shared.wal.attach().expect("one for each core");
                    let leads = own || core == 0 || !setup.one_leads;
                    arrived.fetch_add(1, Ordering::AcqRel);
                    while arrived.load(Ordering::Acquire) < cores {
                        std::hint::spin_loop();
                    }
                    let began = Instant::now();
                    work(setup, shared, &log, leads);
                    let ended = Instant::now();
                    done.fetch_add(1, Ordering::AcqRel);
                    while leads && done.load(Ordering::Acquire) < cores {
                        lead_once(shared);
                    }
                    (began, ended)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("ends")).collect()
    });
    let began = times.iter().map(|time| time.0).min().expect("one at least");
    let ended = times.iter().map(|time| time.1).max().expect("one at least");
    let lead = groups[0].lead.lock().expect("nobody panicked");
    #[expect(clippy::cast_precision_loss, reason = "a measurement")]
    let ratio = |nanos: u64, count: u64| nanos as f64 / count.max(1) as f64;
    (
        ratio(u64::try_from((ended - began).as_nanos()).expect("short"), WRITES),
        ratio(lead.nanos, lead.records),
    )
}

/// Nanoseconds that a cache line takes from one core to the other: half of a round trip.
fn transfer() -> f64 {
    const TURNS: u64 = 20_000;
    let line = Line(AtomicU64::new(0));
    let line = &line;
    let took = std::thread::scope(|scope| {
        let play = move |cpu: usize| {
            pin_to(cpu);
            let mine = cpu as u64;
            let mut began = Instant::now();
            for turn in 0..TURNS {
                while line.0.load(Ordering::Acquire) != 2 * turn + mine {
                    std::hint::spin_loop();
                }
                if turn == TURNS / 10 {
                    began = Instant::now();
                }
                line.0.store(2 * turn + mine + 1, Ordering::Release);
            }
            began.elapsed()
        };
        let first = scope.spawn(move || play(0));
        let second = scope.spawn(move || play(1));
        second.join().expect("ends");
        first.join().expect("ends")
    });
    #[expect(clippy::cast_precision_loss, reason = "a measurement")]
    let transfers = (2 * (TURNS - TURNS / 10)) as f64;
    took.as_secs_f64() * 1e9 / transfers
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[derive(Default)]
struct Row {
    one: Vec<f64>,
    two: Vec<f64>,
    ratio: Vec<f64>,
    lead_one: Vec<f64>,
    lead_two: Vec<f64>,
}

#[test]
#[ignore = "a measurement, for two processors with nothing else to do"]
fn two_cores_one_log() {
    let rounds: usize = std::env::var("ROUNDS").map_or(41, |text| text.parse().expect("a number"));
    let mut setups = Vec::new();
    for steps in [0, 60, 180, 400, 600] {
        for draws in [Draws::One, Draws::Loaded, Draws::Hinted, Draws::Eight, Draws::Own] {
            setups.push(Setup { draws, steps, one_leads: false });
        }
        setups.push(Setup { draws: Draws::One, steps, one_leads: true });
    }
    let mut rows: Vec<Row> = setups.iter().map(|_| Row::default()).collect();
    let mut transfers = Vec::new();
    for index in 0..rounds {
        transfers.push(transfer());
        for (setup, row) in setups.iter().zip(&mut rows) {
            let (alone, leader_alone) = round(*setup, &[index % 2]);
            let (both, leader_both) = round(*setup, &[0, 1]);
            row.one.push(alone);
            row.two.push(both);
            row.ratio.push(2.0 * alone / both);
            row.lead_one.push(leader_alone);
            row.lead_two.push(leader_both);
        }
    }
    let middle = median(&mut transfers);
    let (least, most) = (transfers[0], transfers[rounds - 1]);
    println!("a cache line goes over in {middle:.0} ns ({least:.0} to {most:.0})");
    println!("| draws | leads | ns a write, 1 core | 2 cores | times | quartiles | leader, ns a record |");
    for (setup, mut row) in setups.iter().zip(rows) {
        row.ratio.sort_by(f64::total_cmp);
        println!(
            "| {:?} | {} | {:.1} | {:.1} | {:.2} | {:.2} {:.2} | {:.1}, {:.1} |",
            setup.draws,
            if setup.one_leads { "core 0" } else { "both" },
            median(&mut row.one),
            median(&mut row.two),
            row.ratio[rounds / 2],
            row.ratio[rounds / 4],
            row.ratio[rounds * 3 / 4],
            median(&mut row.lead_one),
            median(&mut row.lead_two),
        );
    }
}

/// Nanoseconds for each of `count` calls of `f`.
fn each(count: u64, mut f: impl FnMut(u64)) -> f64 {
    let began = Instant::now();
    (0..count).for_each(&mut f);
    let took = began.elapsed();
    #[expect(clippy::cast_precision_loss, reason = "a measurement")]
    let count = count as f64;
    took.as_secs_f64() * 1e9 / count
}

/// What the steps of a write take on one core that nobody disturbs.
#[test]
#[ignore = "a measurement"]
fn one_write() {
    const COUNT: u64 = 4000;
    pin_to(0);
    let wal = fresh(1 << 20, 4096, (2, BUFFER_BYTES), None);
    let lead = Mutex::new(Lead { out: vec![0; 128 << 10], nanos: 0, records: 0 });
    let shared = Log { wal, lead };
    let log = shared.wal.attach().expect("one for each core");
    let mut record = [0; OPERATIONS_BYTES];
    super::record(7, &mut record);
    let mut steps: [Vec<f64>; 6] = Default::default();
    for _ in 0..301 {
        let order = shared.wal.order();
        // A core that is attached to nothing draws: its numbers would be missing in the log, so
        // it has an order of its own.
        let own = crate::store::wal::order::Order::new(1, 2, None);
        let times = [
            each(COUNT, |_| drop(black_box(log.room(1, OPERATIONS_BYTES)))),
            each(COUNT, |number| {
                black_box(own.draw(0, number, 1));
                own.idle(0);
            }),
            each(COUNT, |_| {
                let mut room = log.room(1, OPERATIONS_BYTES).expect("there is room");
                let mut draw = room.draw().expect("the first");
                draw.append(OPERATIONS_BYTES, |out| out.copy_from_slice(&record));
            }),
            each(COUNT, |_| log.prepare()),
            each(COUNT, |_| {
                black_box(order.stable());
            }),
        ];
        let before = {
            let lead = shared.lead.lock().expect("nobody panicked");
            (lead.nanos, lead.records)
        };
        while shared.wal.durable() < shared.wal.order().next() {
            lead_once(&shared);
        }
        let lead = shared.lead.lock().expect("nobody panicked");
        #[expect(clippy::cast_precision_loss, reason = "a measurement")]
        let leader = (lead.nanos - before.0) as f64 / (lead.records - before.1) as f64;
        for (step, time) in steps.iter_mut().zip(times.into_iter().chain([leader])) {
            step.push(time);
        }
    }
    let names = ["room", "draw and idle", "room, draw, append", "prepare", "stable", "leader, a record"];
    for (name, times) in names.iter().zip(&mut steps) {
        println!("{name}: {:.1} ns", median(times));
    }
}
