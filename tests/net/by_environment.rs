//! The network of a core: one unchanged program over whichever network `BOSON_NET` names.
//!
//! Every program here is a test of this binary that its parent runs in a process of its own, with
//! the environment that the test is about.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use boson::ErrorKind;
use boson::net::{Net, TcpListener, UdpSocket};
use boson::rt::{self, CoreConfig, CoreThread};

use crate::support::own_process::named_in;
use crate::tap;

#[path = "../../examples/echo.rs"]
mod echo;

/// Where the program in the child listens.
const LISTEN: &str = "BOSON_TEST_LISTEN";
const TAP: &str = "tap:bosontest8?ip=10.213.88.1/24&host=10.213.88.2/24";

/// The child test `name` with `BOSON_NET` set to `net`, or not set.
fn child(name: &str, net: Option<&str>) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("there is one"));
    command
        .args(["--exact", "--ignored", "--nocapture", "--test-threads=1", &named_in(module_path!(), name)])
        .env_remove("BOSON_NET")
        .stdin(Stdio::null());
    if let Some(net) = net {
        command.env("BOSON_NET", net);
    }
    command
}

/// Runs a child test to its end.
fn passes(name: &str, net: Option<&str>) {
    let output = child(name, net).output().expect("a child process");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "the test ran: {said}");
}

/// A child that is ended with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It is gone already if it failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The echo example listens on `listen` of `net`, and echoes what the kernel's client sends.
fn echoes(net: Option<&str>, listen: &str) {
    let mut command = child("child_runs_the_echo_example", net);
    let mut server =
        Server(command.env(LISTEN, listen).stdout(Stdio::piped()).spawn().expect("a child process"));
    let output = BufReader::new(server.0.stdout.take().expect("piped"));
    let address = output
        .lines()
        .map(|line| line.expect("text"))
        .find_map(|line| line.split_once("listening on ").map(|(_, address)| address.to_owned()))
        .expect("it listens");
    let mut client = TcpStream::connect(&address).expect("it accepts");
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("not zero");
    let sent: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let mut received = vec![0; sent.len()];
    std::thread::scope(|scope| {
        let mut writer = client.try_clone().expect("a second handle");
        let sent = &sent;
        scope.spawn(move || writer.write_all(sent).expect("write"));
        client.read_exact(&mut received).expect("an echo");
    });
    assert!(received == sent, "what came back is not what was sent");
}

#[test]
#[ignore = "a child of another one"]
fn child_runs_the_echo_example() {
    let address = std::env::var(LISTEN).expect("the parent says where");
    echo::run(&address).expect("it listens");
}

#[test]
fn the_echo_example_runs_over_the_kernel() {
    echoes(Some("kernel:"), "127.0.0.1:0");
    // Without the variable, and with a name that is looked up.
    echoes(None, "localhost:0");
}

#[test]
fn the_echo_example_runs_over_a_tap_interface() {
    // In a network of this test's own, which the child inherits.
    if tap::open("bosontest8").is_some() {
        echoes(Some(TAP), "10.213.88.1:7000");
    }
}

#[test]
#[ignore = "a child of another one"]
fn child_shares_a_queue_pair() {
    let config = || CoreConfig::default();
    let other = CoreThread::start("other", &config()).expect("a core");
    let bind = || async { TcpListener::bind("10.213.88.1:7000").await.map(|listener| listener.local_addr()) };
    boson::run(async {
        let first = TcpListener::bind("10.213.88.1:7000").await.expect("the first core gets the network");
        // The same network, not a second one.
        let taken = TcpListener::bind("10.213.88.1:7000").await.expect_err("it is taken");
        assert_eq!(taken.kind(), ErrorKind::InUse);
        drop(first);
        let refused = rt::named("bind").spawn_on(other.handle(), bind).await.expect("no panic");
        let refused = refused.expect_err("one core has it");
        assert_eq!(refused.kind(), ErrorKind::InUse);
        let text = refused.to_string();
        assert!(text.contains("BOSON_NET") && text.contains("another core of this process"), "{text}");
    });
    // That core has ended, and its network with it.
    boson::run(async {
        let bound = rt::named("bind").spawn_on(other.handle(), bind).await.expect("no panic");
        bound.expect("the other core gets the network");
    });
}

#[test]
fn a_network_with_one_queue_pair_belongs_to_one_core_at_a_time() {
    if tap::open("bosontest8").is_some() {
        passes("child_shares_a_queue_pair", Some(TAP));
    }
}

#[test]
#[ignore = "a child of another one"]
fn child_gets_no_network() {
    let value = std::env::var("BOSON_NET").expect("the parent sets it");
    boson::run(async {
        // It is asked for again each time, and says the same.
        for _ in 0..2 {
            let errors = [
                TcpListener::bind("127.0.0.1:0").await.map(drop).expect_err("no network"),
                boson::net::TcpStream::connect("127.0.0.1:1").await.map(drop).expect_err("no network"),
                UdpSocket::bind("127.0.0.1:0").await.map(drop).expect_err("no network"),
            ];
            for error in errors {
                let text = error.to_string();
                assert!(text.contains("BOSON_NET") && text.contains(&value), "{text}");
            }
        }
        // The program can still choose one by itself.
        Net::kernel().set_current();
        TcpListener::bind("127.0.0.1:0").await.expect("the kernel's network");
    });
}

#[test]
fn an_error_names_the_variable_that_holds_a_bad_address() {
    for bad in ["nic:eth0", "kernel:x", "tap:t0", "mem:"] {
        passes("child_gets_no_network", Some(bad));
    }
}

#[test]
#[ignore = "a child of another one"]
fn child_chooses_its_network() {
    boson::run(async {
        Net::kernel().set_current();
        // The environment, which names none that could be opened, is not asked.
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("the kernel's network");
        boson::net::TcpStream::connect(listener.local_addr()).await.expect("it listens");
    });
}

#[test]
fn a_program_that_chooses_its_network_does_not_ask_the_environment() {
    passes("child_chooses_its_network", Some("nic:eth0"));
}

#[test]
fn every_core_has_the_kernels_network() {
    let config = CoreConfig::default();
    let other = CoreThread::start("other", &config).expect("a core");
    boson::run(async {
        let listener = TcpListener::bind_shared("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr();
        let shared = rt::named("bind").spawn_on(other.handle(), move || async move {
            TcpListener::bind_shared(address).await.map(|listener| listener.local_addr())
        });
        assert_eq!(shared.await.expect("no panic").expect("it is shared"), address);
    });
}

#[test]
fn udp_uses_the_cores_network() {
    boson::run(async {
        let (near, far) = (UdpSocket::bind("127.0.0.1:0").await, UdpSocket::bind(("127.0.0.1", 0)).await);
        let (near, far) = (near.expect("a free port"), far.expect("a free port"));
        let (sent, _) = near.send_to(&b"hello"[..], far.local_addr()).await.expect("sent");
        let ((len, from), buf) = far.recv_from(Vec::with_capacity(16)).await.expect("received");
        assert_eq!((sent, len, &buf[..len], from), (5, 5, &b"hello"[..], near.local_addr()));
    });
}
