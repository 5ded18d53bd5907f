//! What a device that fails, loses its power or goes away leaves.

use std::rc::Rc;
use std::time::Duration;

use boson::block::{Device, Namespace};
use boson::rt::{self, Shutdown};
use boson::{ErrorKind, Outcome};

use super::{Hooks, Run, attach, block_bytes, check, memory, pattern, write};

pub(super) async fn all<D: Device>(run: &Run<'_>, device: &D, hooks: &Hooks<D>) {
    match &hooks.fail_write {
        Some(fail) => failing_writes(run, device, fail).await,
        None => run.not_run("an error of the n-th write: the backend has no hook for it"),
    }
    match &hooks.fail_read {
        Some(fail) => failing_reads(run, device, fail).await,
        None => run.not_run("an error of the n-th read: the backend has no hook for it"),
    }
    match &hooks.cut_power {
        Some(cut) => {
            power_cuts(run, device, cut).await;
            flushed_by_another(run, device, hooks, cut).await;
        }
        None => run.not_run("what a flush and a durable write promise: the backend has no power to cut"),
    }
}

/// One of many writes fails: its caller learns that, nobody else does, and the device goes on.
async fn failing_writes<D: Device>(run: &Run<'_>, device: &D, fail: &dyn Fn(&D, u64)) {
    let namespace = attach(run, device).await;
    let block = block_bytes(&namespace);
    let offset_of = move |number: u64| number * 4 * block as u64;
    for nth in [0, 1, 7, 15] {
        fail(device, nth);
        let tasks: Vec<_> = (0..16)
            .map(|number| {
                let namespace = namespace.clone();
                rt::spawn(async move {
                    let offset = offset_of(number);
                    namespace.write(offset, pattern(offset, 2 * block, nth)).await
                })
            })
            .collect();
        let mut failed = 0;
        for (number, task) in (0..).zip(tasks) {
            let task = rt::timeout(super::PATIENCE, task).await.expect("none is lost");
            match task.expect("no panic") {
                Ok(_) => check(run, &namespace, offset_of(number), 2 * block, nth).await,
                Err(error) => {
                    failed += 1;
                    assert_eq!(error.outcome(), Outcome::Unknown, "{}: {error}", run.name);
                    let (error, back) = error.into_parts();
                    let text = error.to_string();
                    assert!(text.contains(&format!("offset {}", offset_of(number))), "{}: {text}", run.name);
                    assert!(*back == *pattern(offset_of(number), 2 * block, nth), "the buffer comes back");
                }
            }
        }
        assert_eq!(failed, 1, "{}: the write after {nth} more fails", run.name);
        for number in 0..16 {
            write(run, &namespace, offset_of(number), 2 * block, 3).await;
            check(run, &namespace, offset_of(number), 2 * block, 3).await;
        }
    }
    // Of a write that is divided too.
    let most = (namespace.info().max_transfer_bytes as usize).min(1 << 20);
    fail(device, 1);
    let error = namespace.write(0, pattern(0, 3 * most, 4)).await.expect_err("a part of it fails");
    assert_eq!(error.outcome(), Outcome::Unknown, "{}: {error}", run.name);
    write(run, &namespace, 0, 3 * most, 5).await;
    check(run, &namespace, 0, 3 * most, 5).await;
}

async fn failing_reads<D: Device>(run: &Run<'_>, device: &D, fail: &dyn Fn(&D, u64)) {
    let namespace = attach(run, device).await;
    let block = block_bytes(&namespace);
    write(run, &namespace, 0, 64 * block, 6).await;
    for nth in [0, 3, 15] {
        fail(device, nth);
        let tasks: Vec<_> = (0..16u64)
            .map(|number| {
                let namespace = namespace.clone();
                let offset = number * block as u64;
                let mut buf = memory(block, number);
                buf.fill(0xdd);
                rt::spawn(async move { (offset, namespace.read(offset, buf).await) })
            })
            .collect();
        let mut failed = 0;
        for task in tasks {
            match task.await.expect("no panic") {
                (offset, Ok(buf)) => super::assert_written(run, &buf, offset, 6),
                (_, Err(error)) => {
                    failed += 1;
                    assert_eq!(error.outcome(), Outcome::NotStarted, "{}: {error}", run.name);
                }
            }
        }
        assert_eq!(failed, 1, "{}: the read after {nth} more fails", run.name);
        check(run, &namespace, 0, 64 * block, 6).await;
    }
}

/// What was flushed, or written durably, is there after a power cut; the rest is old or new.
async fn power_cuts<D: Device>(run: &Run<'_>, device: &D, cut: &dyn Fn(&D)) {
    let block = 4096.max(block_bytes(&attach(run, device).await));
    for round in 0..24u64 {
        let namespace = attach(run, device).await;
        let tag = |number: u64| round * 100 + number;
        let place = |number: u64| number * 16 * block as u64;
        for number in 0..6 {
            write(run, &namespace, place(number), 4 * block, tag(number)).await;
        }
        namespace.flush().await.expect("flushes");
        write(run, &namespace, place(1), 4 * block, tag(11)).await;
        let durable = pattern(place(2), 4 * block, tag(12));
        namespace.write_durable(place(2), durable).await.expect("writes");
        write(run, &namespace, place(3), 4 * block, tag(13)).await;
        let durable = pattern(place(3) + block as u64, block, tag(23));
        namespace.write_durable(place(3) + block as u64, durable).await.expect("writes");
        drop(namespace);
        cut(device);
        let namespace = attach(run, device).await;
        check(run, &namespace, place(0), 4 * block, tag(0)).await;
        check(run, &namespace, place(2), 4 * block, tag(12)).await;
        check(run, &namespace, place(3) + block as u64, block, tag(23)).await;
        check(run, &namespace, place(4), 4 * block, tag(4)).await;
        let found = super::read(run, &namespace, place(1), 4 * block).await;
        let (mut old, mut new) = (vec![0; found.len()], vec![0; found.len()]);
        super::fill(&mut old, place(1), tag(1));
        super::fill(&mut new, place(1), tag(11));
        let info = namespace.info();
        let boundary = info.atomic_boundary_bytes as usize;
        let unit = (info.atomic_write_bytes as usize).clamp(512, 4 * block);
        let unit = if boundary == 0 { unit } else { unit.min(boundary) };
        for at in (0..found.len()).step_by(unit) {
            let is = |version: &[u8]| version[at..at + unit] == found[at..at + unit];
            let is_whole = is(&old) || is(&new);
            assert!(is_whole, "{}: round {round}: the unit at {at} is neither old nor new", run.name);
        }
        if !namespace.info().volatile_cache {
            super::assert_written(run, &found, place(1), tag(11));
        }
    }
}

/// A flush makes durable what was written through other handles, and on other cores.
async fn flushed_by_another<D: Device>(run: &Run<'_>, device: &D, hooks: &Hooks<D>, cut: &dyn Fn(&D)) {
    let writer = hooks.on_cores.then(|| super::cores::core("writer"));
    for tag in 40..48 {
        let flushing = attach(run, device).await;
        let len = 4 * 4096.max(block_bytes(&flushing));
        let namespace = attach(run, device).await;
        write(run, &namespace, 0, len, tag).await;
        drop(namespace);
        if let Some(core) = &writer {
            let (device, name) = (device.clone(), run.name.to_owned());
            let written = core.handle().spawn(move || async move {
                let run = Run { name: &name, seed: 0 };
                write(&run, &attach(&run, &device).await, 4 * len as u64, len, tag).await;
            });
            written.await.expect("no panic");
        }
        flushing.flush().await.expect("flushes");
        drop(flushing);
        cut(device);
        let namespace = attach(run, device).await;
        check(run, &namespace, 0, len, tag).await;
        if writer.is_some() {
            check(run, &namespace, 4 * len as u64, len, tag).await;
        }
    }
    if let Some(core) = writer {
        core.shutdown(Shutdown::Cancel, Duration::from_secs(10)).expect("it ends");
    }
}

/// The device is taken away while operations are in flight: each ends, most of them with an error,
/// and so does whatever is tried after that.
pub(super) async fn removal<D: Device>(run: &Run<'_>, device: D, hooks: &Hooks<D>) {
    let Some(remove) = &hooks.remove else { return };
    let namespace = Rc::new(attach(run, &device).await);
    let block = block_bytes(&*namespace);
    let tasks: Vec<_> = (0..64u64)
        .map(|number| {
            let namespace = Rc::clone(&namespace);
            rt::spawn(async move {
                loop {
                    let offset = number * block as u64;
                    if let Err(error) = namespace.write(offset, pattern(offset, block, number)).await {
                        return boson::Error::from(error);
                    }
                    // Where writes take no time the others get a turn too.
                    rt::yield_now().await;
                }
            })
        })
        .collect();
    rt::sleep(Duration::from_millis(2)).await;
    remove(&device);
    for task in tasks {
        let task = rt::timeout(super::PATIENCE, task).await;
        let error = task.unwrap_or_else(|_| panic!("{}: a write hangs", run.name)).expect("no panic");
        assert!(
            matches!(error.kind(), ErrorKind::Closed | ErrorKind::NotFound | ErrorKind::Os),
            "{}: {error}",
            run.name
        );
    }
    let after = rt::timeout(super::PATIENCE, namespace.read(0, memory(block, 0))).await;
    let error = after.unwrap_or_else(|_| panic!("{}: a read hangs", run.name)).expect_err("it is gone");
    assert_eq!(error.outcome(), Outcome::NotStarted, "{}: {error}", run.name);
    let flushed = rt::timeout(super::PATIENCE, namespace.flush()).await;
    drop(flushed.unwrap_or_else(|_| panic!("{}: a flush hangs", run.name)));
}
