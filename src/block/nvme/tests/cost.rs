//! What a command costs in the driver alone: the controller is the smallest that there can be.
//! `cargo test --profile lab --lib nvme::tests::cost -- --ignored --nocapture` prints it.

use std::cell::Cell;
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::Instant;

use super::super::model::Model;
use super::super::{Attachment, Capabilities, Operation, QueuePair, Region, Registers, Segment, Transfer};
use super::host::options;
use crate::mem::DmaBuf;

const ENTRIES: u16 = 64;
const DEPTH: u16 = 32;
const ROUNDS: u32 = 100_000;

/// Completes everything in order as soon as a tail is written.
#[derive(Clone)]
struct Smallest(Rc<Places>);

struct Places {
    submissions: Cell<*const [u32; 16]>,
    completions: Cell<*mut [u32; 4]>,
    head: Cell<u16>,
    at: Cell<u16>,
    phase: Cell<u32>,
}

impl Registers for Smallest {
    fn read32(&self, _offset: usize) -> u32 {
        0
    }

    fn write32(&self, offset: usize, value: u32) {
        // The tail of queue 1; heads of its completions need nothing.
        if offset != 0x1008 {
            return;
        }
        let places = &*self.0;
        while u32::from(places.head.get()) != value {
            let entry = places.submissions.get().wrapping_add(usize::from(places.head.get()));
            // SAFETY: the queue pair's ring has `ENTRIES` entries at this address, and lives.
            let entry = unsafe { entry.read_volatile() };
            places.head.set((places.head.get() + 1) % ENTRIES);
            let last = entry[0] >> 16 | places.phase.get() << 16;
            let completion = [0, 0, u32::from(places.head.get()) | 1 << 16, last];
            let to = places.completions.get().wrapping_add(usize::from(places.at.get()));
            // SAFETY: as above, of the completion ring.
            unsafe { to.write_volatile(completion) };
            places.at.set((places.at.get() + 1) % ENTRIES);
            if places.at.get() == 0 {
                places.phase.set(places.phase.get() ^ 1);
            }
        }
    }
}

#[test]
#[ignore = "prints a time, and wants an optimised build"]
fn the_cost_of_a_command() {
    let places = Places {
        submissions: Cell::new(std::ptr::null()),
        completions: Cell::new(std::ptr::null_mut()),
        head: Cell::new(0),
        at: Cell::new(0),
        phase: Cell::new(1),
    };
    let controller = Smallest(Rc::new(places));
    let capabilities = Capabilities::new(1023 | 1 << 37);
    let memory = Model::new(options(), 1);
    let attachment = Attachment {
        name: "nvme:cost/1".to_owned(),
        namespace: 1,
        block_shift: 9,
        fused: false,
        page_shift: 12,
        sgl_alignment: None,
    };
    let mut pair = QueuePair::new(controller.clone(), &capabilities, &memory, 1, ENTRIES, None, attachment)
        .expect("memory");
    let [submissions, completions] = pair.ring_pointers();
    controller.0.submissions.set(submissions.cast());
    controller.0.completions.set(completions.cast());
    pair.resume();
    let mut buffer = DmaBuf::zeroed(usize::from(DEPTH) * 4096);
    let base = NonNull::new(buffer.as_mut_ptr()).expect("a buffer is somewhere");
    let region = Region { start: base.addr().get(), len: buffer.len(), device_address: 1 << 30 };
    pair.regions_mut().insert(region);
    let segments: Vec<Segment> = (0..usize::from(DEPTH))
        .map(|slot| {
            let ptr = base.as_ptr().wrapping_add(slot * 4096);
            // SAFETY: nobody reads or writes there, the controller above least of all.
            unsafe { Segment::new(NonNull::new(ptr).expect("within the buffer"), 4096) }
        })
        .collect();
    let begin = Instant::now();
    let mut ended = 0_u64;
    for round in 0..ROUNDS {
        for (slot, segment) in (0..DEPTH).zip(&segments) {
            let transfer = Transfer {
                operation: Operation::Read,
                offset: u64::from(round & 0xff) * 4096,
                len: 4096,
                memory: std::slice::from_ref(segment),
                expected: &[],
            };
            pair.submit(slot, &transfer).expect("there is room");
        }
        pair.kick();
        let taken = pair.poll(usize::from(DEPTH), &mut |_, result| ended += u64::from(result.is_ok()));
        assert_eq!(taken, usize::from(DEPTH));
    }
    let took = begin.elapsed();
    assert_eq!(ended, u64::from(ROUNDS) * u64::from(DEPTH));
    let each = took.as_secs_f64() * 1e9 / f64::from(ROUNDS) / f64::from(DEPTH);
    println!("{each:.1} ns per command at depth {DEPTH}: submit, doorbell, completion");
}
