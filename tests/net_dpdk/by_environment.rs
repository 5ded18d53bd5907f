//! The echo example, unchanged, over a DPDK port that `BOSON_NET` names.
//! `tests/net/by_environment.rs` has the other networks.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::lab::Lab;
use crate::support::own_process::named_in;

#[path = "../../examples/echo.rs"]
mod echo;

const ADDRESS: &str = "10.77.1.1:7000";

/// A child that is ended with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It is gone already if it failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "a child of another one"]
fn child_runs_the_echo_example() {
    echo::run(ADDRESS).expect("it listens");
}

#[test]
fn the_echo_example_runs_over_dpdk() {
    let Some(lab) = Lab::new(9) else { return };
    let name = named_in(module_path!(), "child_runs_the_echo_example");
    let net = format!("dpdk:net_af_packet0,iface={}?ip=10.77.1.1/24", lab.near);
    let mut server = Server(
        Command::new(std::env::current_exe().expect("there is one"))
            .args(["--exact", "--ignored", "--nocapture", "--test-threads=1", &name])
            .env("BOSON_NET", net)
            .env("BOSON_EAL", crate::eal_arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child process"),
    );
    let output = BufReader::new(server.0.stdout.take().expect("piped"));
    let listens = output.lines().map(|line| line.expect("text")).any(|line| line.contains(ADDRESS));
    assert!(listens, "the example ended before it listened");
    let echoed = lab.spawn(|| {
        let address = ADDRESS.parse().expect("valid");
        let mut client =
            TcpStream::connect_timeout(&address, Duration::from_secs(20)).expect("the example accepts");
        client.set_read_timeout(Some(Duration::from_secs(20))).expect("not zero");
        let sent: Vec<u8> = (0..10_000u32).flat_map(u32::to_le_bytes).collect();
        let mut writer = client.try_clone().expect("a second handle");
        let to_send = sent.clone();
        let writing = std::thread::spawn(move || writer.write_all(&to_send).expect("write"));
        let mut received = vec![0; sent.len()];
        client.read_exact(&mut received).expect("an echo");
        writing.join().expect("the writer");
        received == sent
    });
    assert!(echoed.join().expect("the client"), "what came back is not what was sent");
}
