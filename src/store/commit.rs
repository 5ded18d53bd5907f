//! The tasks that write: the committer writes the log, the value writer puts large values in their
//! place ahead of it.

use std::rc::Rc;
use std::time::Duration;

use super::env::Env;
use super::log::{Batch, Step};
use super::options::StoreDefect;
use super::pace::either;
use super::shared::StoreShared;
use super::state::External;
use crate::block::Namespace;
use crate::error::{Outcome, Result};
use crate::mem::DmaBuf;
use crate::rt::Instant;

/// Writes the log until the store is closed or failed.
pub(super) async fn run<E: Env, N: Namespace>(shared: Rc<StoreShared<E, N>>) {
    loop {
        let step = {
            let mut state = shared.state.borrow_mut();
            if state.failed.is_some() || state.closed {
                break;
            }
            let now = if state.closing { Instant::FAR_FUTURE } else { shared.env.now() };
            state.log.step(now)
        };
        let result = match step {
            Step::Write(batch) => write_batch(&shared, batch).await,
            Step::Flush => flush(&shared).await,
            Step::WaitUntil(by) => {
                let delay = by.saturating_since(shared.env.now());
                either(shared.env.sleep(delay), shared.log_wake.notified()).await;
                Ok(())
            }
            Step::Idle => {
                shared.log_wake.notified().await;
                Ok(())
            }
        };
        if let Err(error) = result {
            shared.fail(&error);
        }
    }
    shared.tasks.set(shared.tasks.get() - 1);
    shared.progress.notify_all();
}

async fn write_batch<E: Env, N: Namespace>(shared: &StoreShared<E, N>, mut batch: Batch) -> Result<()> {
    loop {
        let (wait, flush_by) = {
            let mut state = shared.state.borrow_mut();
            if state.failed.is_some() {
                return Ok(());
            }
            if state.log.is_obsolete(&batch) {
                state.log.wrote(&batch);
                drop(state);
                shared.progress.notify_all();
                return Ok(());
            }
            let externals_missing = state.externals_written < batch.externals;
            let full = !state.log.has_room_for(&batch);
            if full {
                state.checkpoint.requested = true;
            }
            (full || externals_missing, state.log.flush_by())
        };
        if !wait {
            break;
        }
        shared.checkpoint_wake.notify_all();
        // What was written before keeps its promise however long this batch has to wait.
        match flush_by.map(|by| by.saturating_since(shared.env.now())) {
            Some(Duration::ZERO) => flush(shared).await?,
            Some(delay) => either(shared.env.sleep(delay), shared.progress.notified()).await,
            None => shared.progress.notified().await,
        }
    }
    if batch.has_new_externals {
        flush_healthy(shared).await?;
    }
    if shared.options.defect == Some(StoreDefect::AckBeforeWrite) {
        let mut state = shared.state.borrow_mut();
        state.log.flushed((batch.last_lsn, 0));
        drop(state);
        shared.durable.notify_all();
    }
    let bytes = batch.bytes.take().expect("a batch is written once");
    let len = bytes.len();
    let [first, second] = shared.state.borrow().log.pieces(batch.position, len);
    if second.1 == 0 {
        shared.disk.write(first.0, bytes).await?;
    } else {
        for (offset, range) in [(first.0, 0..first.1), (second.0, first.1..len)] {
            let mut part = DmaBuf::zeroed(range.len());
            part.copy_from_slice(&bytes[range]);
            shared.disk.write(offset, part).await?;
        }
    }
    let mut state = shared.state.borrow_mut();
    state.log.wrote(&batch);
    state.counters.log_bytes += len as u64;
    state.counters.log_batches += 1;
    drop(state);
    shared.progress.notify_all();
    Ok(())
}

/// Flushes. If another flush, or a write, failed meanwhile, this one proves nothing: the device may
/// have dropped what it could not keep, and said so only once.
pub(super) async fn flush_healthy<E: Env, N: Namespace>(shared: &StoreShared<E, N>) -> Result<()> {
    shared.disk.flush().await?;
    shared.check_failed("flush", Outcome::Unknown)
}

async fn flush<E: Env, N: Namespace>(shared: &StoreShared<E, N>) -> Result<()> {
    let point = shared.state.borrow_mut().log.flush_point();
    flush_healthy(shared).await?;
    let mut state = shared.state.borrow_mut();
    state.log.flushed(point);
    state.counters.flushes += 1;
    drop(state);
    shared.durable.notify_all();
    Ok(())
}

/// Writes large values to their places, in order, until the store is closed or failed.
pub(super) async fn run_values<E: Env, N: Namespace>(shared: Rc<StoreShared<E, N>>) {
    loop {
        let next = {
            let mut state = shared.state.borrow_mut();
            if state.failed.is_some() || state.closed {
                break;
            }
            state.externals.pop_front()
        };
        let Some(external) = next else {
            shared.external_wake.notified().await;
            continue;
        };
        match write_value(&shared, &external).await {
            Ok(()) => {
                let mut state = shared.state.borrow_mut();
                state.externals_written = external.sequence;
                state.external_queue_bytes -= external.bytes.len();
                drop(state);
                shared.progress.notify_all();
            }
            Err(error) => shared.fail(&error),
        }
    }
    shared.tasks.set(shared.tasks.get() - 1);
    shared.progress.notify_all();
}

async fn write_value<E: Env, N: Namespace>(shared: &StoreShared<E, N>, external: &External) -> Result<()> {
    let mut run = super::disk::RunWriter::new(&shared.disk);
    for (extent, range) in &external.content {
        run.push(&shared.disk, *extent, &external.bytes[range.clone()]).await?;
    }
    for (extent, page) in &external.index {
        run.push(&shared.disk, *extent, page).await?;
    }
    run.flush(&shared.disk).await
}
