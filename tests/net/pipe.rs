//! Pipes, over both reactors: what is written is read in its order, also by whoever comes after a
//! dropped read, to the end.

use crate::counting;
use crate::support::parts::{Parts, PartsAll};
use std::future::poll_fn;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::pin::pin;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use boson::ErrorKind;
use boson::net::{PipeReader, PipeWriter, pipe};
use boson::rt::reactor::ReactorChoice;
use boson::rt::{self, Core, CoreConfig};

/// Runs the program on io_uring (on epoll where that is forbidden), and on epoll.
fn run<F: Future<Output = ()>>(program: impl Fn() -> F) {
    for reactor in [ReactorChoice::Auto, ReactorChoice::Epoll] {
        let config = CoreConfig::default().seed([9; 32]).reactor(reactor);
        let core = Core::new(&config).expect("a core");
        let limit = Duration::from_secs(60);
        core.block_on(async { rt::timeout(limit, program()).await.expect("nothing hangs") });
    }
}

fn pattern(len: u32) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

async fn read_to_end(reader: &PipeReader) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buf = Vec::with_capacity(4096);
    loop {
        buf.clear();
        let (result, back) = reader.read(buf).await.parts();
        buf = back;
        if result.expect("read") == 0 {
            return all;
        }
        all.extend_from_slice(&buf);
    }
}

#[test]
fn bytes_arrive_in_order_and_then_the_end() {
    run(async || {
        let (reader, writer) = pipe().expect("descriptors");
        // Far more than a pipe holds: the writer has to wait for room.
        let sent = pattern(3_000_000);
        let expected = sent.clone();
        let writing = rt::named("writer").spawn(async move { writer.write_all(sent).await.parts_all().0 });
        assert!(read_to_end(&reader).await == expected, "bytes were lost or reordered");
        writing.await.expect("no panic").expect("write");
        assert_eq!(reader.read(Vec::with_capacity(8)).await.expect("still the end").0, 0);
        let without_room = polled_at_most(reader.read(Vec::new()), 1).await;
        assert_eq!(without_room.expect("nobody is asked").parts().0.expect("no room is no end"), 0);
    });
}

#[test]
fn writing_to_nobody_is_an_error_and_no_signal() {
    run(async || {
        let (reader, writer) = pipe().expect("descriptors");
        let waiting =
            rt::named("writer").spawn(async move { writer.write_all(vec![0; 1 << 20]).await.parts_all().0 });
        rt::sleep(Duration::from_millis(5)).await;
        drop(reader);
        let error = waiting.await.expect("no panic").expect_err("nobody reads");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Closed, Some(libc::EPIPE)));
    });
}

/// What `future` comes to if that takes no more than `polls`.
async fn polled_at_most<F: Future>(future: F, polls: u32) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Pending if left == 0 => Poll::Ready(None),
            polled => polled.map(Some),
        }
    })
    .await
}

#[test]
fn dropped_reads_lose_no_byte() {
    run(async || {
        let (reader, writer) = pipe().expect("descriptors");
        let sent = pattern(200_000);
        let expected = sent.clone();
        let writing = rt::named("writer").spawn(async move {
            for (at, piece) in sent.chunks(499).enumerate() {
                writer.write_all(piece.to_vec()).await.expect("write");
                if at % 3 == 0 {
                    rt::sleep(Duration::from_micros(50)).await;
                }
            }
        });
        let (mut received, mut dropped, mut attempt) = (Vec::new(), 0, 0);
        while received.len() < expected.len() {
            attempt += 1;
            let read = reader.read(Vec::with_capacity(300));
            // Polled this many times, not for so long: that is the same on a busy machine.
            match polled_at_most(read, attempt % 4).await.map(Parts::parts) {
                Some((result, bytes)) => {
                    assert_ne!(result.expect("read"), 0, "the end came early");
                    received.extend_from_slice(&bytes);
                }
                None => {
                    dropped += 1;
                    rt::yield_now().await;
                }
            }
        }
        assert!(received == expected, "bytes were lost or reordered");
        assert!(dropped > 50, "only {dropped} reads were dropped: the test shows nothing");
        writing.await.expect("no panic");
        assert_eq!(read_to_end(&reader).await, b"");
    });
}

/// Its end is no end forever, also if a read that was dropped was told of it.
#[test]
fn a_named_pipe_that_is_opened_again_goes_on() {
    run(async || {
        let path = std::env::temp_dir().join(format!("boson-named-pipe-{}", std::process::id()));
        let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
        assert!(made.success());
        let open = |write: bool| {
            let mut options = std::fs::OpenOptions::new();
            options.read(!write).write(write).custom_flags(libc::O_NONBLOCK).open(&path).expect("open")
        };
        let reader = PipeReader::from_descriptor(open(false)).expect("a pipe");
        let writer = open(true);
        let mut waits = Box::pin(reader.read(Vec::with_capacity(8)));
        assert!(rt::timeout(Duration::from_millis(2), &mut waits).await.is_err(), "nothing is written");
        drop(writer);
        // Not polled when the kernel told the end.
        rt::sleep(Duration::from_millis(5)).await;
        drop(waits);
        for _ in 0..2 {
            // One is from the dropped read, one from the kernel.
            assert_eq!(reader.read(Vec::with_capacity(8)).await.expect("the end").0, 0);
        }
        let mut writer = open(true);
        writer.write_all(b"again").expect("there is room");
        let (result, bytes) = reader.read(Vec::with_capacity(8)).await.parts();
        assert_eq!((result.expect("read"), &bytes[..]), (5, &b"again"[..]));
        std::fs::remove_file(&path).expect("removed");
    });
}

#[test]
fn other_threads_and_processes_are_at_the_other_end() {
    run(async || {
        let (theirs, ours) = std::io::pipe().expect("descriptors");
        let writer = PipeWriter::from_descriptor(ours).expect("a pipe");
        let thread = std::thread::spawn(move || {
            let mut all = Vec::new();
            let mut theirs = theirs;
            theirs.read_to_end(&mut all).expect("read");
            all
        });
        writer.write_all(pattern(300_000)).await.expect("write");
        drop(writer);
        assert!(thread.join().expect("no panic") == pattern(300_000));

        let mut child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cat runs");
        let input = PipeWriter::from_descriptor(child.stdin.take().expect("piped")).expect("a pipe");
        let output = PipeReader::from_descriptor(child.stdout.take().expect("piped")).expect("a pipe");
        let writing =
            rt::named("writer").spawn(async move { input.write_all(pattern(500_000)).await.parts_all().0 });
        assert!(read_to_end(&output).await == pattern(500_000));
        writing.await.expect("no panic").expect("write");
        child.wait().expect("it ends");
    });
}

#[test]
fn a_descriptor_may_have_been_non_blocking_and_must_be_a_pipes() {
    run(async || {
        let (theirs, mut ours) = std::io::pipe().expect("descriptors");
        rustix::io::ioctl_fionbio(&theirs, true).expect("a descriptor");
        let reader = PipeReader::from_descriptor(theirs).expect("a pipe");
        let reading = rt::named("reader").spawn(async move { reader.read(Vec::with_capacity(8)).await });
        rt::sleep(Duration::from_millis(5)).await;
        ours.write_all(b"late").expect("there is room");
        assert_eq!(reading.await.expect("no panic").parts().1, b"late");

        // An older kernel says at once that there is nothing, which is no news for the next read.
        let (theirs, mut ours) = std::io::pipe().expect("descriptors");
        rustix::io::ioctl_fionbio(&theirs, true).expect("a descriptor");
        let reader = PipeReader::from_descriptor(theirs).expect("a pipe");
        assert!(polled_at_most(reader.read(Vec::with_capacity(8)), 1).await.is_none(), "nothing is written");
        rt::sleep(Duration::from_millis(5)).await;
        ours.write_all(b"later").expect("there is room");
        assert_eq!(reader.read(Vec::with_capacity(8)).await.parts().1, b"later");

        let file: OwnedFd = std::fs::File::open("/dev/null").expect("it is everywhere").into();
        let error = PipeReader::from_descriptor(file).expect_err("no pipe");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

/// Whether a descriptor blocks is shared by all that were made of it: a second handle must not have
/// the core wait inside a call for the first one.
#[test]
fn a_second_handle_to_an_end_does_not_hold_up_the_core() {
    run(async || {
        let soon = Duration::from_millis(20);
        let (theirs, mut ours) = std::io::pipe().expect("descriptors");
        let first = PipeReader::from_descriptor(theirs.try_clone().expect("a descriptor")).expect("a pipe");
        assert!(rt::timeout(soon, first.read(Vec::with_capacity(8))).await.is_err(), "nothing is written");
        let second = PipeReader::from_descriptor(theirs).expect("a pipe");
        ours.write_all(b"x").expect("there is room");
        assert_eq!(first.read(Vec::with_capacity(8)).await.parts().1, b"x");
        // Ends the wait of a core that is held up, and the test with it.
        let rescue = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(1));
            ours.write_all(b"y").expect("there is room");
        });
        let waited = rt::timeout(soon, first.read(Vec::with_capacity(8))).await;
        assert!(waited.is_err(), "the core waited for the thread");
        assert_eq!(second.read(Vec::with_capacity(8)).await.parts().1, b"y");
        rescue.join().expect("no panic");

        let (mut theirs, ours) = std::io::pipe().expect("descriptors");
        let first = PipeWriter::from_descriptor(ours.try_clone().expect("a descriptor")).expect("a pipe");
        let filled = rt::timeout(soon, first.write_all(vec![0; 1 << 20])).await;
        assert!(filled.is_err(), "nobody reads");
        let second = PipeWriter::from_descriptor(ours).expect("a pipe");
        let rescue = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(1));
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).expect("read");
        });
        let waited = rt::timeout(soon, first.write(vec![0; 1 << 16])).await;
        assert!(waited.is_err(), "the core waited for the thread");
        second.write_all(vec![0; 1 << 16]).await.expect("write");
        drop((first, second));
        rescue.join().expect("no panic");
    });
}

/// Tokens in a pipe, as those of make's job server, which several tasks wait for.
#[test]
fn a_read_in_flight_gets_what_a_dropped_one_read() {
    run(async || {
        for round in 0..20 {
            let (reader, mut ours) = {
                let (theirs, ours) = std::io::pipe().expect("descriptors");
                (Rc::new(PipeReader::from_descriptor(theirs).expect("a pipe")), ours)
            };
            let read = || {
                let reader = Rc::clone(&reader);
                Box::pin(async move { reader.read(Vec::with_capacity(1)).await })
            };
            // Which of two the kernel serves is its own affair.
            let (mut first, second) = (read(), read());
            let soon = Duration::from_micros(100);
            let second = if round % 2 == 0 {
                let second = rt::named("second").spawn(second);
                rt::sleep(Duration::from_millis(1)).await;
                assert!(rt::timeout(soon, &mut first).await.is_err(), "nothing is written");
                second
            } else {
                assert!(rt::timeout(soon, &mut first).await.is_err(), "nothing is written");
                rt::named("second").spawn(second)
            };
            rt::sleep(Duration::from_millis(1)).await;
            ours.write_all(b"+").expect("there is room");
            // The first one's operation has it by then.
            rt::sleep(Duration::from_millis(1)).await;
            drop(first);
            let (result, bytes) = rt::timeout(Duration::from_secs(5), second)
                .await
                .expect("it gets what the first one did")
                .expect("no panic")
                .parts();
            assert_eq!((result.expect("read"), &bytes[..]), (1, &b"+"[..]));
        }
    });
}

/// What the dropped one read comes before the end that the other one meets, which is told once
/// after it.
#[test]
fn a_read_in_flight_does_not_meet_the_end_before_what_a_dropped_one_read() {
    run(async || {
        for drops_first in [true, false] {
            let (theirs, mut ours) = std::io::pipe().expect("descriptors");
            let reader = PipeReader::from_descriptor(theirs).expect("a pipe");
            let read = || Box::pin(reader.read(Vec::with_capacity(8)));
            let (mut first, mut second) = (read(), read());
            let soon = Duration::from_millis(5);
            let both = async { futures_util::future::join(&mut first, &mut second).await };
            assert!(rt::timeout(soon, both).await.is_err(), "nothing is written");
            ours.write_all(b"+").expect("there is room");
            drop(ours);
            // Nobody looks before both are done, in whichever order the kernel serves them.
            rt::sleep(soon).await;
            let (dropped, left) = if drops_first { (first, second) } else { (second, first) };
            drop(dropped);
            let (result, bytes) = left.await.parts();
            assert_eq!((result.expect("read"), &bytes[..]), (1, &b"+"[..]));
            assert_eq!(reader.read(Vec::with_capacity(8)).await.expect("the end").0, 0);
        }
    });
}

#[test]
fn steady_state_allocates_nothing() {
    run(async || {
        let (reader, writer) = pipe().expect("descriptors");
        let (mut out, mut buf) = (vec![7; 100], Vec::with_capacity(100));
        let mut before = 0;
        for round in 0..1100 {
            if round == 100 {
                before = counting::allocations();
            }
            let (written, back) = writer.write(out).await.parts();
            assert_eq!(written.expect("write"), 100);
            out = back;
            buf.clear();
            let (read, back) = reader.read(buf).await.parts();
            assert_eq!(read.expect("read"), 100);
            buf = back;
        }
        assert_eq!(counting::allocations() - before, 0);
        // The control.
        let before = counting::allocations();
        drop(std::hint::black_box(vec![0; 100]));
        assert_eq!(counting::allocations() - before, 1, "the counter does not count");
    });
}
