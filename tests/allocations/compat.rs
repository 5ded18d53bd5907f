//! How often the heap is asked per read and write through an adapter: never, once its buffers have
//! their size.

use crate::counting;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use boson::compat::{BufferSizes, FuturesIo, TokioIo};
use boson::net::{Net, TcpListener, TcpStream};
use boson::rt::{self, Core, CoreConfig};

const WARM_UP: u64 = 500;
const ROUNDS: u64 = 5000;

fn run<F: Future>(future: F) -> F::Output {
    let core = Core::new(&CoreConfig::default().seed([9; 32])).expect("a core");
    let limit = Duration::from_secs(60);
    core.block_on(async { rt::timeout(limit, future).await.expect("nothing hangs") })
}

async fn pair() -> (TcpStream, TcpStream) {
    let net = Net::kernel();
    let listener = TcpListener::bind_on(&net, SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let near = TcpStream::connect_on(&net, listener.local_addr()).await.expect("connected");
    let (far, _) = listener.accept().await.expect("accepted");
    (near, far)
}

/// Allocations in `ROUNDS` requests and their echoes, both ends counted. `extra` runs in every
/// round.
fn ping_pong(mut extra: impl FnMut() + 'static) -> u64 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    run(async move {
        let (near, far) = pair().await;
        rt::named("echo").spawn(async move {
            let mut far = TokioIo::new(far);
            let mut buf = [0; 512];
            while far.read_exact(&mut buf).await.is_ok() {
                far.write_all(&buf).await.expect("write");
                far.flush().await.expect("flush");
            }
        });
        let mut near = TokioIo::new(near);
        let mut buf = [7; 512];
        let mut before = 0;
        for round in 0..WARM_UP + ROUNDS {
            if round == WARM_UP {
                before = counting::allocations();
            }
            extra();
            near.write_all(&buf).await.expect("write");
            near.flush().await.expect("flush");
            near.read_exact(&mut buf).await.expect("read");
        }
        counting::allocations() - before
    })
}

#[test]
fn requests_and_replies_allocate_nothing() {
    assert_eq!(ping_pong(|| ()), 0);
}

/// The control: one allocation per round is seen.
#[test]
fn the_counter_counts() {
    let allocations = ping_pong(|| drop(std::hint::black_box(Box::new(1u64))));
    assert!(allocations >= ROUNDS, "{allocations}");
}

/// The writer is faster than the reader, so that bytes go through the buffer and its task.
#[test]
fn writes_that_wait_for_room_allocate_nothing() {
    use futures_util::{AsyncReadExt, AsyncWriteExt};
    const TOTAL: u64 = 256 << 20;
    run(async {
        let (near, far) = pair().await;
        let sizes = BufferSizes { read: 4096, write: 8192 };
        rt::named("writer").spawn(async move {
            let mut near = FuturesIo::with_buffers(near, sizes);
            let bytes = vec![7; 30_000];
            while near.write_all(&bytes).await.is_ok() {}
        });
        let mut far = FuturesIo::with_buffers(far, sizes);
        let mut buf = [0; 10_000];
        let (mut received, mut before) = (0, 0);
        while received < TOTAL {
            if received < TOTAL / 2 {
                before = counting::allocations();
            }
            let read = far.read(&mut buf).await.expect("read");
            assert_ne!(read, 0, "the stream ended early");
            received += u64::try_from(read).expect("small");
        }
        // The queue of chunks that arrived and were not read yet (`reactor::feed`) doubles for a
        // burst that is longer than all before. The kernel's buffers bound it, so that this ends.
        let allocations = counting::allocations() - before;
        assert!(allocations <= 4, "{allocations} allocations");
    });
}
