//! What both ways through the kernel's NVMe driver are put through: operations that are dropped,
//! and a core that ends, while the device works.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use boson::block::Namespace;
use boson::mem::DmaBuf;
use boson::rt::reactor::RingFeatures;
use boson::rt::{self, Shutdown};

use super::core;
use crate::support::parts::PartsAll;

pub(crate) const BLOCK: usize = 4096;
/// More than the driver's queues are long, and more than the polled ring takes.
pub(crate) const AT_ONCE: u8 = 200;

/// Every byte differs from its neighbours.
pub(crate) fn bytes(len: usize, seed: usize) -> DmaBuf {
    let mut buf = DmaBuf::zeroed(len);
    for (at, byte) in buf.iter_mut().enumerate() {
        *byte = u8::try_from((at + at / 255 + seed) % 251).expect("small");
    }
    buf
}

pub(crate) async fn read(namespace: &impl Namespace, offset: u64, len: usize) -> DmaBuf {
    let (result, buf) = namespace.read(offset, DmaBuf::zeroed(len)).await.parts_all();
    result.expect("read");
    buf
}

/// Operations are dropped while the device has them, and memory like theirs is overwritten at once:
/// the device reads and writes neither.
pub(crate) async fn dropped_operations_keep_their_memory(namespace: &impl Namespace, rounds: u64) {
    const LEN: usize = 64 << 10;
    for round in 0..rounds {
        let offset = round % 50 * LEN as u64;
        namespace.write(offset, bytes(LEN, 1)).await.expect("write");
        {
            let mut write = pin!(namespace.write(offset, bytes(LEN, 2)));
            let mut read = pin!(namespace.read(offset, DmaBuf::zeroed(LEN)));
            let pending = poll_fn(|cx| {
                Poll::Ready(write.as_mut().poll(cx).is_pending() && read.as_mut().poll(cx).is_pending())
            });
            assert!(pending.await, "an operation takes at least one turn");
            for _ in 0..round % 3 {
                rt::yield_now().await;
            }
        }
        let mut reused: Vec<DmaBuf> = (0..8).map(|_| DmaBuf::zeroed(LEN)).collect();
        reused.iter_mut().for_each(|buf| buf.fill(0xee));
        rt::sleep(Duration::from_millis(2)).await;
        assert!(
            reused.iter().flat_map(|buf| buf.iter()).all(|byte| *byte == 0xee),
            "round {round}: memory was freed while the device wrote to it"
        );
        let got = read(namespace, offset, LEN).await;
        assert!(*got == *bytes(LEN, 1) || *got == *bytes(LEN, 2), "round {round}: bytes that nobody wrote");
    }
}

/// A core ends while the device has its reads. It lets the device finish, and the next core has the
/// device at once.
pub(crate) fn a_core_ends_with_reads<N: Namespace + 'static>(
    features: RingFeatures,
    attach: impl AsyncFn() -> N,
) {
    let core = core(features);
    core.block_on(async {
        let namespace = attach().await;
        for number in 0..AT_ONCE {
            let namespace = namespace.clone();
            rt::named("reader")
                .spawn(async move {
                    read(&namespace, u64::from(number) * BLOCK as u64, BLOCK).await;
                })
                .detach();
        }
        rt::yield_now().await;
    });
    let report = core.shutdown(Shutdown::Cancel, Duration::from_secs(10)).expect("the ring works");
    assert!(!report.cancelled.is_empty(), "all were done: the test shows nothing");
}
