//! Interrupts are masked while a core polls, and wake it when it sleeps.

use std::os::fd::BorrowedFd;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::super::queue::CommandKind;
use super::super::bus::Bus;
use super::super::interrupt::{Interrupt, Mutation, POLLS_BEFORE_MASK, Vector};
use super::super::model::{ModelOptions, Noise, Pace};
use super::host::{Host, options};
use crate::rt::poller::Park;

/// Of the host's queue pair.
const VECTOR: u16 = 1;
const ENTRIES: u16 = 8;

fn interrupting() -> ModelOptions {
    ModelOptions { eventfds: true, ..options() }
}

fn vector(host: &Host) -> Box<dyn Vector> {
    host.model.vector(VECTOR).expect("it has eventfds")
}

fn is_readable(vector: &dyn Vector) -> bool {
    // SAFETY: the descriptor is open as long as the vector.
    let eventfd = unsafe { BorrowedFd::borrow_raw(vector.descriptor()) };
    let mut fds = [PollFd::from_borrowed_fd(eventfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("poll") > 0
}

#[test]
fn a_masked_vector_interrupts_when_it_is_unmasked() {
    for seed in 0..20 {
        let mut host = Host::start(interrupting(), ENTRIES, seed);
        let vector = vector(&host);
        host.read(0, 512).expect("read");
        assert!(host.model.interrupts(VECTOR) > 0 && is_readable(&*vector));
        vector.empty();
        assert!(!is_readable(&*vector));
        let before = host.model.interrupts(VECTOR);
        vector.set_mask(true);
        let segment = host.segment(0, false, 0, 512);
        host.submit(0, CommandKind::Read, 0, 512, &[segment]).expect("room");
        host.queue.kick();
        host.model.settle();
        assert!(host.queue.has_completion());
        assert_eq!(host.model.interrupts(VECTOR), before, "it is masked");
        vector.set_mask(false);
        host.model.settle();
        assert_eq!(host.model.interrupts(VECTOR), before + 1, "one was pending");
        assert!(is_readable(&*vector));
        host.wait(0).expect("read");
    }
}

/// How a core is about its interrupt.
fn asleep(interrupt: &mut Interrupt, host: &Host) -> bool {
    match interrupt.park(|| host.queue.has_completion()) {
        Park::Wake(_) => true,
        Park::Spin => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_core_that_polls_is_not_interrupted_and_one_that_slept_a_few_times() {
    for maskable in [true, false] {
        let mut host = Host::start(ModelOptions { maskable, ..interrupting() }, ENTRIES, 7);
        let mut interrupt = Interrupt::new(vector(&host));
        let read = |host: &mut Host, interrupt: &mut Interrupt| {
            let segment = host.segment(0, false, 0, 512);
            host.submit(0, CommandKind::Read, 0, 512, &[segment]).expect("room");
            host.queue.kick();
            host.model.settle();
            assert_eq!(host.poll().len(), 1);
            interrupt.completions_were_taken();
        };
        for _ in 0..100 {
            read(&mut host, &mut interrupt);
        }
        let polled = host.model.interrupts(VECTOR);
        assert_eq!(polled, if maskable { 0 } else { 100 });
        assert!(asleep(&mut interrupt, &host));
        host.model.settle();
        // The pending bit may have raised one for nothing.
        let slept = host.model.interrupts(VECTOR);
        for _ in 0..100 {
            read(&mut host, &mut interrupt);
        }
        let each = if maskable { u64::from(POLLS_BEFORE_MASK) } else { 100 };
        assert_eq!(host.model.interrupts(VECTOR) - slept, each);
        // A core that sleeps for each completion needs every interrupt.
        assert!(asleep(&mut interrupt, &host));
        host.model.settle();
        let slept = host.model.interrupts(VECTOR);
        for _ in 0..100 {
            read(&mut host, &mut interrupt);
            assert!(asleep(&mut interrupt, &host));
        }
        assert_eq!(host.model.interrupts(VECTOR) - slept, 100);
    }
}

/// A core that submits, polls and sleeps, beside a controller that works at any time. Fails when
/// the core sleeps although the controller is done; otherwise tells how often it slept, and whether
/// masks were used.
fn run(seed: u64, mutation: Option<Mutation>) -> Result<u64, String> {
    let mut random = StdRng::seed_from_u64(seed);
    let noise = Noise { duplicates: 50, transient: 50, ..Noise::default() };
    let options =
        ModelOptions { pace: Pace::Alone, noise, shadow_doorbells: random.random(), ..interrupting() };
    let mut host = Host::start(options, ENTRIES, seed);
    let mut interrupt = Interrupt::new(vector(&host));
    interrupt.mutation = mutation;
    let vector = vector(&host);
    let (mut is_asleep, mut sleeps) = (false, 0);
    for _ in 0..200 {
        if is_asleep {
            if is_readable(&*vector) {
                is_asleep = false;
            } else if !host.model.step() && !is_readable(&*vector) {
                return Err(format!("the core sleeps for ever after {sleeps} times: {:?}", host.queue));
            }
            continue;
        }
        match random.random_range(0..6) {
            0 | 1 => {
                for slot in 0..random.random_range(1..ENTRIES - 1) {
                    let segment = host.segment(slot, false, 0, 512);
                    // Those that are under way are refused.
                    let _ = host.submit(slot, CommandKind::Read, u64::from(slot) * 512, 512, &[segment]);
                }
                host.queue.kick();
            }
            2 | 3 => {
                for _ in 0..random.random_range(1..8) {
                    host.model.step();
                }
            }
            4 => {
                if !host.poll().is_empty() {
                    interrupt.completions_were_taken();
                }
            }
            _ => {
                if host.queue.in_flight() > 0 {
                    is_asleep = asleep(&mut interrupt, &host);
                    sleeps += u64::from(is_asleep);
                }
            }
        }
    }
    let violations = host.model.violations();
    if violations.is_empty() { Ok(sleeps) } else { Err(format!("{violations:?}")) }
}

#[test]
fn no_wake_is_lost_in_thousands_of_schedules() {
    let (first, seeds) = match std::env::var("BOSON_SEED") {
        Ok(seed) => (seed.parse().expect("BOSON_SEED is a number"), 1),
        Err(_) => (0, std::env::var("BOSON_SEEDS").map_or(3000, |seeds| seeds.parse().expect("a number"))),
    };
    let mut sleeps = 0;
    for seed in first..first + seeds {
        sleeps += run(seed, None).unwrap_or_else(|wrong| {
            panic!("seed {seed} (BOSON_SEED={seed} shows it again): {wrong}");
        });
    }
    assert!(seeds == 1 || sleeps > 3 * seeds, "{sleeps} sleeps in {seeds} schedules");
}

#[test]
fn a_wake_that_is_lost_is_noticed() {
    for mutation in [Mutation::LookFirst, Mutation::StaysMasked] {
        let noticed = (0..100).find_map(|seed| run(seed, Some(mutation)).err().map(|wrong| (seed, wrong)));
        let (seed, wrong) = noticed.unwrap_or_else(|| panic!("{mutation:?} was not noticed"));
        eprintln!("{mutation:?}: seed {seed}: {wrong}");
    }
}

#[test]
fn a_core_that_found_a_completion_instead_of_sleeping_masks_again() {
    let mut host = Host::start(interrupting(), ENTRIES, 7);
    let mut interrupt = Interrupt::new(vector(&host));
    let submit = |host: &mut Host| {
        let segment = host.segment(0, false, 0, 512);
        host.submit(0, CommandKind::Read, 0, 512, &[segment]).expect("room");
        host.queue.kick();
        host.model.settle();
    };
    // It slept, and polled since: masked.
    assert!(asleep(&mut interrupt, &host));
    for _ in 0..10 {
        submit(&mut host);
        assert_eq!(host.poll().len(), 1);
        interrupt.completions_were_taken();
    }
    // It is about to sleep, and finds a completion.
    submit(&mut host);
    assert!(!asleep(&mut interrupt, &host));
    assert_eq!(host.poll().len(), 1);
    interrupt.completions_were_taken();
    host.model.settle();
    let before = host.model.interrupts(VECTOR);
    for _ in 0..100 {
        submit(&mut host);
        assert_eq!(host.poll().len(), 1);
        interrupt.completions_were_taken();
    }
    let came = host.model.interrupts(VECTOR) - before;
    assert!(came <= u64::from(POLLS_BEFORE_MASK), "{came} interrupts of a core that did not sleep");
}
