//! A target that goes away.

use std::time::Duration;

use boson::block::{Device, Namespace};
use boson::mem::DmaBuf;
use boson::{ErrorKind, Outcome, rt};

use crate::target::Target;
use crate::{assert_pattern, config, open, pattern, run};

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
                        namespace
                            .write(offset, pattern(4096, number))
                            .await
                            .map(drop)
                            .map_err(|error| error.into_parts().0)
                    } else {
                        namespace
                            .read(offset, DmaBuf::zeroed(4096))
                            .await
                            .map(drop)
                            .map_err(|error| error.into_parts().0)
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
        let mut tries = 0;
        while let Err(error) = namespace.read(0, DmaBuf::zeroed(4096)).await {
            tries += 1;
            assert!(tries < 300, "it does not come back: {error}");
            rt::sleep(Duration::from_millis(100)).await;
        }
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
        let mut tries = 0;
        while let Err(error) = second.write(0, pattern(4096, 5)).await {
            tries += 1;
            assert!(tries < 300, "it does not come back: {error}");
            rt::sleep(Duration::from_millis(100)).await;
        }
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
