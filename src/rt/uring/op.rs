//! Operations as futures, and the safe constructors for each.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use io_uring::{opcode, squeue, types};

use super::reactor::{Orphan, Reactor, SlotKey};
use crate::mem::{IoBuf, IoBufMut};
use crate::rt::scheduler::with_core;

/// What an operation owns while it is in flight, and what becomes of its result when nobody waits for it any more.
pub(crate) trait Operation: Unpin + 'static {
    /// What the awaiting task gets.
    type Output;

    /// The kernel completed the operation with `result` (a count or descriptor, or a negated errno).
    fn complete(self, result: io::Result<u32>) -> Self::Output;

    /// The same after the future was dropped.
    fn orphaned(self, result: io::Result<u32>);
}

/// An operation in flight. Starts when first polled.
#[must_use = "futures do nothing unless awaited"]
pub(crate) struct Op<O: Operation> {
    operation: Option<O>,
    state: OpState,
}

enum OpState {
    Unstarted(squeue::Entry),
    InFlight { key: SlotKey, reactor: Rc<Reactor> },
    Done,
}

impl<O: Operation> Op<O> {
    /// # Safety
    ///
    /// Every pointer in `entry` points to memory that stays valid and in place, for what the kernel does with it, for as
    /// long as `operation` is not dropped, also while `operation` itself moves.
    unsafe fn new(operation: O, entry: squeue::Entry) -> Self {
        Self { operation: Some(operation), state: OpState::Unstarted(entry) }
    }
}

impl<O: Operation> Future for Op<O> {
    type Output = O::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<O::Output> {
        match &self.state {
            OpState::Unstarted(entry) => {
                let entry = entry.clone();
                let reactor = with_core(|core| Rc::clone(core.reactor()));
                // SAFETY: the entry's memory lives as long as `operation` by the contract of `new`. `operation` is kept in
                // this future until the slot is done, and `drop` gives it to the slot if it is not.
                let key = unsafe { reactor.start(entry, cx.waker().clone()) };
                self.state = OpState::InFlight { key, reactor };
                Poll::Pending
            }
            OpState::InFlight { key, reactor } => {
                let Some(result) = reactor.finish(*key, cx.waker()) else { return Poll::Pending };
                self.state = OpState::Done;
                let operation = self.operation.take().expect("an operation in flight has its value");
                Poll::Ready(operation.complete(from_kernel(result)))
            }
            OpState::Done => panic!("an operation is not polled again after it is done"),
        }
    }
}

impl<O: Operation> Drop for Op<O> {
    fn drop(&mut self) {
        if let OpState::InFlight { key, reactor } = &self.state
            && let Some(operation) = self.operation.take()
        {
            reactor.orphan(*key, Box::new(Orphaned(operation)));
        }
    }
}

struct Orphaned<O>(O);

impl<O: Operation> Orphan for Orphaned<O> {
    fn completed(self: Box<Self>, result: i32) {
        self.0.orphaned(from_kernel(result));
    }
}

fn from_kernel(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// The length of a buffer as the kernel takes it: longer ones are done in part, as reads and writes may be.
fn clamp_len(len: usize) -> u32 {
    // The kernel itself stops at 2 GiB less a page.
    u32::try_from(len).unwrap_or(u32::MAX).min(0x7fff_f000)
}

/// Receives from a socket into `buf`; 0 bytes is the end of the stream. What arrived after the future was dropped goes to
/// `orphan` with the buffer.
pub(crate) fn recv<B, F>(socket: &Rc<OwnedFd>, mut buf: B, orphan: F) -> Op<Recv<B, F>>
where
    B: IoBufMut,
    F: FnOnce(io::Result<u32>, B) + Unpin + 'static,
{
    let len = clamp_len(buf.bytes_total());
    let entry = opcode::Recv::new(types::Fd(socket.as_raw_fd()), buf.stable_mut_ptr(), len).build();
    // SAFETY: the entry points to `len <= bytes_total` writable bytes of `buf`, which `Recv` owns and which stay in place
    // by `IoBufMut`'s contract; the descriptor stays open because `Recv` holds it.
    unsafe { Op::new(Recv { _socket: Rc::clone(socket), buf, orphan }, entry) }
}

pub(crate) struct Recv<B, F> {
    _socket: Rc<OwnedFd>,
    buf: B,
    orphan: F,
}

/// Records in `buf` that the kernel wrote as many bytes as `result` says.
fn received<B: IoBufMut>(buf: &mut B, result: &io::Result<u32>) {
    if let Ok(len) = result {
        // SAFETY: the kernel wrote `len` bytes from `stable_mut_ptr` on, and it was told of no more than `bytes_total`.
        unsafe { buf.set_init(*len as usize) };
    }
}

impl<B, F> Operation for Recv<B, F>
where
    B: IoBufMut,
    F: FnOnce(io::Result<u32>, B) + Unpin + 'static,
{
    type Output = (io::Result<u32>, B);

    fn complete(mut self, result: io::Result<u32>) -> Self::Output {
        received(&mut self.buf, &result);
        (result, self.buf)
    }

    fn orphaned(mut self, result: io::Result<u32>) {
        received(&mut self.buf, &result);
        (self.orphan)(result, self.buf);
    }
}

/// Sends from `buf` on a socket; possibly only a part. Never raises SIGPIPE. `guard` is dropped when the kernel is done, also if
/// nobody waits for it any more.
pub(crate) fn send<B, G>(socket: &Rc<OwnedFd>, buf: B, guard: G) -> Op<Send<B, G>>
where
    B: IoBuf,
    G: Unpin + 'static,
{
    let entry =
        opcode::Send::new(types::Fd(socket.as_raw_fd()), buf.stable_ptr(), clamp_len(buf.bytes_init()))
            .flags(libc::MSG_NOSIGNAL)
            .build();
    // SAFETY: the entry points to `bytes_init` readable bytes of `buf`, which `Send` owns and which stay in place by
    // `IoBuf`'s contract; the descriptor stays open because `Send` holds it.
    unsafe { Op::new(Send { _socket: Rc::clone(socket), buf, _guard: guard }, entry) }
}

pub(crate) struct Send<B, G> {
    _socket: Rc<OwnedFd>,
    buf: B,
    _guard: G,
}

impl<B: IoBuf, G: Unpin + 'static> Operation for Send<B, G> {
    type Output = (io::Result<u32>, B);

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        (result, self.buf)
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}

/// Accepts a connection. One that was accepted after the future was dropped goes to `orphan`.
pub(crate) fn accept<F>(socket: &Rc<OwnedFd>, orphan: F) -> Op<Accept<F>>
where
    F: FnOnce(io::Result<OwnedFd>) + Unpin + 'static,
{
    let entry =
        opcode::Accept::new(types::Fd(socket.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC)
            .build();
    // SAFETY: the entry's address pointers are null, which asks for no address; the descriptor stays open because `Accept`
    // holds it.
    unsafe { Op::new(Accept { _socket: Rc::clone(socket), orphan }, entry) }
}

pub(crate) struct Accept<F> {
    _socket: Rc<OwnedFd>,
    orphan: F,
}

fn accepted(result: io::Result<u32>) -> io::Result<OwnedFd> {
    let descriptor = i32::try_from(result?).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel completed this accept with a descriptor that is new and that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

impl<F> Operation for Accept<F>
where
    F: FnOnce(io::Result<OwnedFd>) + Unpin + 'static,
{
    type Output = io::Result<OwnedFd>;

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        accepted(result)
    }

    fn orphaned(self, result: io::Result<u32>) {
        (self.orphan)(accepted(result));
    }
}

/// Connects a socket.
pub(crate) fn connect(socket: &Rc<OwnedFd>, address: &SocketAddr) -> Op<Connect> {
    let (address, len) = encode_address(address);
    let entry =
        opcode::Connect::new(types::Fd(socket.as_raw_fd()), std::ptr::from_ref(&*address).cast(), len)
            .build();
    // SAFETY: the entry points to the boxed address, which `Connect` owns and which does not move with it; the descriptor
    // stays open because `Connect` holds it.
    unsafe { Op::new(Connect { _socket: Rc::clone(socket), _address: address }, entry) }
}

pub(crate) struct Connect {
    _socket: Rc<OwnedFd>,
    _address: Box<libc::sockaddr_storage>,
}

impl Operation for Connect {
    type Output = io::Result<()>;

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        result.map(|_| ())
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}

fn encode_address(address: &SocketAddr) -> (Box<libc::sockaddr_storage>, libc::socklen_t) {
    // SAFETY: `sockaddr_storage` is plain bytes; all zeros is a valid value (an unspecified family).
    let mut storage = Box::new(unsafe { MaybeUninit::<libc::sockaddr_storage>::zeroed().assume_init() });
    let target = std::ptr::from_mut(&mut *storage);
    let len = match address {
        SocketAddr::V4(v4) => {
            let encoded = libc::sockaddr_in {
                sin_family: family(libc::AF_INET),
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: `sockaddr_storage` is larger than, and at least as aligned as, every address type.
            unsafe { target.cast::<libc::sockaddr_in>().write(encoded) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let encoded = libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: `sockaddr_storage` is larger than, and at least as aligned as, every address type.
            unsafe { target.cast::<libc::sockaddr_in6>().write(encoded) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, libc::socklen_t::try_from(len).expect("an address has a few bytes"))
}

fn family(family: i32) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).expect("address families are small")
}

/// Reads at `offset` (bytes) of a file or device into `buf`; possibly only a part.
pub(crate) fn read_at<B: IoBufMut>(file: &Rc<OwnedFd>, offset: u64, mut buf: B) -> Op<ReadAt<B>> {
    let len = clamp_len(buf.bytes_total());
    let entry =
        opcode::Read::new(types::Fd(file.as_raw_fd()), buf.stable_mut_ptr(), len).offset(offset).build();
    // SAFETY: the entry points to `len <= bytes_total` writable bytes of `buf`, which `ReadAt` owns and which stay in place
    // by `IoBufMut`'s contract; the descriptor stays open because `ReadAt` holds it.
    unsafe { Op::new(ReadAt { _file: Rc::clone(file), buf }, entry) }
}

pub(crate) struct ReadAt<B> {
    _file: Rc<OwnedFd>,
    buf: B,
}

impl<B: IoBufMut> Operation for ReadAt<B> {
    type Output = (io::Result<u32>, B);

    fn complete(mut self, result: io::Result<u32>) -> Self::Output {
        received(&mut self.buf, &result);
        (result, self.buf)
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}

/// Writes `buf` at `offset` (bytes) of a file or device; possibly only a part.
pub(crate) fn write_at<B: IoBuf>(file: &Rc<OwnedFd>, offset: u64, buf: B) -> Op<WriteAt<B>> {
    let len = clamp_len(buf.bytes_init());
    let entry = opcode::Write::new(types::Fd(file.as_raw_fd()), buf.stable_ptr(), len).offset(offset).build();
    // SAFETY: the entry points to `bytes_init` readable bytes of `buf`, which `WriteAt` owns and which stay in place by
    // `IoBuf`'s contract; the descriptor stays open because `WriteAt` holds it.
    unsafe { Op::new(WriteAt { _file: Rc::clone(file), buf }, entry) }
}

pub(crate) struct WriteAt<B> {
    _file: Rc<OwnedFd>,
    buf: B,
}

impl<B: IoBuf> Operation for WriteAt<B> {
    type Output = (io::Result<u32>, B);

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        (result, self.buf)
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}

/// Makes a file's data (and the metadata needed to read it) durable: `fdatasync`.
pub(crate) fn fsync(file: &Rc<OwnedFd>) -> Op<Fsync> {
    let entry = opcode::Fsync::new(types::Fd(file.as_raw_fd())).flags(types::FsyncFlags::DATASYNC).build();
    // SAFETY: the entry has no pointers; the descriptor stays open because `Fsync` holds it.
    unsafe { Op::new(Fsync { _file: Rc::clone(file) }, entry) }
}

pub(crate) struct Fsync {
    _file: Rc<OwnedFd>,
}

impl Operation for Fsync {
    type Output = io::Result<()>;

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        result.map(|_| ())
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}

/// `fallocate` with `mode` over `len` bytes from `offset`.
pub(crate) fn fallocate(file: &Rc<OwnedFd>, mode: i32, offset: u64, len: u64) -> Op<Fallocate> {
    let entry = opcode::Fallocate::new(types::Fd(file.as_raw_fd()), len).offset(offset).mode(mode).build();
    // SAFETY: the entry has no pointers; the descriptor stays open because `Fallocate` holds it.
    unsafe { Op::new(Fallocate { _file: Rc::clone(file) }, entry) }
}

pub(crate) struct Fallocate {
    _file: Rc<OwnedFd>,
}

impl Operation for Fallocate {
    type Output = io::Result<()>;

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        result.map(|_| ())
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}
