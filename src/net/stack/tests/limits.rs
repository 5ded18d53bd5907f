//! Every limit holds, says so, and is left behind when there is room again.

use std::net::SocketAddr;
use std::time::Duration;

use super::conformance::{CLEAN, build, read_exact, write_all};
use crate::error::ErrorKind;
use crate::error::Parts;
use crate::mem::IoBuf;
use crate::net::address::IpCidr;
use crate::net::device::{DeviceInfo, DeviceStats, MemoryDevice, PacketDevice};
use crate::net::stack::{Stack, StackConfig, StackListener, StackStream};
use crate::rt::Instant;
use crate::rt::poller::Park;

#[test]
fn a_full_backlog_drops_syns_until_somebody_accepts() {
    let (mut world, net) = build(CLEAN, |_| {});
    world.run(async move {
        let listener = StackListener::bind(&net.server, net.server_addr(), 3).expect("free");
        let mut waiting = Vec::new();
        for _ in 0..3 {
            waiting.push(net.connect().await);
        }
        let (client, address) = (net.client.clone(), net.server_addr());
        let fourth = async move { StackStream::connect(&client, address).await };
        let mut fourth = Box::pin(fourth);
        let early = net.handle.within(Duration::from_millis(500), &mut fourth).await;
        assert!(early.is_none(), "the fourth connection was not held back");
        assert_eq!(net.server.stats().syns_dropped_backlog, 1);
        let _accepted = listener.accept().await.expect("one of three");
        // The SYN is sent again after a second, and then there is room.
        let late = net.handle.within(Duration::from_secs(5), &mut fourth).await;
        late.expect("in time").expect("connected");
        assert_eq!(net.server.stats().accepted, 4);
    });
}

#[test]
fn connections_past_the_limit_are_dropped_on_one_side_and_refused_on_the_other() {
    let (mut world, net) = build(CLEAN, |config| config.max_connections = 5);
    world.run(async move {
        let listener = net.listen();
        let mut streams = Vec::new();
        for _ in 0..5 {
            streams.push((net.connect().await, listener.accept().await.expect("accept")));
        }
        let error = StackStream::connect(&net.client, net.server_addr()).await.expect_err("the sixth");
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        assert!(error.to_string().contains("already has 5 connections"), "{error}");
        streams.pop();
        net.handle.sleep(Duration::from_secs(60)).await;
        StackStream::connect(&net.client, net.server_addr()).await.expect("there is room again");
    });
}

#[test]
fn a_server_at_its_limit_drops_syns() {
    let (mut world, net) = build(CLEAN, |config| {
        // Only the server's limit is low: the host numbers tell the two apart.
        if config.addresses[0].address().to_string().ends_with(".2") {
            config.max_connections = 2;
        }
    });
    world.run(async move {
        let listener = net.listen();
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push((net.connect().await, listener.accept().await.expect("accept")));
        }
        let third = StackStream::connect(&net.client, net.server_addr());
        assert!(net.handle.within(Duration::from_secs(5), third).await.is_none());
        assert!(net.server.stats().syns_dropped_limit >= 2, "{:?}", net.server.stats());
        assert_eq!(net.server.stats().connections, 2);
    });
}

#[test]
fn dropping_a_listener_resets_what_nobody_accepted_and_frees_the_port() {
    let (mut world, net) = build(CLEAN, |_| {});
    world.run(async move {
        let listener = net.listen();
        let waiting = net.connect().await;
        net.handle.sleep(Duration::from_millis(10)).await;
        drop(listener);
        let (read, _) = waiting.read(vec![0; 1]).await.parts();
        assert_eq!(read.expect_err("reset").code(), Some(libc::ECONNRESET));
        assert_eq!(net.server.stats().connections, 0);
        let again = net.listen();
        let stream = net.connect().await;
        let (accepted, _) = again.accept().await.expect("accept");
        write_all(&stream, b"hello".to_vec()).await;
        assert_eq!(read_exact(&accepted, 5).await, b"hello");
    });
}

#[test]
fn connections_reset_before_they_are_accepted_leave_the_backlog() {
    let (mut world, net) = build(CLEAN, |_| {});
    world.run(async move {
        let listener = StackListener::bind(&net.server, net.server_addr(), 1).expect("free");
        let first = net.connect().await;
        net.handle.sleep(Duration::from_millis(10)).await;
        first.abort();
        net.handle.sleep(Duration::from_millis(10)).await;
        assert_eq!(net.server.stats().connections, 0);
        let second = net.connect().await;
        let (accepted, peer) = listener.accept().await.expect("accept");
        assert_eq!(peer, second.local_addr());
        drop(accepted);
    });
}

#[test]
fn a_vanished_peer_ends_an_idle_connection_and_one_that_writes() {
    for writes in [false, true] {
        let (mut world, net) = build(CLEAN, |_| {});
        let streams = std::rc::Rc::new(std::cell::RefCell::new(None));
        let (slot, at) = (std::rc::Rc::clone(&streams), net.clone());
        world.run(async move {
            let (client, server, listener) = at.pair().await;
            *slot.borrow_mut() = Some((client, server, listener));
        });
        // The client's host is gone: no FIN, no RST, nothing.
        world.vanish(0);
        let (client, server, _listener) = streams.borrow_mut().take().expect("connected");
        let handle = world.handle.clone();
        let started = handle.now();
        let error = world.run(async move {
            if writes {
                let (written, _) = server.write(vec![1; 100]).await.parts();
                written.expect("the buffer has room");
            }
            let (read, _) = server.read(vec![0; 1]).await.parts();
            read.expect_err("the peer vanished")
        });
        assert_eq!((error.kind(), error.code()), (ErrorKind::TimedOut, Some(libc::ETIMEDOUT)));
        let elapsed = handle.now() - started;
        assert!((Duration::from_secs(170)..Duration::from_secs(200)).contains(&elapsed), "{elapsed:?}");
        world.run_for(Duration::from_secs(60));
        assert_eq!(net.server.stats().connections, 0, "its memory is free again");
        std::mem::forget(client);
    }
}

#[test]
fn connecting_to_a_vanished_host_fails_by_name() {
    let (mut world, net) = build(CLEAN, |_| {});
    world.vanish(1);
    let (client, address) = (net.client.clone(), net.server_addr());
    let started = world.handle.now();
    let error = world.run(async move { StackStream::connect(&client, address).await.expect_err("gone") });
    assert_eq!(error.code(), Some(libc::EHOSTUNREACH));
    let elapsed = world.handle.now() - started;
    assert!((Duration::from_secs(2)..Duration::from_secs(5)).contains(&elapsed), "{elapsed:?}");
    assert_eq!(net.client.stats().connections, 0);
}

#[test]
fn addresses_that_cannot_be_reached_or_listened_on_are_refused_at_once() {
    let (mut world, net) = build(CLEAN, |_| {});
    world.run(async move {
        let connect = async |address: &str| {
            let address: SocketAddr = address.parse().expect("an address");
            StackStream::connect(&net.client, address).await.expect_err("it cannot work")
        };
        assert_eq!(connect("192.0.2.1:80").await.code(), Some(libc::ENETUNREACH));
        assert_eq!(connect("[2001:db8::1]:80").await.code(), Some(libc::ENETUNREACH));
        assert_eq!(connect("10.0.0.2:0").await.kind(), ErrorKind::InvalidInput);
        assert_eq!(connect("0.0.0.0:80").await.kind(), ErrorKind::InvalidInput);
        assert_eq!(connect("224.0.0.1:80").await.kind(), ErrorKind::InvalidInput);
        assert_eq!(connect("10.0.0.1:80").await.kind(), ErrorKind::Unsupported);

        let listen = |address: &str, backlog| {
            let address: SocketAddr = address.parse().expect("an address");
            StackListener::bind(&net.server, address, backlog)
        };
        let foreign = listen("10.0.0.9:80", 1).expect_err("not ours");
        assert_eq!(foreign.code(), Some(libc::EADDRNOTAVAIL));
        assert_eq!(listen("10.0.0.2:80", 0).expect_err("no backlog").kind(), ErrorKind::InvalidInput);
        let first = listen("10.0.0.2:80", 1).expect("free");
        assert_eq!(listen("10.0.0.2:80", 1).expect_err("taken").kind(), ErrorKind::InUse);
        let any = listen("0.0.0.0:0", 1).expect("some port is free");
        assert_ne!(any.local_addr().port(), 0);
        let address = SocketAddr::new(first.local_addr().ip(), any.local_addr().port());
        StackStream::connect(&net.client, address).await.expect("it listens on every address");
    });
}

#[test]
fn an_orphan_that_cannot_deliver_is_given_up_after_the_linger_time() {
    let (mut world, net) = build(CLEAN, |_| {});
    let at = net.clone();
    let held = world.run(async move {
        let (client, server, listener) = at.pair().await;
        // Fill both buffers: the server does not read.
        while let Some(written) =
            at.handle.within(Duration::from_secs(5), client.write(vec![0u8; 1 << 16].slice(0..1 << 16))).await
        {
            written.expect("it stands");
        }
        drop(client);
        (server, listener)
    });
    assert_eq!(net.client.stats().connections, 1);
    world.run_for(Duration::from_secs(29));
    assert_eq!(net.client.stats().connections, 1);
    world.run_for(Duration::from_secs(2));
    assert_eq!(net.client.stats().connections, 0);
    drop(held);
}

#[test]
fn contradictory_configurations_are_refused_in_a_sentence() {
    let own = |text: &str, len| IpCidr::new(text.parse().expect("an address"), len).expect("a prefix");
    let good = StackConfig::default().addresses([own("10.0.0.1", 24)]).seed([1; 32]);
    type Change = fn(&mut StackConfig);
    let cases: [(Change, &str); 8] = [
        (|c| c.addresses.clear(), "1 to 8 addresses"),
        (|c| c.addresses = vec![c.addresses[0]; 9], "was given 9"),
        (
            |c| c.addresses = vec![IpCidr::new([224, 0, 0, 1].into(), 24).expect("valid")],
            "not the address of one host",
        ),
        (
            |c| c.addresses = vec![IpCidr::new([10, 0, 0, 255].into(), 24).expect("valid")],
            "not the address of one host",
        ),
        (|c| c.gateways = vec![[192, 168, 0, 1].into()], "gateway 192.168.0.1"),
        (|c| c.max_connections = 0, "0 connections"),
        (|c| c.receive_buffer_bytes = 100, "100 bytes"),
        (|c| c.keepalive = c.user_timeout, "longer than the keepalive"),
    ];
    let start = |config: StackConfig, mtu| {
        let (device, _other) = MemoryDevice::pair([[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]], mtu, 8);
        Stack::new(Box::new(device), config, Instant::ORIGIN)
    };
    start(good.clone(), 1500).expect("it is good");
    for (change, expected) in cases {
        let mut config = good.clone();
        change(&mut config);
        let error = start(config, 1500).expect_err(expected);
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(start(good, 100).expect_err("mtu").to_string().contains("MTU of 100"));
}

#[test]
fn the_receive_window_fits_what_smoltcp_accepts() {
    let mut config = StackConfig::default();
    for (asked, got) in
        [(4096, 4096), (65_535, 65_535), (65_536, 65_535), (200_000, 131_070), (1 << 20, 1_048_560)]
    {
        config.receive_buffer_bytes = asked;
        assert_eq!(config.receive_window(), got);
    }
}

/// A queue of two frames is full most of the time, here with more frames to send than may wait for
/// it. Nothing is lost for it: one lost frame alone would cost a second.
#[test]
fn a_full_transmit_queue_loses_nothing() {
    const STREAMS: usize = 400;
    const BYTES: usize = 10_000;
    let mut world = super::world::World::default();
    let (a, b) = MemoryDevice::pair([super::world::CLIENT_MAC, super::world::SERVER_MAC], 1500, 2);
    let own = |host: u8| vec![IpCidr::new([10, 0, 0, host].into(), 24).expect("a prefix")];
    let client = world.add(Box::new(a), StackConfig::default().addresses(own(1)).seed([1; 32]));
    let server = world.add(Box::new(b), StackConfig::default().addresses(own(2)).seed([2; 32]));
    let address = SocketAddr::from(([10, 0, 0, 2], 7));
    let listener = StackListener::bind(&server, address, STREAMS).expect("free");
    let handle = world.handle.clone();
    let elapsed = world.run(async move {
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            let near = StackStream::connect(&client, address).await.expect("connected");
            streams.push((near, listener.accept().await.expect("accept").0));
        }
        let started = handle.now();
        for (_, far) in &streams {
            assert_eq!(far.try_write(&[5; BYTES]).expect("it stands"), Some(BYTES));
        }
        for (near, _) in &streams {
            assert!(read_exact(near, BYTES).await == vec![5; BYTES]);
        }
        handle.now() - started
    });
    assert!(elapsed < Duration::from_millis(900), "{elapsed:?}");
    assert_eq!(server.stats().answers_dropped, 0);
}

#[test]
fn the_end_of_a_core_delivers_what_was_written_and_says_goodbye() {
    let (mut world, net) = build(CLEAN, |_| {});
    let at = net.clone();
    let (open, dropped, _listener) = world.run(async move {
        let (client, server, listener) = at.pair().await;
        let other = at.connect().await;
        let accepted = listener.accept().await.expect("a connection").0;
        ((client, server), (other, accepted), listener)
    });
    for server in [&open.1, &dropped.1] {
        assert_eq!(server.try_write(&[5; 1000]).expect("it stands"), Some(1000));
    }
    drop(dropped.1);
    world.end(1);
    world.run(async move {
        for client in [&open.0, &dropped.0] {
            assert!(read_exact(client, 1000).await == vec![5; 1000]);
            let (end, _) = client.read(vec![0; 1]).await.parts();
            assert_eq!(end.expect("the end of the stream"), 0);
        }
    });
}

/// A device that works for a while.
struct Failing {
    device: MemoryDevice,
    receives_left: usize,
}

impl PacketDevice for Failing {
    fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&mut [u8])) -> crate::Result<usize> {
        if self.receives_left == 0 {
            return Err(crate::Error::os(libc::ENODEV, "receive"));
        }
        self.receives_left -= 1;
        self.device.receive(budget, sink)
    }

    fn transmit(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        self.device.transmit(len, fill)
    }

    fn flush(&mut self) {
        self.device.flush();
    }

    fn park(&mut self) -> Park {
        self.device.park()
    }

    fn stats(&self) -> DeviceStats {
        self.device.stats()
    }
}

#[test]
fn a_failed_device_ends_everything_that_waits_on_it() {
    let mut world = super::world::World::default();
    let (a, b) = MemoryDevice::pair([super::world::CLIENT_MAC, super::world::SERVER_MAC], 1500, 64);
    let own = |host: u8| vec![IpCidr::new([10, 0, 0, host].into(), 24).expect("a prefix")];
    let client = world.add(Box::new(a), StackConfig::default().addresses(own(1)).seed([1; 32]));
    let failing = Failing { device: b, receives_left: 200 };
    let server = world.add(Box::new(failing), StackConfig::default().addresses(own(2)).seed([2; 32]));
    let address = SocketAddr::from(([10, 0, 0, 2], 7));
    let listener = StackListener::bind(&server, address, 8).expect("free");
    world.run(async move {
        let _near = StackStream::connect(&client, address).await.expect("connected");
        let (far, _) = listener.accept().await.expect("accept");
        let (read, _) = far.read(vec![0; 1]).await.parts();
        assert_eq!(read.expect_err("the device failed").code(), Some(libc::ENETDOWN));
        assert_eq!(listener.accept().await.expect_err("it failed").code(), Some(libc::ENETDOWN));
        let peer = SocketAddr::from(([10, 0, 0, 1], 7));
        let error = StackStream::connect(&server, peer).await.expect_err("it failed");
        assert_eq!(error.code(), Some(libc::ENETDOWN));
    });
}
