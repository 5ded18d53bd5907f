//! Devices of SPDK: its own block devices in this process, and NVMe over TCP to a target that a
//! test starts on a free port of the loopback.
//!
//! The EAL and SPDK start once per process, so all tests here share them; on normal pages, unless
//! `BOSON_TEST_EAL` holds other EAL arguments. The tests with a target need SPDK's `nvmf_tgt` in
//! the `PATH`; without it they say so and pass.
#![cfg(feature = "spdk")]

#[path = "../support/mod.rs"]
mod support;

mod bdev;
mod hung;
mod loss;
mod pcie;
mod pulled;
mod refused;
mod serve;
mod target;
mod tcp;

use std::rc::Rc;
use std::time::Duration;

use boson::Error;
use boson::block::spdk::{SpdkDevice, SpdkNamespace};
use boson::block::{Device, Namespace, NamespaceAddress, NamespaceConfig};
use boson::mem::DmaBuf;
use boson::rt::{self, Core, CoreConfig};
use rustix::time::{ClockId, clock_gettime};

fn eal_arguments() -> String {
    std::env::var("BOSON_TEST_EAL").unwrap_or_else(|_| "--no-huge -m 768".to_owned())
}

fn config() -> NamespaceConfig {
    NamespaceConfig::default().eal_arguments(eal_arguments())
}

fn run<F: Future>(future: F) -> F::Output {
    Core::new(&CoreConfig::default()).expect("a core").block_on(future)
}

/// The CPU time of this thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().expect("positive"), time.tv_nsec.try_into().expect("less than 1e9"))
}

/// What a write or a read may end with while its controller is lost.
type Ended = Result<(), Error>;

fn ended<T, B>(result: Result<T, boson::BufError<B>>) -> Ended {
    result.map(drop).map_err(|error| error.into_parts().0)
}

async fn open(address: &str, config: &NamespaceConfig) -> boson::Result<SpdkDevice> {
    let NamespaceAddress::Spdk(address) = address.parse()? else { panic!("an address of SPDK") };
    SpdkDevice::open(&address, config).await
}

/// `len` bytes that depend on `seed` and on where they are.
fn fill(buf: &mut [u8], seed: u64) {
    for (at, chunk) in buf.chunks_mut(8).enumerate() {
        let word = (seed << 32 ^ at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

fn pattern(len: usize, seed: u64) -> DmaBuf {
    let mut buf = rt::arena().alloc(len);
    fill(&mut buf, seed);
    buf
}

fn assert_pattern(buf: &[u8], seed: u64) {
    let mut expected = vec![0; buf.len()];
    fill(&mut expected, seed);
    let wrong = || buf.iter().zip(&expected).enumerate().filter(|(_, (found, wanted))| found != wanted);
    assert!(
        buf == expected.as_slice(),
        "not the bytes of {seed}: {} of {} differ, from byte {:?} on",
        wrong().count(),
        buf.len(),
        wrong().next().map(|(at, _)| at)
    );
}

/// What every device does: from one core, with more operations at once than it has room for.
async fn reads_what_was_written(namespace: &SpdkNamespace) {
    let block = namespace.info().block_size_bytes as usize;
    // Whole, and larger than the largest transfer, from memory of the arena and of the heap.
    for (seed, len) in [(1, block), (2, 16 * block), (3, 3 << 20)] {
        namespace.write(0, pattern(len, seed)).await.expect("write");
        let read = namespace.read(0, rt::arena().alloc(len)).await.expect("read");
        assert_pattern(&read, seed);
        let mut heap = DmaBuf::zeroed(len);
        fill(&mut heap, seed + 100);
        namespace.write_durable(len as u64, heap).await.expect("write from the heap");
        let read = namespace.read(len as u64, DmaBuf::zeroed(len)).await.expect("read to the heap");
        assert_pattern(&read, seed + 100);
    }
    // In pieces.
    let pieces = vec![pattern(block, 7), pattern(3 * block, 8), DmaBuf::zeroed(block)];
    namespace.write_vectored(4 << 20, pieces).await.expect("write pieces");
    let pieces = vec![DmaBuf::zeroed(block), DmaBuf::zeroed(3 * block)];
    let pieces = namespace.read_vectored(4 << 20, pieces).await.expect("read pieces");
    assert_pattern(&pieces[0], 7);
    assert_pattern(&pieces[1], 8);
    namespace.flush().await.expect("flush");

    // More at once than any queue has entries.
    let namespace = Rc::new(namespace.clone());
    let at_once: Vec<_> = (0..1_000_u64)
        .map(|number| {
            let namespace = Rc::clone(&namespace);
            rt::spawn(async move {
                let offset = (5 << 20) + number * block as u64;
                namespace.write(offset, pattern(block, number)).await.expect("write");
                let read = namespace.read(offset, DmaBuf::zeroed(block)).await.expect("read");
                assert_pattern(&read, number);
            })
        })
        .collect();
    for task in at_once {
        task.await.expect("no panic");
    }

    let zeros = namespace.write_zeroes(5 << 20, 100 * block as u64).await;
    zeros.expect("write zeroes");
    let read = namespace.read(5 << 20, DmaBuf::zeroed(101 * block)).await.expect("read");
    assert!(read[..100 * block].iter().all(|&byte| byte == 0));
    assert_pattern(&read[100 * block..], 100);
    namespace.trim(5 << 20, 64 * block as u64).await.expect("trim");

    let size = namespace.size_bytes();
    let error = namespace.read(size, DmaBuf::zeroed(block)).await.expect_err("past the end");
    assert_eq!(error.kind(), boson::ErrorKind::InvalidInput);
}

/// Compares and writes, where the device has it.
async fn compares(namespace: &SpdkNamespace) {
    let most = namespace.info().max_compare_and_write_bytes as usize;
    if most == 0 {
        return;
    }
    namespace.write(0, pattern(most, 40)).await.expect("write");
    let (written, _) =
        namespace.compare_and_write(0, pattern(most, 40), pattern(most, 41)).await.expect("compare");
    assert!(written, "it was what was expected");
    let (written, _) =
        namespace.compare_and_write(0, pattern(most, 40), pattern(most, 42)).await.expect("compare");
    assert!(!written, "it was not");
    let read = namespace.read(0, DmaBuf::zeroed(most)).await.expect("read");
    assert_pattern(&read, 41);
}

/// Two cores use one device at the same time, each with a queue of its own.
fn serves_two_cores(device: &SpdkDevice) {
    let threads = [10_u64, 20].map(|seed| {
        let device = device.clone();
        std::thread::spawn(move || {
            run(async move {
                let namespace = device.attach().await.expect("a queue of its own");
                let block = u64::from(namespace.info().block_size_bytes);
                for round in 0..200 {
                    let offset = (seed << 20) + round * block;
                    let len = usize::try_from(block).expect("small");
                    namespace.write(offset, pattern(len, seed + round)).await.expect("write");
                    let read = namespace.read(offset, DmaBuf::zeroed(len)).await.expect("read");
                    assert_pattern(&read, seed + round);
                }
            });
        })
    });
    for thread in threads {
        thread.join().expect("no panic");
    }
}
