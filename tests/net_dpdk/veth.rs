//! Frames of the kernel's, answered by hand.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use boson::net::device::PacketDevice;
use boson::net::device::dpdk::{DpdkPort, PortConfig};
use boson::rt::poller::Park;

use super::lab::{Lab, run_well};
use super::{pattern, send, small};

/// Answers ARP requests for `address` and ICMP echo requests to it (RFC 826, RFC 792).
fn answer(frame: &[u8], mac: [u8; 6], address: [u8; 4]) -> Option<Vec<u8>> {
    let mut reply = frame.to_vec();
    reply.get_mut(..14)?;
    let sender: [u8; 6] = frame[6..12].try_into().ok()?;
    reply[..6].copy_from_slice(&sender);
    reply[6..12].copy_from_slice(&mac);
    match frame[12..14] {
        [8, 6] if frame.get(20..22)? == [0, 1] && frame.get(38..42)? == address => {
            reply[20..22].copy_from_slice(&[0, 2]);
            reply[22..28].copy_from_slice(&mac);
            reply[28..32].copy_from_slice(&address);
            reply[32..42].copy_from_slice(&frame[22..32]);
            Some(reply)
        }
        [8, 0] if frame.get(23)? == &1 && frame.get(30..34)? == address && frame.get(34)? == &8 => {
            reply[26..30].copy_from_slice(&address);
            reply[30..34].copy_from_slice(&frame[26..30]);
            reply[34] = 0;
            // The type went from 8 to 0, so the checksum grows by as much (RFC 1624).
            let sum = u32::from(u16::from_be_bytes([reply[36], reply[37]])) + 0x0800;
            let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).expect("the carry is folded in");
            reply[36..38].copy_from_slice(&sum.to_be_bytes());
            Some(reply)
        }
        _ => None,
    }
}

/// Answers on `port` until `done` says so, at most for 30 seconds.
fn respond(port: &mut DpdkPort, address: [u8; 4], mut done: impl FnMut() -> bool) {
    let mac = port.info().mac;
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "the client never ends");
        let mut replies = Vec::new();
        port.receive(64, &mut |frame| replies.extend(answer(frame, mac, address))).expect("the port works");
        for reply in &replies {
            assert!(send(port, reply));
        }
        port.flush();
        if replies.is_empty() {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// Runs `command` in the namespace while `port` answers for 10.77.1.1.
fn while_answering(lab: &Lab, port: &mut DpdkPort, command: &[&str]) -> Output {
    let mut child = Command::new("ip")
        .args(["netns", "exec", &lab.namespace])
        .args(command)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("ip runs");
    respond(port, [10, 77, 1, 1], || child.try_wait().expect("it is our child").is_some());
    child.wait_with_output().expect("it has ended")
}

#[test]
fn the_kernel_pings_a_port_over_a_veth_pair() {
    let Some(lab) = Lab::new(1) else { return };
    let mut port = lab.open(&PortConfig::default());
    assert_eq!(port.driver(), "net_af_packet");
    assert_eq!(port.link_is_up(), Some(true));
    let mac: Vec<_> = port.info().mac.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(mac.join(":"), lab.mac());

    // The largest packet that is not fragmented, and a flood of at most 2,000.
    for arguments in
        [&["-c", "20", "-i", "0.01", "-s", "1472", "-M", "do"][..], &["-f", "-c", "2000", "-s", "64"]]
    {
        let ping = [&["ping", "-q", "-w", "20"][..], arguments, &["10.77.1.1"]].concat();
        let output = while_answering(&lab, &mut port, &ping);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(" 0% packet loss"), "{text}");
    }
    let stats = port.stats();
    assert!(stats.rx_frames >= 2_020 && stats.tx_frames >= 2_020, "{stats:?}");
    assert_eq!((stats.tx_dropped, stats.rx_errors), (0, 0));
}

#[test]
fn a_port_takes_the_address_it_is_given_and_the_interfaces_mtu() {
    let Some(lab) = Lab::new(2) else { return };
    run_well(&["ip", "link", "set", &lab.near, "mtu", "1280"]);
    let mac = [0x02, 0, 0, 0xb0, 0x50, 0x01];
    let mut port = lab.open(&PortConfig::default().mac(mac));
    assert_eq!(port.info().mac, mac);
    assert_eq!(lab.mac(), "02:00:00:b0:50:01", "the device knows, so that its filter lets our frames in");
    assert_eq!(port.info().mtu, 1_280);
    let output =
        while_answering(&lab, &mut port, &["ping", "-q", "-c", "3", "-i", "0.05", "-w", "10", "10.77.1.1"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(lab.inside(&["ip", "neigh"]).contains("02:00:00:b0:50:01"));
}

#[test]
fn an_mtu_is_set_on_the_device_too() {
    let Some(lab) = Lab::new(7) else { return };
    let port = lab.open(&PortConfig::default().mtu(1_400));
    assert_eq!(port.info().mtu, 1_400);
    assert_eq!(lab.mtu(), 1_400);
}

/// Waits as a core does.
fn receive_until_failure(port: &mut DpdkPort) -> boson::Error {
    let began = Instant::now();
    loop {
        if let Err(error) = port.receive(64, &mut |_| {}) {
            return error;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "it does not notice");
        if let Park::Nap(nap) = port.park() {
            std::thread::sleep(nap);
        }
    }
}

#[test]
fn a_port_whose_interface_is_deleted_fails() {
    let Some(lab) = Lab::new(8) else { return };
    let mut port = lab.open(&small());
    run_well(&["ip", "link", "set", &lab.near, "down"]);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        port.receive(64, &mut |_| {}).expect("a link that is down may come up again");
        if let Park::Nap(nap) = port.park() {
            std::thread::sleep(nap);
        }
    }
    run_well(&["ip", "link", "delete", &lab.near]);
    let error = receive_until_failure(&mut port);
    assert_eq!(error.code(), Some(libc::ENODEV), "{error}");
    assert!(error.to_string().contains(&lab.near), "{error}");
}

#[test]
fn frames_into_a_link_that_is_down_are_lost_without_harm() {
    let Some(lab) = Lab::new(3) else { return };
    let mut port = lab.open(&small());
    run_well(&["ip", "link", "set", &lab.near, "down"]);
    assert_eq!(port.link_is_up(), Some(false));
    for number in 0..5_000 {
        send(&mut port, &pattern(number));
        if number % 32 == 0 {
            port.flush();
        }
    }
    run_well(&["ip", "link", "set", &lab.near, "up"]);
    let output =
        while_answering(&lab, &mut port, &["ping", "-q", "-c", "5", "-i", "0.1", "-w", "20", "10.77.1.1"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
