//! What it costs to wait in line for a thread that may block.

use crate::counting;
use std::future::Future;
use std::pin::pin;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use boson::block::{KernelNamespace, Namespace};
use boson::rt::reactor::ReactorChoice;
use boson::rt::{Core, CoreConfig, offload};

/// As documented.
const QUEUE_LIMIT: usize = 1024;

/// Over epoll a flush is made on a thread. While the pool's queue is full it is polled in vain, as
/// a task is that waits for several things: that must not make the call anew each time.
#[test]
fn a_file_operation_in_line_asks_the_heap_for_nothing_when_it_is_polled_again() {
    let config = CoreConfig::default().seed([7; 32]).reactor(ReactorChoice::Epoll).offload_threads(1);
    let core = Core::new(&config).expect("a core");
    let path = std::env::temp_dir().join(format!("boson-offload-allocations-{}", std::process::id()));
    let (open, gate) = sync_channel::<()>(0);
    let gate = Arc::new(Mutex::new(gate));
    core.block_on(async {
        let namespace = KernelNamespace::open_file(&path, Some(1 << 20)).await.expect("opens");
        let (began, begins) = sync_channel(0);
        let mut cx = Context::from_waker(Waker::noop());
        let blocks = Arc::clone(&gate);
        let first = move || {
            began.send(()).expect("the test waits");
            // Until the other end is dropped.
            let _ = blocks.lock().expect("no panic").recv();
        };
        let mut first = Box::pin(offload("blocks", first));
        assert!(first.as_mut().poll(&mut cx).is_pending());
        begins.recv().expect("it begins");
        let mut queued: Vec<_> = (0..QUEUE_LIMIT).map(|_| Box::pin(offload("queued", || ()))).collect();
        for job in &mut queued {
            assert!(job.as_mut().poll(&mut cx).is_pending());
        }
        let mut flush = pin!(namespace.flush());
        assert!(flush.as_mut().poll(&mut cx).is_pending());
        let before = counting::allocations();
        for _ in 0..100 {
            assert!(flush.as_mut().poll(&mut cx).is_pending());
        }
        let allocations = counting::allocations() - before;
        // The control.
        drop(Box::new(1));
        assert!(counting::allocations() > before + allocations, "the counter does not count");
        assert_eq!(allocations, 0, "for 100 polls");
        drop(open);
        flush.await.expect("its turn comes");
    });
    // Nothing was written to it, so it is gone already unless the test failed.
    let _ = std::fs::remove_file(path);
}
