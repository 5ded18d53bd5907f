//! A small write does not wait for the acknowledgement of the one before, on any network:
//! `net::TcpStream` promises it.

use crate::support::parts::Parts;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use boson::net::address::IpCidr;
use boson::net::device::MemoryDevice;
use boson::net::stack::StackConfig;
use boson::net::{Net, TcpListener, TcpStream};
use boson::rt::{self, Core, CoreConfig};

/// Pairs of writes that each end of a connection makes.
const ROUNDS: usize = 20;

fn run<F: Future>(future: F) -> F::Output {
    let config = CoreConfig::default();
    Core::new(&config).expect("a core").block_on(future)
}

async fn receive(stream: &TcpStream, wanted: usize) {
    let mut received = 0;
    while received < wanted {
        let (read, _) = stream.read(Vec::with_capacity(wanted)).await.parts();
        let read = read.expect("the connection stands");
        assert!(read > 0, "the stream ended");
        received += read;
    }
}

async fn send(stream: &TcpStream) {
    stream.write_all(vec![7]).await.expect("the connection stands");
}

/// How long two small writes by `from` take to reach `to`, the second begun when the first is
/// there.
async fn time_of_two(from: &TcpStream, to: &TcpStream) -> Duration {
    // An answer goes first: then the kernel takes this for a conversation, in which it delays
    // acknowledgements.
    send(to).await;
    receive(from, 1).await;
    let started = Instant::now();
    for _ in 0..2 {
        send(from).await;
        receive(to, 1).await;
    }
    started.elapsed()
}

/// The median of the times, for each end as the writer.
async fn check(server: &Net, client: &Net, address: SocketAddr, most: Duration) {
    let listener = TcpListener::bind_on(server, address).expect("it can listen");
    let connected = TcpStream::connect_on(client, listener.local_addr()).await.expect("it listens");
    let (accepted, _) = listener.accept().await.expect("a connection");
    let ends = [("connected", &connected, &accepted), ("accepted", &accepted, &connected)];
    for (which, from, to) in ends {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let pair = rt::timeout(Duration::from_secs(5), time_of_two(from, to)).await;
            times.push(pair.unwrap_or_else(|_| panic!("a write on the {which} stream waits")));
        }
        times.sort_unstable();
        let median = times[ROUNDS / 2];
        assert!(median < most, "two small writes on the {which} stream take {median:?}");
    }
}

#[test]
fn on_the_kernels_network() {
    // The kernel delays acknowledgements by 40 ms.
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    run(check(&Net::kernel(), &Net::kernel(), address, Duration::from_millis(30)));
}

#[test]
fn on_the_userspace_stack() {
    let macs = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
    let (client, server) = MemoryDevice::pair(macs, 1500, 64);
    let net = |device, host: u8| {
        let own = IpCidr::new([10, 0, 0, host].into(), 24).expect("a prefix");
        // Far more than the patience of the test: a write that waits for an acknowledgement fails
        // it.
        let config = StackConfig::default().addresses([own]).ack_delay(Duration::from_secs(60));
        Net::on_device(Box::new(device), config).expect("a stack")
    };
    run(async {
        let address = SocketAddr::from(([10, 0, 0, 2], 7));
        let (client, server) = (net(client, 1), net(server, 2));
        check(&server, &client, address, Duration::from_secs(1)).await;
    });
}
