//! What a command costs at depth 32: the driver alone, and the whole way from a task of a core to
//! its wake. The controller is the smallest that there can be; what it costs itself is printed too.
//!
//! `cargo test --profile lab --lib nvme::tests::cost -- --ignored --nocapture` prints times;
//! `valgrind --tool=callgrind` with the name of one of the first two tests counts instructions.

use std::any::Any;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU16, Ordering};
use std::time::Duration;

use super::super::super::queue::{Command, CommandKind, Segment};
use super::super::bus::Bus;
use super::super::control::Control;
use super::super::device::Opened;
use super::super::dma::{DmaMemory, DmaRegion, Region};
use super::super::interrupt::Vector;
use super::super::io::Attachment;
use super::super::model::{Model, ModelNamespace, ModelOptions};
use super::super::queue_pair::QueuePair;
use super::super::registers::{Capabilities, Registers};
use super::super::rings::ENTRY_BYTES;
use crate::block::Namespace;
use crate::error::Result;
use crate::mem::{Arena, DmaBuf};
use crate::rt::{self, Core, CoreConfig, Idle};

/// As many as cores ask for.
const ENTRIES: u16 = 256;
const DEPTH: u16 = 32;
const ROUNDS: u32 = 100_000;
/// The doorbells of queue pair 1.
const TAIL: usize = 0x1008;
const HEAD: usize = 0x100c;

/// A model whose first I/O queue pair completes everything in order, and moves no data, as soon as
/// its tail is written.
#[derive(Clone)]
struct Smallest {
    model: Model,
    places: Arc<Places>,
}

#[derive(Default)]
struct Places {
    submissions: AtomicPtr<[u64; 8]>,
    completions: AtomicPtr<[u64; 2]>,
    head: AtomicU16,
    at: AtomicU16,
    phase: AtomicU16,
}

impl Smallest {
    fn new() -> Self {
        // Its admin queue answers at once, too.
        let namespace = ModelNamespace::new(4096, 12);
        let options = ModelOptions { immediate: true, ..ModelOptions::new(namespace) };
        let places = Places { phase: AtomicU16::new(1), ..Places::default() };
        Self { model: Model::new(options, 1), places: Arc::new(places) }
    }
}

impl Registers for Smallest {
    fn read32(&self, offset: usize) -> u32 {
        self.model.read32(offset)
    }

    #[inline]
    fn write32(&self, offset: usize, value: u32) {
        match offset {
            TAIL => self.places.complete_to(value),
            HEAD => {}
            _ => self.model.write32(offset, value),
        }
    }
}

impl Places {
    #[inline(never)]
    fn complete_to(&self, tail: u32) {
        let (submissions, completions) =
            (self.submissions.load(Ordering::Relaxed), self.completions.load(Ordering::Relaxed));
        let [mut head, mut at, mut phase] =
            [&self.head, &self.at, &self.phase].map(|number| number.load(Ordering::Relaxed));
        while u32::from(head) != tail {
            let entry = submissions.wrapping_add(usize::from(head)).cast::<u64>();
            // SAFETY: the queue pair's ring has `ENTRIES` entries at this address, and lives.
            let first = unsafe { entry.read_volatile() };
            head = (head + 1) % ENTRIES;
            let id = first >> 16 & 0xffff;
            let last = u64::from(head) | 1 << 16 | id << 32 | u64::from(phase) << 48;
            let completion = completions.wrapping_add(usize::from(at));
            // SAFETY: as above, of the completion ring.
            unsafe { completion.write_volatile([0, last]) };
            at = (at + 1) % ENTRIES;
            if at == 0 {
                phase ^= 1;
            }
        }
        for (number, value) in [(&self.head, head), (&self.at, at), (&self.phase, phase)] {
            number.store(value, Ordering::Relaxed);
        }
    }
}

impl DmaMemory for Smallest {
    fn allocate(&self, len: usize) -> Result<DmaRegion> {
        let region = self.model.allocate(len)?;
        // A queue pair asks for its submission ring, and then for its completion ring.
        let is_first = self.places.submissions.load(Ordering::Relaxed).is_null();
        if len == usize::from(ENTRIES) * ENTRY_BYTES && is_first {
            self.places.submissions.store(region.pointer().cast(), Ordering::Relaxed);
        } else if !is_first && self.places.completions.load(Ordering::Relaxed).is_null() {
            self.places.completions.store(region.pointer().cast(), Ordering::Relaxed);
        }
        Ok(region)
    }
}

impl Bus for Smallest {
    type Registers = Self;

    fn registers(&self) -> Self {
        self.clone()
    }

    fn reach(&self, arena: &Arena) -> Result<(Region, Box<dyn Any>)> {
        Bus::reach(&self.model, arena)
    }

    fn has_vector(&self, _number: u16) -> bool {
        false
    }

    fn vector(&self, _number: u16) -> Option<Box<dyn Vector>> {
        None
    }

    fn reset(&self) -> Result<()> {
        Bus::reset(&self.model)
    }

    fn pause(&self, _longest: Duration) {
        self.model.settle();
    }
}

fn print(what: &str, took: Duration) {
    let each = took.as_secs_f64() * 1e9 / f64::from(ROUNDS) / f64::from(DEPTH);
    println!("{each:6.1} ns per command at depth {DEPTH}: {what}");
}

fn attachment() -> Attachment {
    Attachment {
        name: "nvme:cost/1".to_owned(),
        namespace: 1,
        block_shift: 12,
        fused: true,
        page_shift: 12,
        sgl_alignment: None,
    }
}

#[test]
#[ignore = "prints a time, and wants an optimised build"]
fn cost_of_the_controller() {
    let mut submissions = vec![[0_u64; 8]; usize::from(ENTRIES)];
    let mut completions = vec![[0_u64; 2]; usize::from(ENTRIES)];
    let controller = Smallest::new();
    controller.places.submissions.store(submissions.as_mut_ptr(), Ordering::Relaxed);
    controller.places.completions.store(completions.as_mut_ptr(), Ordering::Relaxed);
    let begin = std::time::Instant::now();
    let mut tail = 0;
    for _ in 0..ROUNDS {
        tail = (tail + DEPTH) % ENTRIES;
        controller.write32(TAIL, tail.into());
    }
    print("the modelled controller by itself, a part of each of the other two", begin.elapsed());
    assert_eq!(controller.places.head.load(Ordering::Relaxed), tail);
}

#[test]
#[ignore = "prints a time, and wants an optimised build"]
fn cost_of_the_driver() {
    let controller = Smallest::new();
    let capabilities = Capabilities::new(1023 | 1 << 37);
    let mut pair =
        QueuePair::new(controller.clone(), &capabilities, &controller, 1, ENTRIES, None, attachment())
            .expect("memory");
    pair.resume();
    let mut buffer = DmaBuf::zeroed(usize::from(DEPTH) * 4096);
    let base = NonNull::new(buffer.as_mut_ptr()).expect("a buffer is somewhere");
    let region = Region { start: base.addr().get(), len: buffer.len(), device_address: 1 << 30 };
    pair.regions_mut().insert(region);
    let segments: Vec<Segment> = (0..usize::from(DEPTH))
        .map(|slot| base.as_ptr().wrapping_add(slot * 4096))
        .map(|ptr| Segment { ptr: NonNull::new(ptr).expect("within the buffer"), len: 4096 })
        .collect();
    let begin = std::time::Instant::now();
    let mut ended = 0_u64;
    for round in 0..ROUNDS {
        let now = rt::Instant::from_nanos(round.into());
        for (slot, segment) in (0..DEPTH).zip(&segments) {
            let command = Command {
                kind: CommandKind::Read,
                offset: u64::from(round & 0xff) * 4096,
                len: 4096,
                memory: std::slice::from_ref(segment),
                expected: &[],
            };
            // SAFETY: nobody reads or writes the buffer, the controller above least of all.
            unsafe { pair.submit(slot, &command, now) }.expect("there is room");
        }
        pair.kick();
        let taken = pair.poll(usize::from(DEPTH), |_, result| ended += u64::from(result.is_ok()));
        assert_eq!(taken, usize::from(DEPTH));
    }
    print("the driver without the runtime: submit, doorbell, completion", begin.elapsed());
    assert_eq!(ended, u64::from(ROUNDS) * u64::from(DEPTH));
}

#[test]
#[ignore = "prints a time, and wants an optimised build"]
fn cost_of_the_whole_way() {
    let config = CoreConfig::default().seed([5; 32]).idle(Idle::Poll);
    let core = Core::new(&config).expect("a core");
    let took = core.block_on(async {
        let bus = Smallest::new();
        let control = Control::open(bus, "nvme:cost".to_owned(), 1).await.expect("it comes up");
        let opened = Opened::of(Arc::new(control), 1).await.expect("it has a namespace");
        let namespace = opened.attach().await.expect("attach");
        let begin = std::time::Instant::now();
        let tasks: Vec<_> = (0..u64::from(DEPTH))
            .map(|slot| {
                let namespace = namespace.clone();
                rt::spawn(async move {
                    let mut buf = rt::arena().alloc(4096);
                    for _ in 0..ROUNDS {
                        buf = namespace.read(slot * 4096, buf).await.expect("read");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        begin.elapsed()
    });
    print("the whole way: a task's read on a core, to its wake", took);
}

#[test]
fn the_smallest_controller_is_found_where_its_rings_are() {
    let controller = Smallest::new();
    let capabilities = Capabilities::new(1023 | 1 << 37);
    let pair = QueuePair::new(controller.clone(), &capabilities, &controller, 1, ENTRIES, None, attachment())
        .expect("memory");
    let [submissions, completions] = pair.ring_pointers();
    assert!(ptr::eq(controller.places.submissions.load(Ordering::Relaxed).cast(), submissions));
    assert!(ptr::eq(controller.places.completions.load(Ordering::Relaxed).cast(), completions));
}
