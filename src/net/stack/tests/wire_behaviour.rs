//! What the stack puts on the wire, seen by a peer made of bytes.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use smoltcp::wire::{
    ArpOperation, EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr,
};

use super::raw::{Bench, PEER_IP, PEER_MAC, STACK_IP, Seg, arp, ethernet, listen_address};
use crate::net::stack::{StackListener, StackStream};

fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn accept(listener: &StackListener) -> StackStream {
    match poll_once(listener.accept()) {
        Poll::Ready(Ok((stream, _))) => stream,
        other => panic!("no connection to accept: {other:?}"),
    }
}

#[test]
fn an_unknown_neighbor_costs_one_question_and_no_waiting() {
    let mut bench = Bench::new();
    let _listener = StackListener::bind(&bench.stack, listen_address(), 8).expect("free");
    bench.send(&Seg { port: 5000, seq: 1, syn: true, ..Seg::default() }.frame());
    let frames = bench.turn();
    let ethertypes: Vec<_> = frames.iter().map(|frame| u16::from_be_bytes([frame[12], frame[13]])).collect();
    assert_eq!(ethertypes, [0x0806], "the SYN|ACK waits for the answer to one ARP request");
    bench.wait(Duration::from_millis(3));
    bench.send(&arp(ArpOperation::Reply));
    let before = bench.now;
    let answers: Vec<_> = bench.turn().iter().filter_map(|frame| Seg::parse(frame)).collect();
    assert!(answers.len() == 1 && answers[0].syn, "{answers:?}");
    assert!(bench.now - before < Duration::from_millis(1));
}

#[test]
fn pings_are_answered_with_the_same_payload() {
    let mut bench = Bench::acquainted();
    let payload: Vec<u8> = (0..200).collect();
    let echo = Icmpv4Repr::EchoRequest { ident: 7, seq_no: 3, data: &payload };
    let checksums = smoltcp::phy::ChecksumCapabilities::default();
    let ip = Ipv4Repr {
        src_addr: PEER_IP.into(),
        dst_addr: STACK_IP.into(),
        next_header: IpProtocol::Icmp,
        payload_len: echo.buffer_len(),
        hop_limit: 64,
    };
    bench.send(&ethernet(EthernetProtocol::Ipv4, ip.buffer_len() + echo.buffer_len(), |buffer| {
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut *buffer), &checksums);
        echo.emit(&mut Icmpv4Packet::new_unchecked(&mut buffer[ip.buffer_len()..]), &checksums);
    }));
    let frames = bench.turn();
    let frame = EthernetFrame::new_checked(&frames[0]).expect("a frame");
    assert_eq!(frame.dst_addr().0, PEER_MAC);
    let packet = Ipv4Packet::new_checked(frame.payload()).expect("a packet");
    let message = Icmpv4Packet::new_checked(packet.payload()).expect("a message");
    let expected = Icmpv4Repr::EchoReply { ident: 7, seq_no: 3, data: &payload };
    assert_eq!(Icmpv4Repr::parse(&message, &checksums), Ok(expected));
}

#[test]
fn a_port_nobody_listens_on_answers_with_rst() {
    let mut bench = Bench::acquainted();
    let answers = bench.exchange(&Seg { port: 5000, seq: 77, syn: true, ..Seg::default() });
    assert!(answers.len() == 1 && answers[0].rst && answers[0].ack == Some(78), "{answers:?}");
    let stray = Seg { port: 5000, seq: 77, ack: Some(1234), ..Seg::default() };
    let answers = bench.exchange(&stray);
    assert!(answers.len() == 1 && answers[0].rst && answers[0].seq == 1234, "{answers:?}");
    let reset = Seg { rst: true, ..stray };
    assert!(bench.exchange(&reset).is_empty(), "a reset is never answered");
    assert_eq!(bench.stack.stats().resets_sent, 2);
}

#[test]
fn half_open_connections_time_out() {
    let mut bench = Bench::acquainted();
    let _listener = StackListener::bind(&bench.stack, listen_address(), 8).expect("free");
    bench.exchange(&Seg { port: 5000, seq: 1, syn: true, ..Seg::default() });
    assert_eq!(bench.stack.stats().connections, 1);
    let mut answers = Vec::new();
    for _ in 0..40 {
        bench.wait(Duration::from_secs(1));
        answers.extend(bench.turn().iter().filter_map(|frame| Seg::parse(frame)));
    }
    assert_eq!(bench.stack.stats().connections, 0);
    assert!(answers.iter().filter(|seg| seg.syn).count() >= 3, "the SYN|ACK is repeated: {answers:?}");
}

/// Closes a connection from the stack's side and returns its last FIN's answer: the stack is then
/// in TIME-WAIT.
fn close_actively(bench: &mut Bench) -> (Seg, i32) {
    let listener = StackListener::bind(&bench.stack, listen_address(), 8).expect("free");
    let (seq, ack) = bench.handshake(5000);
    drop(accept(&listener));
    std::mem::forget(listener);
    let fins: Vec<_> = bench.turn().iter().filter_map(|frame| Seg::parse(frame)).collect();
    assert!(fins.len() == 1 && fins[0].fin && fins[0].seq == ack, "{fins:?}");
    let fin = Seg { port: 5000, seq, ack: Some(ack.wrapping_add(1)), fin: true, ..Seg::default() };
    let answers = bench.exchange(&fin);
    assert!(answers.len() == 1 && answers[0].ack == Some(seq + 1), "{answers:?}");
    (fin, seq + 1)
}

#[test]
fn time_wait_holds_no_connection_answers_a_repeated_fin_and_ends() {
    let mut bench = Bench::acquainted();
    let (fin, acked) = close_actively(&mut bench);
    let stats = bench.stack.stats();
    assert_eq!((stats.connections, stats.time_wait), (0, 1));
    let answers = bench.exchange(&fin);
    assert!(answers.len() == 1 && answers[0].ack == Some(acked) && !answers[0].rst, "{answers:?}");
    assert_eq!(Some(answers[0].seq), fin.ack);
    let reset = Seg { fin: false, rst: true, ..fin.clone() };
    assert!(bench.exchange(&reset).is_empty());
    assert_eq!(bench.stack.stats().time_wait, 1, "a reset does not end TIME-WAIT (RFC 1337)");
    bench.wait(Duration::from_secs(31));
    let answers = bench.exchange(&fin);
    assert!(answers.len() == 1 && answers[0].rst, "{answers:?}");
    assert_eq!(bench.stack.stats().time_wait, 0);
}

#[test]
fn time_wait_gives_way_to_a_new_connection_with_later_numbers_only() {
    let mut bench = Bench::acquainted();
    let (_, acked) = close_actively(&mut bench);
    let old = bench.exchange(&Seg { port: 5000, seq: acked - 500, syn: true, ..Seg::default() });
    assert!(old.len() == 1 && !old[0].syn && old[0].ack == Some(acked), "{old:?}");
    let new = bench.exchange(&Seg { port: 5000, seq: acked + 5000, syn: true, ..Seg::default() });
    assert!(new.len() == 1 && new[0].syn && new[0].ack == Some(acked + 5001), "{new:?}");
    assert_eq!(bench.stack.stats().time_wait, 0);
}

#[test]
fn initial_sequence_numbers_do_not_repeat_and_depend_on_the_tuple() {
    let mut bench = Bench::acquainted();
    let _listener = StackListener::bind(&bench.stack, listen_address(), 100).expect("free");
    let mut numbers: Vec<i32> = (0..50)
        .map(|port| bench.exchange(&Seg { port: 5000 + port, seq: 1, syn: true, ..Seg::default() })[0].seq)
        .collect();
    let steps: Vec<i32> = numbers.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 50);
    assert!(steps.iter().filter(|step| (-100_000..100_000).contains(*step)).count() < 3, "{steps:?}");
}

#[test]
fn data_sent_after_a_stream_was_dropped_is_answered_with_rst() {
    let mut bench = Bench::acquainted();
    let listener = StackListener::bind(&bench.stack, listen_address(), 8).expect("free");
    let (seq, ack) = bench.handshake(5000);
    let stream = accept(&listener);
    assert_eq!(stream.try_write(b"goodbye").expect("it stands"), Some(7));
    drop(stream);
    let sent: Vec<_> = bench.turn().iter().filter_map(|frame| Seg::parse(frame)).collect();
    assert!(sent.iter().any(|seg| seg.fin) && sent.iter().any(|seg| seg.payload == b"goodbye"), "{sent:?}");
    let acked = Some(ack.wrapping_add(8));
    assert!(bench.exchange(&Seg { port: 5000, seq, ack: acked, ..Seg::default() }).is_empty());
    let more = Seg { port: 5000, seq, ack: acked, payload: b"more".to_vec(), ..Seg::default() };
    let answers = bench.exchange(&more);
    assert!(answers.iter().any(|seg| seg.rst), "{answers:?}");
    assert_eq!(bench.stack.stats().connections, 0);
}

#[test]
fn small_writes_go_out_at_once_unless_nagle_gathers_them() {
    for nodelay in [None, Some(true), Some(false)] {
        let mut bench = Bench::acquainted();
        let listener = StackListener::bind(&bench.stack, listen_address(), 8).expect("free");
        bench.handshake(5000);
        let stream = accept(&listener);
        if let Some(nodelay) = nodelay {
            stream.set_nodelay(nodelay).expect("it stands");
        }
        let mut payloads = Vec::new();
        for byte in 0..3u8 {
            assert_eq!(stream.try_write(&[byte]).expect("it stands"), Some(1));
            payloads.extend(bench.turn().iter().filter_map(|frame| Seg::parse(frame)).map(|seg| seg.payload));
        }
        let expected: &[&[u8]] = if nodelay == Some(false) { &[&[0]] } else { &[&[0], &[1], &[2]] };
        assert_eq!(payloads, expected, "set_nodelay: {nodelay:?}");
    }
}
