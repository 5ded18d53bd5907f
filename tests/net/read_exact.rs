//! Reads that fill their buffer, over every kind of stream.

use std::future::Future;
use std::net::Shutdown;

use boson::mem::IoBuf;
use boson::net::{PipeReader, TcpListener, TcpStream, UnixStream, pipe};
use boson::rt;
use boson::{BufError, ErrorKind};

/// Reads 10 bytes that arrive in three parts, then more than there are.
async fn is_exact<R>(
    mut read: impl FnMut(Vec<u8>) -> R,
    write: impl AsyncFn(&'static [u8]),
    end: impl FnOnce(),
) where
    R: Future<Output = Result<Vec<u8>, BufError<Vec<u8>>>>,
{
    let mut buf = Vec::with_capacity(10);
    assert_eq!(buf.capacity(), 10);
    // What is in the buffer is overwritten.
    buf.extend_from_slice(b"old");
    let parts = async {
        for part in [&b"01"[..], b"2345678", b"9abc"] {
            write(part).await;
            rt::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    let (buf, ()) = futures_util::join!(read(buf), parts);
    assert_eq!(buf.expect("ten bytes came"), b"0123456789");
    assert_eq!(read(Vec::new()).await.expect("nothing is asked for"), b"");

    end();
    let error = read(Vec::with_capacity(10)).await.expect_err("three bytes are left");
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(error.to_string().contains("ended before the buffer was full"), "{error}");
    assert_eq!(error.into_parts().1, b"abc");
}

/// Fills the middle of a buffer, and converts the error by `?`.
async fn middle(stream: &TcpStream) -> boson::Result<Vec<u8>> {
    Ok(stream.read_exact(vec![b'.'; 6].slice(2..4)).await?.into_inner())
}

#[test]
fn tcp_reads_are_exact() {
    boson::run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let near = TcpStream::connect(listener.local_addr()).await.expect("it listens");
        let (far, _) = listener.accept().await.expect("a connection");
        far.write_all(&b"xy"[..]).await.expect("written");
        assert_eq!(middle(&near).await.expect("two bytes"), b"..xy..");
        let write = async |part| {
            far.write_all(part).await.expect("written");
        };
        is_exact(|buf| near.read_exact(buf), write, || far.shutdown(Shutdown::Write).expect("open")).await;
        assert_eq!(middle(&near).await.expect_err("it ended").kind(), ErrorKind::Closed);
    });
}

#[test]
fn unix_reads_are_exact() {
    boson::run(async {
        let (near, far) = UnixStream::pair().expect("a pair");
        let write = async |part| {
            far.write_all(part).await.expect("written");
        };
        is_exact(|buf| near.read_exact(buf), write, || far.shutdown(Shutdown::Write).expect("open")).await;
    });
}

#[test]
fn pipe_reads_are_exact() {
    boson::run(async {
        let (reader, writer) = pipe().expect("a pipe");
        let writer = std::cell::RefCell::new(Some(std::rc::Rc::new(writer)));
        let write = async |part| {
            let writer = writer.borrow().clone().expect("open");
            writer.write_all(part).await.expect("written");
        };
        is_exact(|buf| PipeReader::read_exact(&reader, buf), write, || drop(writer.take())).await;
    });
}

#[test]
fn a_buffer_of_another_kind_is_filled_too() {
    boson::run(async {
        let (near, far) = UnixStream::pair().expect("a pair");
        far.write_all(&b"0123"[..]).await.expect("written");
        let buf = near.read_exact(vec![0; 4].into_boxed_slice()).await.expect("four bytes");
        assert_eq!(&buf[..], b"0123");
    });
}
