//! The I/O traits of other ecosystems on boson's sockets: one suite over every family of traits and
//! every kind of socket.

use crate::support::parts::Parts;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use boson::compat::{BufferSizes, FuturesIo, HyperIo, TokioIo};
use boson::net::address::IpCidr;
use boson::net::device::MemoryDevice;
use boson::net::stack::StackConfig;
use boson::net::{Net, RemoteStream, TcpListener, TcpStream};
use boson::rt::{self, Core, CoreConfig, CoreThread};

/// What the suite asks of a family of traits. The provided functions are what its extension traits
/// would do.
trait Io: Sized + 'static {
    fn wrap(socket: TcpStream, sizes: BufferSizes) -> Self;
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    async fn unwrap_socket(self) -> boson::Result<(TcpStream, Vec<u8>)>;

    async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = poll_fn(|cx| self.poll_write(cx, bytes)).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_shutdown(cx)).await
    }

    async fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        let mut buf = vec![0; 40_000];
        loop {
            match self.read(&mut buf).await? {
                0 => return Ok(all),
                read => all.extend_from_slice(&buf[..read]),
            }
        }
    }
}

macro_rules! write_half {
    ($shutdown:ident, $($trait:tt)+) => {
        async fn unwrap_socket(self) -> boson::Result<(TcpStream, Vec<u8>)> {
            self.into_inner().await
        }

        fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            $($trait)+::poll_write(Pin::new(self), cx, bytes)
        }

        fn poll_write_vectored(
            &mut self,
            cx: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            $($trait)+::poll_write_vectored(Pin::new(self), cx, pieces)
        }

        fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            $($trait)+::poll_flush(Pin::new(self), cx)
        }

        fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            $($trait)+::$shutdown(Pin::new(self), cx)
        }
    };
}

impl Io for TokioIo<TcpStream> {
    fn wrap(socket: TcpStream, sizes: BufferSizes) -> Self {
        Self::with_buffers(socket, sizes)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = tokio::io::ReadBuf::new(buf);
        tokio::io::AsyncRead::poll_read(Pin::new(self), cx, &mut buf).map_ok(|()| buf.filled().len())
    }

    write_half!(poll_shutdown, tokio::io::AsyncWrite);
}

impl Io for FuturesIo<TcpStream> {
    fn wrap(socket: TcpStream, sizes: BufferSizes) -> Self {
        Self::with_buffers(socket, sizes)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        futures_util::AsyncRead::poll_read(Pin::new(self), cx, buf)
    }

    write_half!(poll_close, futures_util::AsyncWrite);
}

impl Io for HyperIo<TcpStream> {
    fn wrap(socket: TcpStream, sizes: BufferSizes) -> Self {
        Self::with_buffers(socket, sizes)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = hyper::rt::ReadBuf::new(buf);
        hyper::rt::Read::poll_read(Pin::new(self), cx, buf.unfilled()).map_ok(|()| buf.filled().len())
    }

    write_half!(poll_shutdown, hyper::rt::Write);
}

/// What the sockets need to live.
type Owner = Option<CoreThread>;

/// A kind of socket.
trait Wire {
    async fn pair() -> (TcpStream, TcpStream, Owner);
}

struct Kernel;
struct Stack;
struct Remote;

async fn connect(net: &Net, listener: &TcpListener) -> (TcpStream, TcpStream, Owner) {
    let near = TcpStream::connect_on(net, listener.local_addr()).await.expect("connected");
    let (far, _) = listener.accept().await.expect("accepted");
    (near, far, None)
}

impl Wire for Kernel {
    async fn pair() -> (TcpStream, TcpStream, Owner) {
        let net = Net::kernel();
        let listener =
            TcpListener::bind_on(&net, SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        connect(&net, &listener).await
    }
}

impl Wire for Stack {
    async fn pair() -> (TcpStream, TcpStream, Owner) {
        let (a, b) = MemoryDevice::pair([[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]], 1500, 256);
        let net = |device, host: u8| {
            let own = IpCidr::new([10, 0, 0, host].into(), 24).expect("a prefix");
            Net::on_device(Box::new(device), StackConfig::default().addresses([own]).seed([host; 32]))
                .expect("a stack")
        };
        let (client, server) = (net(a, 1), net(b, 2));
        let listener =
            TcpListener::bind_on(&server, SocketAddr::from(([10, 0, 0, 2], 7))).expect("the port is free");
        connect(&client, &listener).await
    }
}

impl Wire for Remote {
    /// Both sockets are another core's.
    async fn pair() -> (TcpStream, TcpStream, Owner) {
        let config = CoreConfig::default().seed([8; 32]);
        let owner = CoreThread::start("owner", &config).expect("a thread");
        let (near, far) = rt::named("pair")
            .spawn_on(owner.handle(), || async {
                let (near, far, _) = Kernel::pair().await;
                (RemoteStream::lend(near), RemoteStream::lend(far))
            })
            .await
            .expect("no panic");
        (near.into(), far.into(), Some(owner))
    }
}

fn run<F: Future>(future: F) -> F::Output {
    let core = Core::new(&CoreConfig::default().seed([9; 32])).expect("a core");
    let limit = Duration::from_secs(60);
    core.block_on(async { rt::timeout(limit, future).await.expect("nothing hangs") })
}

const SMALL: BufferSizes = BufferSizes { read: 1000, write: 3000 };

/// Bytes that show it when some are missing, twice there or out of order.
fn pattern(len: usize) -> Vec<u8> {
    (0..u32::try_from(len).expect("small")).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

async fn wrapped<I: Io, W: Wire>(sizes: BufferSizes) -> (I, I, Owner) {
    let (near, far, owner) = W::pair().await;
    (I::wrap(near, sizes), I::wrap(far, sizes), owner)
}

/// Sends `bytes` and reads to the end at the same time, in reads of `at_a_time` bytes.
async fn exchange<I: Io>(io: &mut I, bytes: &[u8], at_a_time: usize) -> io::Result<Vec<u8>> {
    let mut received = Vec::new();
    let mut buf = vec![0; at_a_time];
    let (mut sent, mut is_shut_down, mut has_ended) = (0, false, false);
    poll_fn(|cx| {
        while !is_shut_down {
            if sent < bytes.len() {
                let Poll::Ready(written) = io.poll_write(cx, &bytes[sent..])? else { break };
                assert_ne!(written, 0, "a write of nothing");
                sent += written;
            } else if io.poll_shutdown(cx)?.is_ready() {
                is_shut_down = true;
            } else {
                break;
            }
        }
        while !has_ended {
            let Poll::Ready(read) = io.poll_read(cx, &mut buf)? else { break };
            received.extend_from_slice(&buf[..read]);
            has_ended = read == 0;
        }
        if is_shut_down && has_ended { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
    .map(|()| received)
}

async fn tiny_reads_get_every_byte<I: Io, W: Wire>() {
    let (mut near, mut far, _owner) = wrapped::<I, W>(SMALL).await;
    let sent = pattern(20_000);
    near.write_all(&sent).await.expect("write");
    near.flush().await.expect("flush");
    assert_eq!(far.read(&mut []).await.expect("an empty read waits for nothing"), 0);
    let mut received = Vec::new();
    let mut buf = [0; 7];
    for size in (1..=buf.len()).cycle() {
        let read = far.read(&mut buf[..size]).await.expect("read");
        assert!((1..=size).contains(&read));
        received.extend_from_slice(&buf[..read]);
        if received.len() == sent.len() {
            break;
        }
    }
    assert!(received == sent, "bytes were lost or reordered");
}

async fn each_half_closes_alone<I: Io, W: Wire>() {
    let (mut near, mut far, _owner) = wrapped::<I, W>(BufferSizes::default()).await;
    near.write_all(b"question").await.expect("write");
    near.shutdown().await.expect("shutdown");
    near.shutdown().await.expect("a second one changes nothing");
    let late = near.write_all(b"more").await.expect_err("the half is closed");
    assert_eq!(late.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(far.read_to_end().await.expect("read"), b"question");
    assert_eq!(far.read(&mut [0; 10]).await.expect("the end stays"), 0);
    far.write_all(b"answer").await.expect("the other half is open");
    far.shutdown().await.expect("shutdown");
    assert_eq!(near.read_to_end().await.expect("read"), b"answer");
}

async fn long_transfers_cross<I: Io, W: Wire>() {
    for at_a_time in [700, 64_000] {
        let (mut near, mut far, _owner) = wrapped::<I, W>(SMALL).await;
        let (there, back) = (pattern(2_000_000), pattern(1_500_001));
        let (far_sends, far_expects) = (back.clone(), there.clone());
        let other = rt::named("far").spawn(async move {
            assert!(exchange(&mut far, &far_sends, at_a_time).await.expect("exchange") == far_expects);
        });
        assert!(exchange(&mut near, &there, at_a_time).await.expect("exchange") == back);
        other.await.expect("no panic");
    }
}

async fn a_socket_comes_back_with_what_was_not_read<I: Io, W: Wire>() {
    let (mut near, mut far, owner) = wrapped::<I, W>(SMALL).await;
    far.write_all(b"switch").await.expect("write");
    far.flush().await.expect("flush");
    let mut taken = [0; 2];
    assert_eq!(near.read(&mut taken).await.expect("read"), 2);
    // The last of it is with the adapter's task when the socket is asked for.
    let sent = pattern(1_000_000);
    let expected = sent.clone();
    let writer = rt::named("writer").spawn(async move {
        near.write_all(&sent).await.expect("write");
        near.unwrap_socket().await.expect("everything was written")
    });
    let mut received = vec![0; expected.len()];
    let mut at = 0;
    while at < received.len() {
        at += far.read(&mut received[at..]).await.expect("read");
    }
    assert!(received == expected, "bytes were lost or reordered");
    let (near, rest) = writer.await.expect("no panic");
    assert_eq!([&taken[..], &rest].concat(), b"switch");
    // A read that waits is given up without a loss, but for those of another core's socket.
    if owner.is_none() {
        assert!(rt::timeout(Duration::from_millis(1), far.read(&mut taken)).await.is_err());
    }
    let (far, rest) = far.unwrap_socket().await.expect("nothing was to be written");
    assert_eq!(rest, b"");
    near.write_all(b"bare".to_vec()).await.expect("write");
    let (read, bytes) = far.read(Vec::with_capacity(10)).await.parts();
    assert_eq!((read.expect("read"), &bytes[..]), (4, &b"bare"[..]));
}

async fn reads_that_are_given_up_lose_nothing<I: Io, W: Wire>() {
    let (mut near, mut far, _owner) = wrapped::<I, W>(SMALL).await;
    let sent = pattern(100_000);
    let expected = sent.clone();
    let writer = rt::named("writer").spawn(async move {
        for (at, piece) in sent.chunks(997).enumerate() {
            near.write_all(piece).await.expect("write");
            if at % 3 == 0 {
                rt::sleep(Duration::from_millis(2)).await;
            }
        }
        near
    });
    let mut received = Vec::new();
    let mut buf = [0; 500];
    let mut given_up = 0;
    while received.len() < expected.len() {
        // Every other time only what is there already counts, however fast the writer is.
        let patience = Duration::from_micros(20 * (given_up % 2));
        match rt::timeout(patience, far.read(&mut buf)).await {
            Ok(read) => {
                let read = read.expect("read");
                assert_ne!(read, 0, "the stream ended early");
                received.extend_from_slice(&buf[..read]);
            }
            Err(_) => given_up += 1,
        }
    }
    writer.await.expect("no panic");
    assert!(received == expected, "bytes were lost or reordered");
    assert!(given_up > 10, "only {given_up} reads were given up: the test shows nothing");
}

/// Fills the connection until a write waits; then drops the adapter without a flush. Everything
/// that was accepted arrives.
async fn a_slow_reader_stops_writes_and_a_drop_delivers_them<I: Io, W: Wire>() {
    const MOST: usize = 64 << 20;
    let (mut near, mut far, _owner) = wrapped::<I, W>(SMALL).await;
    let piece = pattern(10_007);
    let mut accepted = 0;
    loop {
        let at = accepted % piece.len();
        let write = poll_fn(|cx| near.poll_write(cx, &piece[at..]));
        let Ok(written) = rt::timeout(Duration::from_millis(100), write).await else { break };
        accepted += written.expect("write");
        assert!(accepted < MOST, "writes never wait");
    }
    drop(near);
    let received = far.read_to_end().await.expect("read");
    assert_eq!(received.len(), accepted);
    assert!(received.chunks(piece.len()).all(|chunk| piece.starts_with(chunk)), "bytes were reordered");
}

/// What was written arrives although the writer does nothing more, not even a flush.
async fn buffered_bytes_leave_by_themselves<I: Io, W: Wire>() {
    let (mut near, mut far, _owner) = wrapped::<I, W>(BufferSizes { read: 1000, write: 1 << 20 }).await;
    let sent = pattern(8 << 20);
    let mut accepted = 0;
    while accepted < sent.len() {
        let write = poll_fn(|cx| near.poll_write(cx, &sent[accepted..]));
        let Ok(written) = rt::timeout(Duration::from_millis(50), write).await else { break };
        accepted += written.expect("write");
    }
    let mut received = Vec::new();
    let mut buf = vec![0; 100_000];
    while received.len() < accepted {
        let read = far.read(&mut buf).await.expect("read");
        assert_ne!(read, 0, "the stream ended early");
        received.extend_from_slice(&buf[..read]);
    }
    assert!(received == sent[..accepted], "bytes were lost or reordered");
    near.flush().await.expect("everything has left");
}

async fn pieces_leave_in_order<I: Io, W: Wire>() {
    let (mut near, mut far, _owner) = wrapped::<I, W>(SMALL).await;
    let sent = pattern(300_000);
    let expected = sent.clone();
    let writer = rt::named("writer").spawn(async move {
        let mut rest = &sent[..];
        for round in 0.. {
            // Small pieces, large ones, empty ones.
            let sizes = [round % 50, 0, 3, if round % 4 == 0 { 5000 } else { 100 }, round % 7];
            let mut at = 0;
            let pieces = sizes.map(|size| {
                let piece = &rest[at.min(rest.len())..(at + size).min(rest.len())];
                at += size;
                IoSlice::new(piece)
            });
            let written = poll_fn(|cx| near.poll_write_vectored(cx, &pieces)).await.expect("write");
            rest = &rest[written..];
            if rest.is_empty() {
                break;
            }
            assert_ne!(written, 0, "pieces were not written");
        }
        near.shutdown().await.expect("shutdown");
        near
    });
    assert!(far.read_to_end().await.expect("read") == expected, "bytes were lost or reordered");
    writer.await.expect("no panic");
}

async fn a_reset_is_an_error_with_its_cause<I: Io, W: Wire>() {
    let (near, far, _owner) = W::pair().await;
    let mut near = I::wrap(near, SMALL);
    let reader = rt::named("reader").spawn(async move {
        let error = near.read(&mut [0; 10]).await.expect_err("the peer reset the connection");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<boson::Error>());
        assert_eq!(cause.and_then(boson::Error::code), Some(104), "ECONNRESET");
        loop {
            if let Err(error) = near.write_all(b"nobody hears this").await {
                let expected = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
                assert!(expected.contains(&error.kind()), "{error:?}");
                break;
            }
            rt::sleep(Duration::from_millis(1)).await;
        }
    });
    rt::sleep(Duration::from_millis(20)).await;
    far.abort();
    reader.await.expect("no panic");
}

/// The task that writes behind the caller's back fails; the caller hears of it.
async fn a_reset_while_bytes_wait_reaches_the_writer<I: Io, W: Wire>() {
    let (near, far, _owner) = W::pair().await;
    let mut near = I::wrap(near, SMALL);
    let writer = rt::named("writer").spawn(async move {
        let bytes = pattern(100_000);
        let mut accepted = 0;
        let error = loop {
            match near.write_all(&bytes).await {
                Ok(()) => accepted += bytes.len(),
                Err(error) => break error,
            }
            assert!(accepted < 1 << 30, "writes never fail");
        };
        let expected = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
        assert!(expected.contains(&error.kind()), "{error:?}");
        near.flush().await.expect_err("it stays failed");
    });
    rt::sleep(Duration::from_millis(200)).await;
    far.abort();
    writer.await.expect("no panic");
}

/// A caller that takes the socket back is told that not all of what was written before has left.
async fn a_reset_while_bytes_wait_reaches_who_wants_the_socket<I: Io, W: Wire>() {
    let (near, far, _owner) = W::pair().await;
    let mut near = I::wrap(near, SMALL);
    let bytes = pattern(100_000);
    let mut written = 0;
    // Until one of them waits: a machine that is busy takes long to fill the buffers of both ends.
    while rt::timeout(Duration::from_secs(1), near.write_all(&bytes)).await.is_ok() {
        written += 1;
        assert!(written < 10_000, "writes never wait");
    }
    let unwrapped = rt::named("who wants the socket").spawn(near.unwrap_socket());
    rt::sleep(Duration::from_millis(5)).await;
    far.abort();
    let error = unwrapped.await.expect("no panic").expect_err("not all was written");
    assert_eq!(error.kind(), boson::ErrorKind::Closed, "{error}");
}

macro_rules! suite {
    ($name:ident, $io:ty, $wire:ty: $($test:ident)+) => {
        mod $name {
            use super::*;

            $(
                #[test]
                fn $test() {
                    run(super::$test::<$io, $wire>());
                }
            )+
        }
    };
}

macro_rules! suites {
    ($($name:ident: $io:ty, $wire:ty;)+) => {
        $(suite!($name, $io, $wire:
            tiny_reads_get_every_byte
            each_half_closes_alone
            long_transfers_cross
            reads_that_are_given_up_lose_nothing
            a_socket_comes_back_with_what_was_not_read
            a_slow_reader_stops_writes_and_a_drop_delivers_them
            buffered_bytes_leave_by_themselves
            pieces_leave_in_order
            a_reset_is_an_error_with_its_cause
            a_reset_while_bytes_wait_reaches_the_writer
            a_reset_while_bytes_wait_reaches_who_wants_the_socket
        );)+
    };
}

suites! {
    tokio_on_kernel: TokioIo<TcpStream>, Kernel;
    tokio_on_stack: TokioIo<TcpStream>, Stack;
    tokio_on_remote: TokioIo<TcpStream>, Remote;
    futures_on_kernel: FuturesIo<TcpStream>, Kernel;
    futures_on_stack: FuturesIo<TcpStream>, Stack;
    futures_on_remote: FuturesIo<TcpStream>, Remote;
    hyper_on_kernel: HyperIo<TcpStream>, Kernel;
    hyper_on_stack: HyperIo<TcpStream>, Stack;
    hyper_on_remote: HyperIo<TcpStream>, Remote;
}

/// Halves of one adapter in different tasks wake each their own.
#[test]
fn tokio_halves_work_in_tasks_of_their_own() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    run(async {
        let (near, far, _) = Kernel::pair().await;
        let (mut reader, mut writer) = tokio::io::split(TokioIo::with_buffers(near, SMALL));
        let echo = rt::named("echo").spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(TokioIo::with_buffers(far, SMALL));
            let copied = tokio::io::copy(&mut reader, &mut writer).await.expect("copy");
            writer.shutdown().await.expect("shutdown");
            copied
        });
        let sent = pattern(3_000_000);
        let expected = sent.clone();
        let writing = rt::named("writer").spawn(async move {
            writer.write_all(&sent).await.expect("write");
            writer.shutdown().await.expect("shutdown");
        });
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.expect("read");
        assert!(received == expected, "bytes were lost or reordered");
        writing.await.expect("no panic");
        assert_eq!(echo.await.expect("no panic"), 3_000_000);
    });
}

#[test]
fn futures_halves_work_in_tasks_of_their_own() {
    use futures_util::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
    run(async {
        let (near, far, _) = Stack::pair().await;
        let (mut reader, mut writer) = FuturesIo::with_buffers(near, SMALL).split();
        let echo = rt::named("echo").spawn(async move {
            let mut far = FuturesIo::with_buffers(far, SMALL);
            // Without a buffer in between: the adapter has one.
            let mut line = String::new();
            while far.read_line(&mut line).await.expect("read") > 0 {
                AsyncWriteExt::write_all(&mut far, line.as_bytes()).await.expect("write");
                line.clear();
            }
            far.close().await.expect("close");
        });
        let lines: String = (0..50_000).map(|i| format!("line {i}\n")).collect();
        let expected = lines.clone();
        let writing = rt::named("writer").spawn(async move {
            writer.write_all(lines.as_bytes()).await.expect("write");
            writer.close().await.expect("close");
        });
        let mut received = String::new();
        reader.read_to_string(&mut received).await.expect("read");
        assert!(received == expected, "bytes were lost or reordered");
        writing.await.expect("no panic");
        echo.await.expect("no panic");
    });
}
