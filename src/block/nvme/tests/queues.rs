//! Commands through one queue pair.

use super::super::super::queue::{Command, CommandKind, Refused, Segment};
use super::super::Status;
use super::super::command::opcode;
use super::super::model::{ModelNamespace, ModelOptions};
use super::super::status::{is_miscompare, status_of};
use super::host::{Host, options, pattern};
use crate::error::{ErrorKind, Outcome};

#[test]
fn what_is_written_is_read() {
    for (shift, sgl) in [(9, 0), (12, 0), (9, 1), (12, 2)] {
        let options = ModelOptions { sgl, ..ModelOptions::new(ModelNamespace::new(256, shift)) };
        let mut host = Host::start(options, 8, 1);
        let block = 1_usize << shift;
        for (blocks, at) in [(1, 0), (3, 5), (9, 17), (16, 240), (1, 255)] {
            let (len, offset) = (blocks * block, (at * block) as u64);
            if len > 48 << 10 {
                continue;
            }
            let bytes = pattern(len, 7);
            host.write(offset, &bytes, false).expect("write");
            assert!(host.read(offset, len).expect("read") == bytes, "{blocks} blocks at {at}");
        }
        assert_eq!(host.model.violations(), [""; 0]);
    }
}

#[test]
fn a_queue_of_two_entries_wraps_and_works() {
    let mut host = Host::start(options(), 2, 3);
    assert_eq!(host.queue.slots(), 1);
    for round in 0..50_u8 {
        let bytes = pattern(1024, round);
        host.write(u64::from(round) * 1024, &bytes, false).expect("write");
        assert!(host.read(u64::from(round) * 1024, 1024).expect("read") == bytes);
    }
    let segment = host.segment(0, false, 0, 512);
    host.submit(0, CommandKind::Read, 0, 512, &[segment]).expect("room for one");
    assert!(matches!(host.submit(0, CommandKind::Flush, 0, 0, &[]), Err(Refused::Full)));
    host.wait(0).expect("read");
}

#[test]
fn doorbells_are_written_once_for_many_commands() {
    let mut host = Host::start(options(), 32, 5);
    let before = host.queue.counts();
    for slot in 0..20 {
        let segment = host.segment(slot, false, 0, 512);
        host.submit(slot, CommandKind::Read, u64::from(slot) * 512, 512, &[segment]).expect("room");
    }
    host.queue.kick();
    host.queue.kick();
    host.model.settle();
    assert_eq!(host.poll().len(), 20);
    let after = host.queue.counts();
    assert_eq!(after.tail_doorbells - before.tail_doorbells, 1);
    assert_eq!(after.head_doorbells - before.head_doorbells, 1);
    assert!(host.model.take_interrupt(1), "its completions interrupt");
}

#[test]
fn doorbells_in_memory_spare_registers() {
    let mut host = Host::start(ModelOptions { shadow_doorbells: true, ..options() }, 32, 6);
    assert!(host.controller.shadow_doorbells().is_some());
    let before = host.queue.counts();
    let mut ended = 0;
    for round in 0..100_u16 {
        for slot in 0..20 {
            let segment = host.segment(slot, false, 0, 512);
            // Those that are still under way are refused.
            let _ = host.submit(slot, CommandKind::Read, u64::from(round) * 512, 512, &[segment]);
        }
        host.queue.kick();
        for _ in 0..30 {
            host.model.step();
        }
        ended += host.poll().len();
    }
    let tails = host.queue.counts().tail_doorbells - before.tail_doorbells;
    assert!(ended > 200 && tails < 90, "{ended} commands with {tails} writes of the tail's register");
    assert_eq!(host.model.violations(), [""; 0]);
}

/// Segments of these offsets and lengths in slot 0's memory.
fn pieces(host: &Host, pieces: &[(usize, usize)]) -> Vec<Segment> {
    pieces.iter().map(|&(from, len)| host.segment(0, false, from, len)).collect()
}

/// Offsets and lengths within a slot's memory, in bytes.
type Pieces = &'static [(usize, usize)];

#[test]
fn memory_in_pieces_is_carried_or_refused() {
    // Offsets and lengths; whether PRPs, SGLs of 4 bytes and SGLs of any alignment carry them.
    let cases: [(Pieces, [bool; 3]); 8] = [
        (&[(0, 8192)], [true; 3]),
        (&[(512, 8192)], [true; 3]),
        (&[(4, 8192)], [true; 3]),
        (&[(2048, 2048), (8192, 4096), (4096, 2048)], [true; 3]),
        (&[(0, 4096), (8192, 4096)], [true; 3]),
        (&[(0, 2048), (4096, 2048)], [false, true, true]),
        (&[(1024, 1000), (8192, 24)], [false, true, true]),
        (&[(1, 1023), (8191, 1)], [false, false, true]),
    ];
    for (column, sgl) in [0, 2, 1].into_iter().enumerate() {
        for (case, carried) in &cases {
            let mut host = Host::start(ModelOptions { sgl, ..options() }, 8, 9);
            let len: usize = case.iter().map(|(_, len)| len).sum();
            let bytes = pattern(len, 3);
            host.write(512, &bytes, false).expect("write");
            let segments = pieces(&host, case);
            for segment in &segments {
                host.fill(segment, &vec![0; segment.len]);
            }
            match host.submit(0, CommandKind::Read, 512, len as u64, &segments) {
                Ok(()) => {
                    assert!(carried[column], "{case:?} with SGLs {sgl}");
                    host.wait(0).expect("read");
                    let read: Vec<u8> = segments.iter().flat_map(|segment| host.bytes(segment)).collect();
                    assert!(read == bytes, "{case:?} with SGLs {sgl}");
                }
                Err(Refused::Copy) => assert!(!carried[column], "{case:?} with SGLs {sgl}"),
                Err(other) => panic!("{other:?}"),
            }
            assert_eq!(host.model.violations(), [""; 0]);
        }
    }
}

#[test]
fn compare_and_write_is_one_step() {
    let mut host = Host::start(options(), 8, 11);
    let (old, new) = (pattern(1024, 1), pattern(1024, 2));
    host.write(4096, &old, false).expect("write");
    let run = |host: &mut Host, expected: &[u8], bytes: &[u8]| {
        let memory = [host.segment(3, false, 0, 1024)];
        let compared = [host.segment(3, true, 0, 1024)];
        host.fill(&memory[0], bytes);
        host.fill(&compared[0], expected);
        let command = Command {
            kind: CommandKind::CompareAndWrite,
            offset: 4096,
            len: 1024,
            memory: &memory,
            expected: &compared,
        };
        host.send(3, &command).expect("room");
        host.wait(3)
    };
    let error = run(&mut host, &new, &old).expect_err("other data is there");
    assert!(error.to_string().contains("Compare Failure"), "{error}");
    assert_eq!(error.outcome(), Outcome::NotStarted);
    assert!(is_miscompare(&error));
    assert!(host.read(4096, 1024).expect("read") == old);
    run(&mut host, &old, &new).expect("the expected data is there");
    assert!(host.read(4096, 1024).expect("read") == new);
    assert_eq!(host.model.violations(), [""; 0]);

    let mut host = Host::start(ModelOptions { fused: false, ..options() }, 8, 11);
    let memory = [host.segment(0, false, 0, 512)];
    let command = Command {
        kind: CommandKind::CompareAndWrite,
        offset: 0,
        len: 512,
        memory: &memory,
        expected: &memory,
    };
    match host.send(0, &command) {
        Err(Refused::Failed(failure)) => assert_eq!(failure.kind, ErrorKind::Unsupported),
        other => panic!("{other:?}"),
    }
}

#[test]
fn trims_and_zeroes_read_as_zeros() {
    let mut host = Host::start(options(), 8, 13);
    let bytes = pattern(4096, 5);
    host.write(0, &bytes, false).expect("write");
    host.submit(0, CommandKind::Trim, 512, 1024, &[]).expect("room");
    host.wait(0).expect("trim");
    host.submit(0, CommandKind::WriteZeroes, 2048, 512, &[]).expect("room");
    host.wait(0).expect("zeroes");
    let read = host.read(0, 4096).expect("read");
    assert!(read[..512] == bytes[..512] && read[512..1536].iter().all(|&byte| byte == 0));
    assert!(read[1536..2048] == bytes[1536..2048] && read[2048..2560].iter().all(|&byte| byte == 0));
    assert!(read[2560..] == bytes[2560..]);
    host.submit(0, CommandKind::Trim, 512 * 1023, 1024, &[]).expect("room");
    let error = host.wait(0).expect_err("past the end");
    assert!(error.to_string().contains("LBA Out of Range"), "{error}");
    assert!(error.to_string().contains("nvme:test/1 offset 523776"), "{error}");
}

#[test]
fn durable_is_what_was_flushed_or_written_through() {
    for seed in 0..20 {
        let mut host = Host::start(options(), 8, seed);
        host.write(0, &pattern(512, 1), false).expect("write");
        host.flush().expect("flush");
        host.write(512, &pattern(512, 2), true).expect("durable write");
        host.write(1024, &pattern(512, 3), false).expect("write");
        host.model.cut_power();
        assert!(host.model.peek(1, 0) == pattern(512, 1), "flushed");
        assert!(host.model.peek(1, 1) == pattern(512, 2), "written through");
        let maybe = host.model.peek(1, 2);
        assert!(maybe == pattern(512, 3) || maybe == [0; 512], "one or the other");
    }
}

#[test]
fn every_status_is_reported_in_words() {
    let mut host = Host::start(options(), 8, 17);
    for field in 1..0x800_u16 {
        let [code, code_type] = field.to_le_bytes();
        let status = Status::new(code_type, code).do_not_retry();
        host.model.fail_next(opcode::WRITE, status);
        let error = host.write(0, &[1; 512], false).expect_err("the model was told to fail it");
        assert!(error.to_string().contains(status.name()), "{error}");
        assert_eq!(status_of(&error), Some(status));
        assert!(error.place().is_some_and(|place| place == "nvme:test/1 offset 0"));
    }
    host.write(0, &[1; 512], false).expect("the queue pair lives on");
}

#[test]
fn transient_failures_are_tried_again_a_few_times() {
    let mut host = Host::start(options(), 8, 19);
    for _ in 0..3 {
        host.model.fail_next(opcode::READ, Status::new(0, 0x22));
    }
    host.read(0, 512).expect("the fourth try succeeds");
    assert_eq!(host.queue.counts().retries, 3);
    for _ in 0..4 {
        host.model.fail_next(opcode::READ, Status::new(0, 0x21));
    }
    let error = host.read(0, 512).expect_err("four tries failed");
    assert!(error.to_string().contains("Command Interrupted"), "{error}");
    assert_eq!(host.queue.in_flight(), 0);
}

#[test]
fn a_bad_block_fails_only_its_own_commands() {
    let mut host = Host::start(options(), 8, 21);
    host.model.fail_block(1, 5, Status::new(2, 0x81).do_not_retry());
    let error = host.read(4 * 512, 1024).expect_err("block 5 is bad");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    host.read(0, 1024).expect("its neighbours are not");
}

#[test]
fn wrong_commands_are_refused_before_they_are_sent() {
    let mut host = Host::start(options(), 8, 23);
    let segment = host.segment(0, false, 0, 1024);
    let refused = |host: &mut Host, slot, offset, len, memory: &[Segment]| match host.submit(
        slot,
        CommandKind::Read,
        offset,
        len,
        memory,
    ) {
        Err(Refused::Failed(failure)) => failure.detail.into_owned(),
        other => panic!("{other:?}"),
    };
    assert!(refused(&mut host, 0, 1, 1024, &[segment]).contains("whole blocks"));
    assert!(refused(&mut host, 0, 0, 100, &[segment]).contains("whole blocks"));
    assert!(refused(&mut host, 0, 0, 0, &[]).contains("whole blocks"));
    assert!(refused(&mut host, 0, 0, 512, &[segment]).contains("not as long"));
    assert!(refused(&mut host, 7, 0, 1024, &[segment]).contains("slot 7"));
    let start = host.region.start;
    host.queue.regions_mut().remove(start);
    let unreachable = host.submit(0, CommandKind::Read, 0, 1024, &[segment]);
    assert!(matches!(unreachable, Err(Refused::Copy)), "it is to be copied: {unreachable:?}");
    assert_eq!(host.queue.in_flight(), 0);
}
