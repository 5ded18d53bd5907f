//! hyper and axum on a core: the server of `examples/axum.rs` over the kernel's sockets and over
//! the userspace stack, and hyper's executor and timer.

#[path = "../../examples/axum.rs"]
mod axum_example;

use crate::support::not_run;
use std::cell::Cell;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use boson::compat::{HyperExecutor, HyperIo, HyperTimer, TokioIo, on_core};
use boson::net::address::IpCidr;
use boson::net::device::MemoryDevice;
use boson::net::stack::StackConfig;
use boson::net::{Net, TcpListener, TcpStream};
use boson::rt::{self, Core, CoreConfig, JoinHandle};
use futures_util::future::{AbortHandle, abortable, join};
use hyper::rt::{Executor, Timer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

fn run<F: Future>(future: F) -> F::Output {
    let config = CoreConfig::default().seed([9; 32]).ring_entries(4096);
    let core = Core::new(&config).expect("a core");
    let limit = Duration::from_secs(60);
    core.block_on(async { rt::timeout(limit, future).await.expect("nothing hangs") })
}

/// A running server and how to reach it.
struct Served {
    /// Where clients connect from.
    net: Net,
    address: SocketAddr,
    stop: AbortHandle,
    ended: JoinHandle<boson::Result<()>>,
}

fn start(client: Net, server: &Net, address: SocketAddr) -> Served {
    let listener = TcpListener::bind_on(server, address).expect("a free port");
    let address = listener.local_addr();
    let (stopped, stop) = abortable(pending::<()>());
    let serving = axum_example::serve(listener, axum_example::app(), async {
        let _ = stopped.await;
    });
    Served { net: client, address, stop, ended: rt::named("server").spawn(serving) }
}

fn on_kernel() -> Served {
    start(Net::kernel(), &Net::kernel(), SocketAddr::from(([127, 0, 0, 1], 0)))
}

fn on_stack() -> Served {
    let (a, b) = MemoryDevice::pair([[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]], 1500, 4096);
    let net = |device, host: u8| {
        let own = IpCidr::new([10, 0, 0, host].into(), 24).expect("a prefix");
        Net::on_device(Box::new(device), StackConfig::default().addresses([own]).seed([host; 32]))
            .expect("a stack")
    };
    start(net(a, 1), &net(b, 2), SocketAddr::from(([10, 0, 0, 2], 80)))
}

impl Served {
    async fn connect(&self) -> Client {
        let stream = TcpStream::connect_on(&self.net, self.address).await.expect("connected");
        Client(BufReader::new(TokioIo::new(stream)))
    }

    async fn stop(self) {
        self.stop.abort();
        self.ended.await.expect("no panic").expect("every connection ended in time");
    }
}

/// A connection of an HTTP/1.1 client.
struct Client(BufReader<TokioIo<TcpStream>>);

impl Client {
    async fn request(&mut self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        self.send(method, path, body).await;
        self.response().await
    }

    async fn send(&mut self, method: &str, path: &str, body: &[u8]) {
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: boson\r\ncontent-length: {}\r\n\r\n", body.len());
        self.0.write_all(head.as_bytes()).await.expect("write");
        self.0.write_all(body).await.expect("write");
    }

    /// The status and the body.
    async fn response(&mut self) -> (u16, Vec<u8>) {
        read_response(&mut self.0).await
    }

    async fn is_closed(&mut self) -> bool {
        self.0.fill_buf().await.is_ok_and(<[u8]>::is_empty)
    }
}

async fn read_response(reader: &mut (impl AsyncBufReadExt + Unpin)) -> (u16, Vec<u8>) {
    let mut status = None;
    let mut len = 0;
    let mut line = String::new();
    loop {
        line.clear();
        assert_ne!(reader.read_line(&mut line).await.expect("read"), 0, "the server closed");
        let text = line.trim_end().to_ascii_lowercase();
        if let Some(rest) = text.strip_prefix("http/1.1 ") {
            status = rest.split(' ').next().and_then(|code| code.parse().ok());
        } else if let Some(value) = text.strip_prefix("content-length: ") {
            len = value.parse().expect("a length");
        } else if text.is_empty() {
            break;
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).await.expect("the whole body");
    (status.expect("a status line"), body)
}

async fn connections_are_kept_and_end_with_the_server(served: Served) {
    let mut client = served.connect().await;
    for _ in 0..100 {
        assert_eq!(client.request("GET", "/", b"").await, (200, b"Hello from boson!\n".to_vec()));
    }
    assert_eq!(client.request("POST", "/length", &vec![b'x'; 1 << 20]).await, (200, b"1048576".to_vec()));
    assert_eq!(client.request("GET", "/nowhere", b"").await.0, 404);
    // Requests that arrive together are answered in their order.
    for ms in [30, 1] {
        client.send("GET", &format!("/sleep/{ms}"), b"").await;
    }
    assert_eq!(client.response().await.1, b"slept 30 ms\n");
    assert_eq!(client.response().await.1, b"slept 1 ms\n");
    served.stop().await;
    assert!(client.is_closed().await);
}

async fn a_large_body_goes_both_ways_at_once(served: Served) {
    let client = served.connect().await;
    let body: Vec<u8> = (0..16_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (reader, mut writer) = tokio::io::split(client.0.into_inner());
    let head = format!("POST /echo HTTP/1.1\r\nhost: boson\r\ncontent-length: {}\r\n\r\n", body.len());
    let write = async {
        writer.write_all(head.as_bytes()).await.expect("write");
        writer.write_all(&body).await.expect("write");
    };
    let read = async { read_response(&mut BufReader::new(reader)).await };
    let ((), (status, echoed)) = join(write, read).await;
    assert_eq!(status, 200);
    assert!(echoed == body, "the body changed on its way");
    drop(writer);
    served.stop().await;
}

async fn a_thousand_connections_wait_at_once(served: Served) {
    let began = rt::now();
    let served = Rc::new(served);
    let mut clients = Vec::new();
    for _ in 0..1000 {
        clients.push(served.connect().await);
    }
    let answered = Rc::new(Cell::new(0));
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let answered = Rc::clone(&answered);
            rt::named("client").spawn(async move {
                assert_eq!(client.request("GET", "/sleep/200", b"").await.0, 200);
                answered.set(answered.get() + 1);
                client
            })
        })
        .collect();
    let mut clients = Vec::new();
    for task in tasks {
        clients.push(task.await.expect("no panic"));
    }
    assert_eq!(answered.get(), 1000);
    // One after the other they would take 200 s.
    assert!(rt::now() - began < Duration::from_secs(40), "the requests did not wait together");
    drop(clients);
    Rc::into_inner(served).expect("nobody else has it").stop().await;
}

async fn stopping_lets_requests_finish(served: Served) {
    let mut idle = served.connect().await;
    assert_eq!(idle.request("GET", "/", b"").await.0, 200);
    let mut busy = served.connect().await;
    busy.send("GET", "/sleep/300", b"").await;
    rt::sleep(Duration::from_millis(50)).await;
    let (net, address) = (served.net.clone(), served.address);
    let began = rt::now();
    let (answer, ()) = join(busy.response(), served.stop()).await;
    assert_eq!(answer, (200, b"slept 300 ms\n".to_vec()));
    assert!(
        rt::now() - began > Duration::from_millis(150),
        "the request had ended before the server stopped"
    );
    assert!(idle.is_closed().await && busy.is_closed().await);
    TcpStream::connect_on(&net, address).await.expect_err("nobody listens any more");
}

async fn nonsense_is_refused_and_hurts_nobody_else(served: Served) {
    let mut good = served.connect().await;
    let mut bad = served.connect().await;
    bad.0.write_all(b"\x16\x03\x01 this is not HTTP\r\n\r\n").await.expect("write");
    assert_eq!(bad.response().await.0, 400);
    assert!(bad.is_closed().await);
    let mut rude = served.connect().await;
    rude.0
        .write_all(b"POST /echo HTTP/1.1\r\nhost: boson\r\ncontent-length: 1000\r\n\r\nhalf")
        .await
        .expect("write");
    drop(rude);
    assert_eq!(good.request("GET", "/", b"").await.0, 200);
    drop(good);
    served.stop().await;
}

macro_rules! over_both {
    ($($test:ident)+) => {
        mod kernel {
            $(#[test] fn $test() { super::run(async { super::$test(super::on_kernel()).await }); })+
        }

        mod stack {
            $(#[test] fn $test() { super::run(async { super::$test(super::on_stack()).await }); })+
        }
    };
}

over_both! {
    connections_are_kept_and_end_with_the_server
    a_large_body_goes_both_ways_at_once
    a_thousand_connections_wait_at_once
    stopping_lets_requests_finish
    nonsense_is_refused_and_hurts_nobody_else
}

#[test]
fn curl_is_served() {
    if Command::new("curl").arg("--version").output().is_err() {
        return not_run::not_run("curl is not installed");
    }
    run(async {
        let served = on_kernel();
        let url = |path: &str| format!("http://{}{path}", served.address);
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "20",
            "--write-out",
            "|%{num_connects}|",
        ]);
        curl.args([url("/"), url("/sleep/5"), url("/")]);
        let (done, is_done) = abortable(pending::<()>());
        let client = std::thread::spawn(move || {
            let output = curl.output();
            is_done.abort();
            output
        });
        let _ = done.await;
        let output = client.join().expect("no panic").expect("curl runs");
        let text = String::from_utf8_lossy(&output.stdout);
        // One connection for all three.
        assert_eq!(
            text,
            "Hello from boson!\n|1|slept 5 ms\n|0|Hello from boson!\n|0|",
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        served.stop().await;
    });
}

#[test]
fn the_executor_takes_futures_that_are_not_send() {
    run(async {
        let ran = Rc::new(Cell::new(false));
        let here = Rc::clone(&ran);
        HyperExecutor.execute(async move { here.set(true) });
        while !ran.get() {
            rt::yield_now().await;
        }
    });
}

#[test]
fn the_timer_measures_by_the_core() {
    run(async {
        let origin = std::time::Instant::now();
        let timer = HyperTimer::new(origin);
        let began = rt::now();
        let wait = Duration::from_millis(30);
        timer.sleep(wait).await;
        assert!(rt::now() - began >= wait);
        assert!(timer.now() - origin >= wait);
        // The past is now.
        timer.sleep_until(origin).await;
        let mut sleep = timer.sleep(Duration::from_secs(1000));
        timer.reset(&mut sleep, timer.now() + wait);
        sleep.await;
        assert!(rt::now() - began >= 2 * wait);
        assert!(timer.now() - origin < Duration::from_secs(50));
    });
}

/// A client that never finishes the head of its request is let go.
#[test]
fn hyper_times_out_by_the_timer() {
    run(async {
        let net = Net::kernel();
        let listener =
            TcpListener::bind_on(&net, SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let client = TcpStream::connect_on(&net, listener.local_addr()).await.expect("connected");
        let (server, _) = listener.accept().await.expect("accepted");
        let began = rt::now();
        client.write_all(&b"GET / HT"[..]).await.expect("write");
        let error = hyper::server::conn::http1::Builder::new()
            .timer(HyperTimer::new(std::time::Instant::now()))
            .header_read_timeout(Duration::from_millis(100))
            .serve_connection(
                HyperIo::new(server),
                hyper_util::service::TowerToHyperService::new(axum_example::app()),
            )
            .await
            .expect_err("the head never came");
        assert!(error.is_timeout(), "{error}");
        assert!(rt::now() - began >= Duration::from_millis(100));
    });
}

#[test]
fn a_future_that_stays_on_its_core_is_send_and_comes_back() {
    fn assert_send(_: &impl Send) {}
    let local = Rc::new(7);
    let stays = on_core(async move { *local });
    assert_send(&stays);
    let stays = std::thread::spawn(move || {
        let stays = std::panic::AssertUnwindSafe(stays);
        // Not dropped in case of a panic: that would be one within the other.
        let mut stays = std::mem::ManuallyDrop::new(Box::pin(stays.0));
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let waker = std::task::Waker::noop();
            let _ = stays.as_mut().poll(&mut std::task::Context::from_waker(waker));
        }));
        assert!(polled.is_err(), "it was polled on another thread");
        std::mem::ManuallyDrop::into_inner(stays)
    })
    .join()
    .expect("no panic");
    run(async { assert_eq!(stays.await, 7) });
    assert_eq!(on_core(std::future::ready(8)).into_inner().into_inner(), 8);
}
