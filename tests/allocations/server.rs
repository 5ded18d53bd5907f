//! How often the heap is asked in the steady state of `boson serve`: per GET and per SET, counted
//! by the allocator.

use crate::counting;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use boson::block::MemoryNamespace;
use boson::net::{Net, TcpListener};
use boson::redis::{self, Config, Server};
use boson::rt::time::MonotonicClock;
use boson::rt::{Core, CoreConfig};
use boson::store::{Db, Durability, Options, RtEnv};

const REQUESTS: u64 = 20_000;
const KEYS: u64 = 1000;

/// Sends `count` requests of `make`, each after the reply to the one before, and returns what the
/// server's thread allocated per request.
fn measure(stream: &mut TcpStream, count: u64, make: impl Fn(u64) -> String) -> f64 {
    let mut reply = [0; 256];
    let mut run = |from: u64, to: u64| {
        for i in from..to {
            stream.write_all(make(i).as_bytes()).expect("sent");
            assert_ne!(stream.read(&mut reply).expect("a reply"), 0, "the server closed");
            assert_ne!(reply[0], b'-', "{}", String::from_utf8_lossy(&reply));
        }
    };
    run(0, 2 * KEYS);
    let before = counting::watched_allocations();
    run(2 * KEYS, 2 * KEYS + count);
    let after = counting::watched_allocations();
    // Counts this small are exact in an f64.
    f64::from(u32::try_from(after - before).expect("few")) / f64::from(u32::try_from(count).expect("few"))
}

fn request(arguments: &[&str]) -> String {
    let mut text = format!("*{}\r\n", arguments.len());
    for argument in arguments {
        text += &format!("${}\r\n{argument}\r\n", argument.len());
    }
    text
}

#[test]
fn steady_state_asks_the_heap_rarely() {
    let clock = Arc::new(MonotonicClock::new());
    let (sender, address) = std::sync::mpsc::channel::<SocketAddr>();
    let server_clock = clock.clone();
    let server = std::thread::spawn(move || {
        let core = Core::new(&CoreConfig::default().clock(server_clock.clone()).seed([1; 32]))
            .expect("io_uring is usable");
        core.block_on(async {
            let namespace = MemoryNamespace::new("mem:test", 256 << 20, 4096).expect("a size");
            let options = Options::default().identity([2; 16]).durability(Durability::None);
            let db = Db::open_on(RtEnv, namespace, options).await.expect("a new store");
            let server =
                Server::new(RtEnv, db, server_clock, Config::default()).expect("room for the databases");
            let listener =
                TcpListener::bind_on(&Net::kernel(), SocketAddr::from(([127, 0, 0, 1], 0))).expect("bind");
            sender.send(listener.local_addr()).expect("the test waits");
            counting::watch(true);
            redis::serve(&server, &listener).await.expect("its network is not lost");
            counting::watch(false);
        });
    });
    let mut stream = TcpStream::connect(address.recv().expect("the server starts")).expect("connect");
    stream.set_nodelay(true).expect("set");
    let key = |i: u64| format!("key:{:06}", i.wrapping_mul(7919) % KEYS);
    let set = measure(&mut stream, REQUESTS, |i| request(&["SET", &key(i), &format!("value:{i:012}")]));
    let get = measure(&mut stream, REQUESTS, |i| request(&["GET", &key(i)]));
    // The control: RANDOMKEY makes a vector for the key it found, so the counter must move.
    let control = measure(&mut stream, REQUESTS / 10, |_| request(&["RANDOMKEY"]));
    println!(
        "allocations per request in steady state: SET {set:.3}, GET {get:.3} (control, RANDOMKEY: {control:.3})"
    );
    stream.write_all(request(&["SHUTDOWN"]).as_bytes()).expect("sent");
    drop(stream);
    server.join().expect("no panic");
    assert!(control >= 1.0, "the counter does not count");
    assert!(get < 0.01, "a GET allocates: {get}");
    assert!(set < 1.0, "a SET allocates: {set}");
}
