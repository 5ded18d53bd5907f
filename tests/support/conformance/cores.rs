//! A device that is opened again, or used by several cores.

use std::time::Duration;

use boson::block::{Device, Namespace};
use boson::rt::{self, CoreConfig, CoreThread, Shutdown};

use super::{Run, assert_written, attach, block_bytes, check, pattern, read, write};

/// What was written is there after everything was closed and opened again.
pub(super) async fn reopen<D: Device>(run: &Run<'_>, open: &impl AsyncFn() -> D) {
    for round in 0..3u64 {
        let device = open().await;
        let namespace = attach(run, &device).await;
        let block = block_bytes(&namespace);
        if round > 0 {
            check(run, &namespace, 0, 300 * block, 500 + round - 1).await;
        }
        write(run, &namespace, 0, 300 * block, 500 + round).await;
        // A handle lasts longer than the device that it came from.
        drop(device);
        check(run, &namespace, 0, 300 * block, 500 + round).await;
        namespace.flush().await.expect("flushes");
    }
}

pub(super) fn core(name: &str) -> CoreThread {
    CoreThread::start(name, &CoreConfig::default()).expect("a core")
}

/// Two other cores use the device at once: each sees what either wrote.
pub(super) async fn two_at_once<D: Device>(run: &Run<'_>, device: D) {
    let namespace = attach(run, &device).await;
    let block = block_bytes(&namespace);
    let offset_of = move |number: u64| number * 8 * block as u64;
    let cores = [core("first"), core("second")];
    for round in 0..4u64 {
        let tag = 600 + round;
        let writers: Vec<_> = (0u64..)
            .zip(&cores)
            .map(|(half, core)| {
                let device = device.clone();
                let name = run.name.to_owned();
                core.handle().spawn(move || async move {
                    let run = Run { name: &name, seed: 0 };
                    let namespace = attach(&run, &device).await;
                    let tasks: Vec<_> = (0..32)
                        .map(|number| {
                            let (namespace, offset) = (namespace.clone(), offset_of(2 * number + half));
                            rt::spawn(async move {
                                namespace.write(offset, pattern(offset, 8 * block, tag)).await.map(drop)
                            })
                        })
                        .collect();
                    for task in tasks {
                        task.await.expect("no panic").expect("writes");
                    }
                    namespace.flush().await.expect("flushes");
                })
            })
            .collect();
        for writer in writers {
            writer.await.expect("no panic");
        }
        check(run, &namespace, 0, 64 * 8 * block, tag).await;
        let readers: Vec<_> = cores
            .iter()
            .map(|core| {
                let device = device.clone();
                let name = run.name.to_owned();
                core.handle().spawn(move || async move {
                    let run = Run { name: &name, seed: 0 };
                    let namespace = attach(&run, &device).await;
                    check(&run, &namespace, 0, 64 * 8 * block, tag).await;
                })
            })
            .collect();
        for reader in readers {
            reader.await.expect("no panic");
        }
    }
    for core in cores {
        core.shutdown(Shutdown::Cancel, Duration::from_secs(10)).expect("it ends");
    }
    check(run, &namespace, 0, 8 * block, 603).await;
}

/// A core ends while its operations are in flight. Another one goes on with the device, and what
/// the first had been told is written, is.
pub(super) async fn shutdown_in_flight<D: Device>(run: &Run<'_>, device: D) {
    let namespace = attach(run, &device).await;
    let block = block_bytes(&namespace);
    let offset_of = move |number: u64| number * 4 * block as u64;
    for round in 0..5u64 {
        let (old, new) = (700 + 2 * round, 701 + 2 * round);
        write(run, &namespace, 0, 64 * 4 * block, old).await;
        let ending = core("ending");
        let of_core = device.clone();
        let name = run.name.to_owned();
        let (told, wrote) = std::sync::mpsc::channel();
        ending
            .handle()
            .spawn(move || async move {
                let run = Run { name: &name, seed: 0 };
                let namespace = attach(&run, &of_core).await;
                for number in 0..64 {
                    let (namespace, told) = (namespace.clone(), told.clone());
                    drop(rt::spawn(async move {
                        let offset = offset_of(number);
                        if namespace.write(offset, pattern(offset, 4 * block, new)).await.is_ok() {
                            told.send(number).expect("somebody listens");
                        }
                    }));
                }
                for _ in 0..round {
                    rt::yield_now().await;
                }
            })
            .await
            .expect("no panic");
        ending.shutdown(Shutdown::Cancel, Duration::from_secs(10)).expect("it ends");
        let wrote: Vec<u64> = wrote.iter().collect();
        let found = read(run, &namespace, 0, 64 * 4 * block).await;
        for number in 0..64 {
            let offset = offset_of(number);
            let at = usize::try_from(offset).expect("small");
            let found = &found[at..at + 4 * block];
            if wrote.contains(&number) {
                assert_written(run, found, offset, new);
            } else {
                super::cancelled::assert_old_or_new(run, found, offset, old, new);
            }
        }
    }
    write(run, &namespace, 0, 64 * 4 * block, 799).await;
    check(run, &namespace, 0, 64 * 4 * block, 799).await;
}
