//! A controller's life: starts, resets, failures, removal, shutdown, events.

use std::time::Duration;

use super::super::super::queue::{CommandKind, Refused};
use super::super::io::Fate;
use super::super::model::{Model, ModelNamespace, ModelOptions, Noise};
use super::super::registers::{AQA, CC, Registers};
use super::super::{Controller, ControllerOptions, Event, Phase, Reply, Request, ResetCause};
use super::host::{Host, options, pattern, turn_until};
use crate::error::{ErrorKind, Outcome};
use crate::rt::Instant;

#[test]
fn a_controller_says_what_it_is() {
    let mut namespace = ModelNamespace::new(1024, 12);
    namespace.atomic_blocks = 4;
    namespace.atomic_boundary_blocks = 16;
    namespace.optimal_boundary_blocks = 32;
    let mut options = ModelOptions::new(namespace);
    options.namespaces.push(ModelNamespace::new(10, 9));
    options.doorbell_stride = 3;
    let mut host = Host::start(options, 16, 1);
    let identity = host.controller.identity().expect("ready").clone();
    assert_eq!(identity.model, "boson modelled NVMe controller");
    assert_eq!(identity.transfer_limit_bytes(12), 128 << 10);
    assert!(identity.write_zeroes && identity.dataset_management && identity.compare);
    assert!(host.controller.volatile_cache());
    assert_eq!(host.controller.queue_pairs(), 4);
    let [first, second] = host.controller.namespaces() else { panic!("two namespaces") };
    assert_eq!((first.size_bytes(), second.size_bytes()), (4 << 20, 5120));
    assert_eq!(first.atomic_blocks_power_fail, Some(4));
    assert_eq!(first.atomic_boundary_blocks, Some(16));
    assert_eq!(first.optimal_boundary_blocks, Some(32));
    match host.ask(Request::Health).expect("health") {
        Reply::Health(health) => {
            assert_eq!((health.temperature_kelvin, health.power_cycles), (300, 7));
            assert_eq!(health.warnings().count(), 0);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(host.ask(Request::ActiveNamespaces).expect("list"), Reply::Namespaces(vec![1, 2]));
    assert_eq!(host.ask(Request::Namespace(3)).expect("identify"), Reply::Namespace(None));
    assert_eq!(host.model.violations(), [""; 0]);
}

#[test]
fn formats_that_the_driver_does_not_know_are_refused() {
    let mut namespace = ModelNamespace::new(1024, 9);
    namespace.metadata_bytes = 8;
    let error = Host::try_start(ModelOptions::new(namespace), 8, 1).err().expect("metadata");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("metadata"), "{error}");
}

#[test]
fn a_controller_that_never_becomes_ready_fails_within_its_own_limit() {
    let options = ModelOptions { ready_steps: None, timeout: 4, ..options() };
    let model = Model::new(options, 1);
    let mut controller =
        Controller::new(model.clone(), &model, ControllerOptions::new("nvme:test")).expect("it is there");
    let mut now = Instant::ORIGIN;
    let error = turn_until(&model, &mut controller, &mut now, Phase::Ready).expect_err("never ready");
    assert!(error.to_string().contains("does not become ready"), "{error}");
    assert!(error.to_string().contains("2s"), "{error}");
    let took = now.saturating_since(Instant::ORIGIN);
    assert!((Duration::from_secs(2)..Duration::from_secs(3)).contains(&took), "{took:?}");
    assert_eq!(controller.next_event(), Some(Event::Stopped), "it was disabled before");
    assert_eq!(controller.next_event(), Some(Event::Failed));
    // Somebody resets the function, and it starts after all.
    model.cut_power();
    controller.restart(now);
    assert_eq!(controller.failure(), None);
    assert_eq!(controller.poll(now), Phase::Disabling);
}

#[test]
fn a_controller_that_somebody_left_half_enabled_is_disabled_in_order() {
    for ready in [0, 10] {
        let model = Model::new(ModelOptions { ready_steps: Some(ready), ..options() }, 1);
        model.write32(AQA, 0x000f_000f);
        model.write32(CC, 1);
        let mut controller =
            Controller::new(model.clone(), &model, ControllerOptions::new("nvme:test")).expect("it is there");
        let mut now = Instant::ORIGIN;
        turn_until(&model, &mut controller, &mut now, Phase::Ready).expect("it starts");
        assert_eq!(model.violations(), [""; 0]);
    }
}

#[test]
fn no_controller_is_said_to_be_none() {
    let model = Model::new(options(), 1);
    model.remove();
    let error =
        Controller::new(model.clone(), &model, ControllerOptions::new("nvme:test")).expect_err("all ones");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("all ones"), "{error}");
}

#[test]
fn a_reset_replays_reads_and_fails_writes_by_name() {
    let mut host = Host::start(options(), 16, 3);
    let bytes = pattern(512, 4);
    host.write(0, &bytes, false).expect("write");
    let (read, write) = (host.segment(1, false, 0, 512), host.segment(2, false, 0, 512));
    host.submit(1, CommandKind::Read, 0, 512, &[read]).expect("room");
    host.submit(2, CommandKind::Write { durable: false }, 512, 512, &[write]).expect("room");
    host.submit(3, CommandKind::Flush, 0, 0, &[]).expect("room");
    host.queue.kick();
    // What the controller was never told about cannot have happened.
    let late = host.segment(4, false, 0, 512);
    host.fill(&late, &pattern(512, 9));
    host.submit(4, CommandKind::Write { durable: false }, 1024, 512, &[late]).expect("room");
    host.model.hang(false);
    let failed = host.reset(ResetCause::TimedOut).expect("it is ready again");
    let [(2, Err(error))] = &failed[..] else { panic!("{failed:?}") };
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert!(error.to_string().contains("reset"), "{error}");
    assert!(host.events.contains(&Event::Stopped) && host.events.contains(&Event::Ready));
    let mut done = Vec::new();
    for _ in 0..200 {
        host.turn();
        done.extend(host.poll().into_iter().map(|(slot, result)| (slot, result.is_ok())));
    }
    done.sort_unstable();
    assert_eq!(done, [(1, true), (3, true), (4, true)]);
    assert!(host.bytes(&read) == bytes);
    assert!(host.read(1024, 512).expect("read") == pattern(512, 9));
    assert_eq!(host.queue.counts().replays, 3);
}

#[test]
fn a_flush_is_not_replayed_after_a_fatal_status() {
    let mut host = Host::start(options(), 16, 3);
    host.submit(3, CommandKind::Flush, 0, 0, &[]).expect("room");
    host.model.fail();
    host.queue.kick();
    assert_ne!(host.controller.poll(host.now), Phase::Ready);
    assert_eq!(host.controller.reset_cause(), ResetCause::Fatal);
    let failed = host.recover().expect("it is ready again");
    assert!(matches!(failed[..], [(3, Err(_))]), "{failed:?}");
}

#[test]
fn while_the_controller_is_stopped_callers_wait() {
    let mut host = Host::start(options(), 16, 3);
    host.stop(|_, _, _| Fate::Fail);
    assert!(matches!(host.submit(0, CommandKind::Flush, 0, 0, &[]), Err(Refused::Full)));
}

#[test]
fn a_reset_during_a_reset_starts_over() {
    for turns in 0..40 {
        let mut host = Host::start(ModelOptions { ready_steps: Some(5), ..options() }, 16, turns);
        host.controller.reset(ResetCause::Requested, host.now);
        for _ in 0..turns {
            host.turn();
        }
        host.reset(ResetCause::Requested).expect("it is ready again");
        host.write(0, &pattern(512, 1), false).expect("it works");
        assert_eq!(host.model.violations(), [""; 0], "after {turns} turns");
    }
}

#[test]
fn a_controller_that_fails_again_and_again_is_given_up() {
    let mut host = Host::start(options(), 16, 5);
    for reset in 0..20 {
        host.model.fail();
        host.controller.poll(host.now);
        if let Err(error) = host.recover() {
            assert_eq!(reset, 5, "{error}");
            assert!(error.to_string().contains("five resets"), "{error}");
            return;
        }
    }
    panic!("it was reset twenty times");
}

#[test]
fn an_admin_command_without_an_answer_resets_the_controller() {
    let mut host = Host::start(options(), 16, 5);
    let ticket = host.controller.request(Request::Health, host.now).expect("room");
    host.model.hang(false);
    host.now += Duration::from_secs(61);
    host.controller.poll(host.now);
    assert_eq!(host.controller.reset_cause(), ResetCause::TimedOut);
    let error = host.controller.take(ticket).expect("it ended").expect_err("unanswered");
    assert!(error.to_string().contains("reset before it answered"), "{error}");
    host.recover().expect("it is ready again");
    host.ask(Request::Health).expect("and answers");
}

#[test]
fn a_removed_controller_fails_everything_and_can_come_back() {
    let mut host = Host::start(options(), 16, 7);
    let segment = host.segment(1, false, 0, 512);
    host.submit(1, CommandKind::Read, 0, 512, &[segment]).expect("room");
    host.queue.kick();
    host.model.remove();
    assert_eq!(host.controller.poll(host.now), Phase::Removed);
    assert_eq!(host.controller.next_event(), Some(Event::Removed));
    let mut failed = Vec::new();
    let error = host.controller.error("read");
    assert_eq!(error.kind(), ErrorKind::Closed);
    let controller = &host.controller;
    host.queue.give_up(&|operation| controller.error(operation.name()), &mut |slot, result| {
        failed.push((slot, result));
    });
    assert!(matches!(failed[..], [(1, Err(_))]));
    match host.submit(1, CommandKind::Read, 0, 512, &[segment]) {
        Err(Refused::Failed(failure)) => assert_eq!(failure.kind, ErrorKind::Closed),
        other => panic!("{other:?}"),
    }
    assert!(host.controller.request(Request::Health, host.now).is_err());
    host.model.insert();
    host.controller.restart(host.now);
    host.until(Phase::Ready).expect("it starts again");
}

#[test]
fn a_shutdown_makes_everything_durable_and_ends() {
    let mut host = Host::start(options(), 16, 9);
    host.write(0, &pattern(512, 8), false).expect("write");
    host.controller.shutdown(host.now);
    host.until(Phase::Off).expect("it shuts down");
    assert_eq!(host.controller.failure(), None);
    host.model.cut_power();
    assert!(host.model.peek(1, 0) == pattern(512, 8));

    let mut host = Host::start(options(), 16, 9);
    host.model.hang(false);
    host.controller.shutdown(host.now);
    host.now += Duration::from_secs(11);
    assert_eq!(host.controller.poll(host.now), Phase::Off);
    assert!(host.controller.failure().is_some_and(|failure| failure.contains("shutdown")));
}

#[test]
fn events_are_told_and_asked_for_again() {
    let mut host = Host::start(options(), 16, 11);
    for round in 1..10_u64 {
        host.events.clear();
        host.model.resize_namespace(1, 1024 + round);
        // Health, spare below its threshold, log page 2.
        host.model.report_event(0x0002_0201);
        host.model.report_event(0x0001_0000);
        for _ in 0..200 {
            host.turn();
        }
        assert!(host.events.contains(&Event::NamespacesChanged(vec![1])), "{:?}", host.events);
        assert!(host.events.contains(&Event::Error("a write to the doorbell of no queue")));
        let health = host.events.iter().find_map(|event| match event {
            Event::Health(words, log) => Some((*words, log.is_some())),
            _ => None,
        });
        assert_eq!(health, Some(("the spare capacity is below its threshold", true)));
        match host.ask(Request::Namespace(1)).expect("identify") {
            Reply::Namespace(Some(identity)) => assert_eq!(identity.blocks, 1024 + round),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(host.model.violations(), [""; 0]);
}

#[test]
fn an_abort_ends_a_command_or_comes_too_late() {
    let mut ended = [0, 0];
    for seed in 0..40 {
        let mut noisy = options();
        noisy.noise = Noise { late_aborts: 500, ..Noise::default() };
        let mut host = Host::start(noisy, 16, seed);
        let segment = host.segment(1, false, 0, 512);
        host.submit(1, CommandKind::Read, 0, 512, &[segment]).expect("room");
        host.queue.kick();
        let command_id = host.queue.command_id(1).expect("it is with the controller");
        let abort = Request::Abort { queue: 1, command_id };
        let ticket = host.controller.request(abort, host.now).expect("room");
        let aborted = host.answer(ticket).expect("an answer") == Reply::Aborted(true);
        match host.wait(1) {
            Ok(()) => assert!(!aborted),
            Err(error) => {
                assert!(aborted && error.to_string().contains("Command Abort Requested"), "{error}");
                assert_eq!(error.kind(), ErrorKind::Cancelled);
            }
        }
        ended[usize::from(aborted)] += 1;
        assert_eq!(host.queue.command_id(1), None);
    }
    assert!(ended[0] > 0 && ended[1] > 0, "{ended:?}");
}

#[test]
fn deleted_queues_end_their_commands() {
    let mut host = Host::start(options(), 16, 13);
    for slot in 0..8 {
        let segment = host.segment(slot, false, 0, 512);
        host.submit(slot, CommandKind::Read, 0, 512, &[segment]).expect("room");
    }
    host.queue.kick();
    host.ask(Request::DeleteQueues(1)).expect("deleted");
    let done = host.poll().len();
    // What the controller had not fetched is not reported by it.
    let failed = host.stop(|_, _, _| Fate::Fail);
    assert_eq!(done + failed.len(), 8);
    host.attach().expect("created again");
    host.read(0, 512).expect("and they work");
    let error = host.ask(Request::DeleteQueues(3)).expect_err("no such queue");
    assert!(error.to_string().contains("Invalid Queue Identifier"), "{error}");
}
