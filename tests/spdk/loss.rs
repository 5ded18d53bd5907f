//! A target that goes away.

use std::time::{Duration, Instant};

use boson::block::spdk::SpdkNamespace;
use boson::block::{Device, Namespace};
use boson::mem::DmaBuf;
use boson::{ErrorKind, Outcome, rt};

use crate::target::Target;
use crate::{assert_pattern, config, ended, open, pattern, run};

const PATIENCE: Duration = Duration::from_secs(20);

/// How long a target that runs may be refused: the pauses between attempts to reach it, and more.
const RETURN_PATIENCE: Duration = Duration::from_secs(60);

/// The first block, read until that succeeds.
async fn read_once_it_is_back(namespace: &SpdkNamespace) -> DmaBuf {
    let began = Instant::now();
    loop {
        match namespace.read(0, DmaBuf::zeroed(4096)).await {
            Ok(read) => return read,
            Err(error) => assert!(began.elapsed() < RETURN_PATIENCE, "it does not come back: {error}"),
        }
        rt::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_target_killed_in_flight_is_an_error_and_its_return_is_used() {
    let Some(mut target) = Target::start("killed") else { return };
    run(async {
        let device = open(&target.address(2), &config()).await.expect("it is attached");
        let namespace = device.attach().await.expect("a queue pair");
        namespace.read(0, DmaBuf::zeroed(4096)).await.expect("read");
        // Slow ones, more than there is room for.
        let pending: Vec<_> = (0..300_u64)
            .map(|number| {
                let namespace = namespace.clone();
                rt::spawn(async move {
                    let offset = number * 4096;
                    if number % 2 == 0 {
                        ended(namespace.write(offset, pattern(4096, number)).await)
                    } else {
                        ended(namespace.read(offset, DmaBuf::zeroed(4096)).await)
                    }
                })
            })
            .collect();
        rt::sleep(Duration::from_millis(100)).await;
        target.kill();
        let (mut unknown, mut refused) = (0, 0);
        for (number, task) in pending.into_iter().enumerate() {
            let result =
                rt::timeout(Duration::from_secs(20), task).await.expect("it ends").expect("no panic");
            let error = result.expect_err("the target is gone");
            assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
            match error.outcome() {
                Outcome::Unknown => {
                    assert_eq!(number % 2, 0, "only a write may have happened: {error}");
                    assert!(error.to_string().contains("lost"), "{error}");
                    unknown += 1;
                }
                _ => refused += 1,
            }
        }
        assert!(unknown > 0 && refused > 0, "{unknown} were with the target, {refused} were not");

        // While it is away commands are refused, after the first attempt to reach it.
        let error = namespace.read(0, DmaBuf::zeroed(4096)).await.expect_err("the target is gone");
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert!(error.to_string().contains("goes on trying"), "{error}");

        target.restart();
        read_once_it_is_back(&namespace).await;
    });
}

#[test]
fn a_core_that_attaches_while_the_target_is_away_is_served_later() {
    let Some(mut target) = Target::start("away") else { return };
    run(async {
        let device = open(&target.address(1), &config()).await.expect("it is attached");
        let first = device.attach().await.expect("a queue pair");
        target.kill();
        let _ = first.read(0, DmaBuf::zeroed(4096)).await;
        target.restart();
        let second = device.attach().await.expect("it waits");
        read_once_it_is_back(&second).await;
        second.write(0, pattern(4096, 5)).await.expect("write");
        let read = second.read(0, DmaBuf::zeroed(4096)).await.expect("read");
        assert_pattern(&read, 5);
    });
}

#[test]
fn a_core_ends_with_commands_in_flight() {
    let Some(target) = Target::start("ends") else { return };
    let device = run(async {
        let device = open(&target.address(2), &config()).await.expect("it is attached");
        let namespace = device.attach().await.expect("a queue pair");
        for number in 0..200_u64 {
            let namespace = namespace.clone();
            drop(rt::spawn(async move { namespace.read(number * 4096, DmaBuf::zeroed(4096)).await }));
        }
        rt::sleep(Duration::from_millis(50)).await;
        device
    });
    // The device is as good as before.
    run(async {
        let namespace = device.attach().await.expect("a queue pair");
        namespace.read(0, DmaBuf::zeroed(4096)).await.expect("read");
    });
}

#[test]
fn cores_without_a_queue_pair_after_a_reset_say_so() {
    let Some(mut target) = Target::start("fewer") else { return };
    run(async {
        let device = open(&target.address(1), &config()).await.expect("it is attached");
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(device.attach().await.expect("a queue pair"));
        }
        target.kill();
        target.set_queue_pairs(1);
        target.restart();
        // Each waits for the controller first. One of them gets the only queue pair.
        let mut tries = 0;
        loop {
            let (mut served, mut starved) = (0, 0);
            for namespace in &all {
                let read = rt::timeout(PATIENCE, namespace.read(0, DmaBuf::zeroed(4096)));
                match ended(read.await.expect("no command waits for ever")) {
                    Ok(()) => served += 1,
                    Err(error) if error.kind() == ErrorKind::LimitReached => {
                        assert!(
                            error.to_string().contains("fewer queue pairs than there are cores"),
                            "{error}"
                        );
                        starved += 1;
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Closed, "{error}"),
                }
            }
            if (served, starved) == (1, 2) {
                break;
            }
            tries += 1;
            assert!(tries < 100, "{served} have a queue pair, {starved} have none");
            rt::sleep(Duration::from_millis(100)).await;
        }
        // With more of them, everybody goes on.
        target.kill();
        target.set_queue_pairs(8);
        target.restart();
        for namespace in &all {
            read_once_it_is_back(namespace).await;
        }
    });
}

#[test]
fn a_target_that_stands_still_is_given_up_and_found_again() {
    let Some(target) = Target::start("still") else { return };
    run(async {
        let device = open(&target.address(1), &config()).await.expect("it is attached");
        let namespace = device.attach().await.expect("a queue pair");
        namespace.write(0, pattern(4096, 3)).await.expect("write");
        target.stand_still(true);
        // Nothing says that the connection is lost, but keep-alive goes unanswered.
        let write = rt::timeout(Duration::from_secs(60), namespace.write(4096, pattern(4096, 4)));
        let error = ended(write.await.expect("it ends")).expect_err("nobody answers");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, Outcome::Unknown), "{error}");
        assert!(error.to_string().contains("does not answer"), "{error}");
        target.stand_still(false);
        assert_pattern(&read_once_it_is_back(&namespace).await, 3);
    });
}

#[test]
fn a_command_that_does_not_end_is_aborted() {
    let Some(target) = Target::start("aborted") else { return };
    run(async {
        let device = open(&target.address(3), &config()).await.expect("it is attached");
        let namespace = device.attach().await.expect("a queue pair");
        let began = Instant::now();
        let error = ended(namespace.read(0, DmaBuf::zeroed(4096)).await).expect_err("it takes 45 s");
        let took = began.elapsed();
        assert!(Duration::from_secs(29) < took && took < Duration::from_secs(42), "{took:?}");
        assert!(error.to_string().contains("Abort"), "{error}");
    });
}

#[test]
fn a_command_that_ends_although_it_was_not_aborted_costs_nothing() {
    let Some(target) = Target::start("late") else { return };
    run(async {
        let device = open(&target.address(5), &config()).await.expect("it is attached");
        let namespace = device.attach().await.expect("a queue pair");
        target.keep_back();
        let began = Instant::now();
        let late = namespace.clone();
        let read = rt::spawn(async move { ended(late.read(0, DmaBuf::zeroed(4096)).await) });
        // The abort finds a target that cannot do that.
        rt::sleep(Duration::from_secs(33)).await;
        namespace.write(0, pattern(4096, 6)).await.expect("others are served");
        target.go_on();
        read.await.expect("no panic").expect("the controller was not reset");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(35), "{took:?}");
        // There is no reset later either.
        rt::sleep(Duration::from_secs(5)).await;
        namespace.write(0, pattern(4096, 7)).await.expect("write");
    });
}

#[test]
fn a_command_that_is_not_aborted_has_the_controller_reset() {
    let Some(target) = Target::start("kept") else { return };
    run(async {
        let device = open(&target.address(5), &config()).await.expect("it is attached");
        let namespace = device.attach().await.expect("a queue pair");
        target.keep_back();
        let began = Instant::now();
        let error = ended(namespace.read(0, DmaBuf::zeroed(4096)).await).expect_err("it is kept back");
        let took = began.elapsed();
        assert!(Duration::from_secs(34) < took && took < Duration::from_secs(42), "{took:?}");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        assert!(error.to_string().contains("does not end"), "{error}");
        read_once_it_is_back(&namespace).await;
    });
}
