//! An I/O in steady state asks the heap for nothing: messages between two kernel sockets, blocks of
//! a file, a timer and a channel, over each reactor.

use crate::counting;
use crate::support::parts::{Parts, PartsAll};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use boson::block::nvme::model::{Model, ModelNamespace, ModelOptions};
use boson::block::nvme::{ModelledDevice, ModelledNamespace};
use boson::block::{AnyNamespace, Device, Namespace, NamespaceAddress};
use boson::mem::DmaBuf;
use boson::net::{Net, TcpListener, TcpStream};
use boson::observe;
use boson::rt::reactor::{ReactorChoice, ReactorKind};
use boson::rt::{self, Core, CoreConfig, Idle};
use boson::sync::local::mpsc;

const WARM_UP: u32 = 200;
const ROUNDS: u32 = 2000;
const MESSAGE_BYTES: usize = 512;
const BLOCK_BYTES: usize = 4096;

/// What a round does besides its I/O.
#[derive(Clone, Copy, PartialEq)]
enum Round {
    AsIs,
    /// The control: asks the heap once.
    Allocates,
}

/// Runs `program` over each reactor, as it is and with the control, and compares how often it asked
/// the heap in [`ROUNDS`] rounds.
fn every_round_is_free<F: Future<Output = u64>>(program: impl Fn(Round) -> F) {
    for reactor in [ReactorChoice::Auto, ReactorChoice::Epoll] {
        let asked = |round| {
            // Over epoll files are read by threads, which the warm-up starts.
            let config = CoreConfig::default().seed([9; 32]).reactor(reactor).offload_threads(1);
            let core = Core::new(&config).expect("a core");
            let limited = async { rt::timeout(Duration::from_secs(60), program(round)).await };
            core.block_on(limited).expect("nothing hangs")
        };
        assert_eq!(asked(Round::AsIs), 0, "over {reactor:?}");
        assert_eq!(asked(Round::Allocates), u64::from(ROUNDS), "the counter counts");
    }
}

/// Does a round again and again; returns how often the calling thread asked the heap after the
/// warm-up.
async fn count(round: Round, mut each: impl AsyncFnMut()) -> u64 {
    for _ in 0..WARM_UP {
        each().await;
    }
    let before = counting::allocations();
    for _ in 0..ROUNDS {
        each().await;
        if round == Round::Allocates {
            drop(std::hint::black_box(Box::new(1)));
        }
    }
    counting::allocations() - before
}

async fn read_exactly(stream: &TcpStream, mut buf: Vec<u8>) -> Option<Vec<u8>> {
    buf.clear();
    while buf.len() < MESSAGE_BYTES {
        let (read, back) = stream.read(buf).await.parts();
        buf = back;
        if read.expect("it stands") == 0 {
            return None;
        }
    }
    Some(buf)
}

#[test]
fn a_message_and_its_echo_allocate_nothing() {
    every_round_is_free(async |round| {
        let net = Net::kernel();
        let listener = TcpListener::bind_on(&net, SocketAddr::from(([127, 0, 0, 1], 0))).expect("bind");
        let address = listener.local_addr();
        let server = rt::named("server").spawn(async move {
            let (stream, _) = listener.accept().await.expect("accept");
            let mut buf = Vec::with_capacity(MESSAGE_BYTES);
            while let Some(message) = read_exactly(&stream, buf).await {
                let (written, back) = stream.write_all(message).await.parts_all();
                written.expect("it stands");
                buf = back;
            }
        });
        let stream = TcpStream::connect_on(&net, address).await.expect("connect");
        let mut kept = Some(vec![7; MESSAGE_BYTES]);
        let asked = count(round, async || {
            let (written, buf) = stream.write_all(kept.take().expect("put back")).await.parts_all();
            written.expect("it stands");
            kept = Some(read_exactly(&stream, buf).await.expect("an echo"));
        })
        .await;
        drop(stream);
        server.await.expect("no panic");
        asked
    });
}

/// A round writes a block and reads it again.
async fn write_and_read(round: Round, namespace: &impl Namespace) -> u64 {
    let mut kept: Option<DmaBuf> = Some(rt::arena().alloc(BLOCK_BYTES));
    count(round, async || {
        let mut buf = kept.take().expect("put back");
        buf.fill(7);
        let buf = namespace.write(0, buf).await.expect("written");
        let buf = namespace.read(0, buf).await.expect("read");
        kept = Some(buf);
    })
    .await
}

#[test]
fn a_block_of_a_file_is_written_and_read_without_allocating() {
    let path = std::env::temp_dir().join(format!("boson-io-allocations-{}", std::process::id()));
    let address: NamespaceAddress = format!("file:{}?size=1M", path.display()).parse().expect("an address");
    every_round_is_free(async |round| {
        let namespace = AnyNamespace::open(&address).await.expect("opens");
        write_and_read(round, &namespace).await
    });
    std::fs::remove_file(&path).expect("it is there");
}

/// A controller that does everything at once and whose writes are durable.
fn controller() -> Model {
    let mut options = ModelOptions::new(ModelNamespace::new(16, 12));
    options.immediate = true;
    options.volatile_cache = false;
    Model::new(options, 1)
}

#[test]
fn a_block_of_an_nvme_controller_is_written_and_read_without_allocating() {
    every_round_is_free(async |round| {
        let device = ModelledDevice::open(&controller(), 1).await.expect("it comes up");
        let namespace = device.attach().await.expect("a queue pair");
        write_and_read(round, &namespace).await
    });
}

#[test]
fn a_core_that_polls_an_nvme_controller_does_not_enter_its_ring() {
    let enters = |idle, program: fn(ModelledNamespace) -> Pin<Box<dyn Future<Output = ()>>>| {
        let core = Core::new(&CoreConfig::default().seed([9; 32]).idle(idle)).expect("a core");
        core.block_on(async {
            let device = ModelledDevice::open(&controller(), 1).await.expect("it comes up");
            let namespace = device.attach().await.expect("a queue pair");
            program(namespace.clone()).await;
            let before = observe::stats();
            program(namespace).await;
            let after = observe::stats();
            (after.reactor == ReactorKind::IoUring).then_some(after.ring_enters - before.ring_enters)
        })
    };
    let reads = |namespace: ModelledNamespace| -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            let mut buf = rt::arena().alloc(BLOCK_BYTES);
            for _ in 0..ROUNDS {
                buf = namespace.read(0, buf).await.expect("read");
            }
        })
    };
    // The control: a core that sleeps does so in its ring.
    let sleeps = |_: ModelledNamespace| -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async {
            for _ in 0..100 {
                rt::sleep(Duration::from_micros(100)).await;
            }
        })
    };
    assert!(enters(Idle::Poll, reads).is_none_or(|made| made == 0));
    assert!(enters(Idle::Sleep, sleeps).is_none_or(|made| made >= 100), "the counter counts");
}

#[test]
fn a_timer_and_a_message_between_tasks_allocate_nothing() {
    every_round_is_free(async |round| {
        let (to_peer, mut at_peer) = mpsc::channel::<u32>(4);
        let (to_us, mut at_us) = mpsc::channel::<u32>(4);
        let peer = rt::named("peer").spawn(async move {
            while let Some(number) = at_peer.recv().await {
                if to_us.send(number + 1).await.is_err() {
                    break;
                }
            }
        });
        let asked = count(round, async || {
            to_peer.send(1).await.expect("the peer listens");
            assert_eq!(at_us.recv().await, Some(2));
            rt::sleep(Duration::from_micros(1)).await;
        })
        .await;
        drop(to_peer);
        peer.await.expect("no panic");
        asked
    });
}
