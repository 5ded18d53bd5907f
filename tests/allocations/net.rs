//! How often the heap is asked per request and reply on a connection between two stacks: never,
//! once everything has its size.

use crate::counting;
use crate::support::parts::Parts;
use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use boson::net::address::IpCidr;
use boson::net::device::MemoryDevice;
use boson::net::stack::{Stack, StackConfig, StackListener, StackStream};
use boson::rt::Instant;
use boson::rt::poller::Poller;

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A task, whether it is to be polled, and what says so.
type Task<'a> = (Pin<&'a mut dyn Future<Output = ()>>, Arc<Flag>, Waker);

const WARM_UP: usize = 500;
const ROUNDS: usize = 2000;

/// Sends `bytes` through `stream` and reads as many back.
async fn round(stream: &StackStream, mut bytes: Vec<u8>, wanted: usize) -> Vec<u8> {
    let (written, back) = stream.write(bytes).await.parts();
    assert_eq!(written.expect("it stands"), wanted);
    bytes = back;
    receive(stream, bytes, wanted).await
}

async fn receive(stream: &StackStream, mut bytes: Vec<u8>, wanted: usize) -> Vec<u8> {
    let mut buf = [0; 4096];
    bytes.clear();
    while bytes.len() < wanted {
        match stream.try_read(&mut buf).expect("it stands") {
            Some(0) => panic!("the stream ended"),
            Some(read) => bytes.extend_from_slice(&buf[..read]),
            None => std::future::poll_fn(|context| stream.poll_read_ready(context)).await,
        }
    }
    bytes
}

/// Allocations per request of `bytes` and its echo, with `pause` between a reply and the next
/// request.
fn measure(bytes: usize, pause: Duration) -> f64 {
    let (a, b) = MemoryDevice::pair([[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]], 1500, 64);
    let own = |host: u8| vec![IpCidr::new([10, 0, 0, host].into(), 24).expect("a prefix")];
    let stack = |device, host| {
        Stack::new(
            Box::new(device),
            StackConfig::default().addresses(own(host)).seed([host; 32]),
            Instant::ORIGIN,
        )
        .expect("a stack")
    };
    let (client, server) = (stack(a, 1), stack(b, 2));
    let mut pollers = [client.poller(), server.poller()];
    let address = SocketAddr::from(([10, 0, 0, 2], 7));
    let listener = StackListener::bind(&server, address, 8).expect("free");

    let rounds = Cell::new(0);
    let mut asking = pin!(async {
        let stream = StackStream::connect(&client, address).await.expect("connected");
        let mut buffer = Vec::with_capacity(bytes);
        while rounds.get() < usize::MAX {
            buffer.resize(bytes, 7);
            buffer = round(&stream, buffer, bytes).await;
            rounds.set(rounds.get() + 1);
            // Until the loop below has let time pass.
            let mut yielded = false;
            std::future::poll_fn(|_| {
                if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    });
    let mut answering = pin!(async {
        let (stream, _) = listener.accept().await.expect("accepted");
        let mut buffer = Vec::with_capacity(bytes);
        while rounds.get() < usize::MAX {
            buffer = receive(&stream, buffer, bytes).await;
            let (written, back) = stream.write(buffer).await.parts();
            assert_eq!(written.expect("it stands"), bytes);
            buffer = back;
        }
    });

    let mut tasks: [Task<'_>; 2] = [asking.as_mut() as _, answering.as_mut() as _].map(|task| {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        (task, Arc::clone(&flag), Waker::from(flag))
    });
    let mut now = Instant::ORIGIN;
    let mut run_until = |goal: usize| {
        while rounds.get() < goal {
            let before = rounds.get();
            for (task, flag, waker) in &mut tasks {
                if flag.0.swap(false, Ordering::Relaxed) {
                    let _ = task.as_mut().poll(&mut Context::from_waker(waker));
                }
            }
            if rounds.get() > before {
                tasks[0].1.0.store(true, Ordering::Relaxed);
                now += pause;
            }
            now += Duration::from_micros(1);
            for poller in &mut pollers {
                poller.poll(now, 64);
            }
        }
    };
    run_until(WARM_UP);
    let before = counting::allocations();
    run_until(WARM_UP + ROUNDS);
    // Counts this small are exact in an f64.
    f64::from(u32::try_from(counting::allocations() - before).expect("few"))
        / f64::from(u32::try_from(ROUNDS).expect("few"))
}

#[test]
fn requests_one_after_the_other_allocate_nothing() {
    assert_eq!(measure(64, Duration::ZERO), 0.0);
}

#[test]
fn requests_of_several_segments_allocate_nothing() {
    assert_eq!(measure(20_000, Duration::ZERO), 0.0);
}

#[test]
fn requests_with_pauses_in_which_timers_fire_allocate_nothing() {
    assert_eq!(measure(64, Duration::from_millis(10)), 0.0);
}
