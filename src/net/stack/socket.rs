//! A smoltcp socket alone in its set, with buffers that take memory only as they are used.
//!
//! A connection's buffers are as large as its window may become, which is far more than most
//! connections ever use. From the heap they would be zeroed, and so be in RAM whole. Here they are
//! pieces of large anonymous mappings: a page of a piece is in RAM once it was written. Pieces are
//! used again last in, first out; those that have not been for a while give their pages back.
//!
//! smoltcp borrows such memory for the life of the socket. That life is hidden here:
//! [`PooledSocket`] shows its socket only to functions that work for a borrow of any length, so
//! none can keep a buffer, or swap two sockets.

use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::Rc;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer};

use crate::error::{Error, ErrorKind, Result};

/// Buffers start on pages of their own.
const PAGE_BYTES: usize = 4096;
/// How much is mapped at a time, unless one piece is larger.
const SLAB_BYTES: usize = 8 << 20;
/// How many free pieces keep their pages.
const WARM_PIECES: usize = 64;

/// Where the buffers of one stack's connections come from. Each piece holds one receive and one
/// send buffer.
#[derive(Clone)]
pub(super) struct BufferPool(Rc<PoolMemory>);

struct PoolMemory {
    receive_bytes: usize,
    send_bytes: usize,
    pieces: RefCell<Pieces>,
}

#[derive(Default)]
struct Pieces {
    slabs: Vec<(NonNull<u8>, usize)>,
    free: Vec<NonNull<u8>>,
}

impl BufferPool {
    /// A pool of pairs of a receive buffer and a send buffer of the given sizes in bytes, each at
    /// least 1 and at most 1 GiB.
    pub(super) fn new(receive_bytes: usize, send_bytes: usize) -> Self {
        Self(Rc::new(PoolMemory { receive_bytes, send_bytes, pieces: RefCell::default() }))
    }

    fn take(&self) -> Result<Piece> {
        let memory = &*self.0;
        let mut pieces = memory.pieces.borrow_mut();
        if pieces.free.is_empty() {
            pieces.grow(memory.piece_bytes())?;
        }
        let start = pieces.free.pop().ok_or_else(|| Error::new(ErrorKind::LimitReached, "map buffers"))?;
        Ok(Piece { start, pool: self.clone() })
    }
}

impl PoolMemory {
    /// Where the send buffer begins in a piece.
    fn send_offset(&self) -> usize {
        self.receive_bytes.next_multiple_of(PAGE_BYTES)
    }

    fn piece_bytes(&self) -> usize {
        self.send_offset() + self.send_bytes.next_multiple_of(PAGE_BYTES)
    }
}

impl Pieces {
    /// Maps another slab and adds its pieces to the free ones.
    fn grow(&mut self, piece_bytes: usize) -> Result<()> {
        let pieces = (SLAB_BYTES / piece_bytes).max(1);
        let len = pieces * piece_bytes;
        let failed = |errno: rustix::io::Errno| Error::os(errno.raw_os_error(), "map buffers");
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no
        // existing memory.
        let start =
            unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags) }
                .map_err(failed)?;
        // A huge page would bring the buffers of sixteen connections into RAM for the first byte of
        // one. A kernel without them refuses the advice, and then needs none. SAFETY: the range is
        // the mapping just made; this advice changes no content.
        let _ = unsafe { madvise(start, len, Advice::LinuxNoHugepage) };
        let start = NonNull::new(start.cast::<u8>()).ok_or_else(|| failed(rustix::io::Errno::NOMEM))?;
        self.slabs.push((start, len));
        for index in (0..pieces).rev() {
            // SAFETY: `index < pieces`, so the offset is within the `pieces * piece_bytes` bytes of
            // the mapping.
            self.free.push(unsafe { start.add(index * piece_bytes) });
        }
        Ok(())
    }
}

impl Drop for PoolMemory {
    fn drop(&mut self) {
        for (start, len) in self.pieces.get_mut().slabs.drain(..) {
            // SAFETY: this is a mapping made in `Pieces::grow`, whole. Every piece holds a handle
            // to the pool, so none is left.
            let unmapped = unsafe { munmap(start.as_ptr().cast(), len) };
            debug_assert!(unmapped.is_ok(), "a slab can be unmapped");
        }
    }
}

/// Memory for one connection. Nothing else uses it until it is dropped.
struct Piece {
    start: NonNull<u8>,
    pool: BufferPool,
}

impl Piece {
    /// The receive and the send buffer.
    ///
    /// # Safety
    ///
    /// Called once for a piece, and nothing returned is used after the piece is dropped.
    unsafe fn buffers(&self) -> (&'static mut [u8], &'static mut [u8]) {
        let memory = &*self.pool.0;
        // SAFETY: the send buffer begins within the piece, whose size is that offset and the send
        // buffer's.
        let send = unsafe { self.start.add(memory.send_offset()) };
        // SAFETY:
        // - the piece has `receive_bytes` bytes at its start, mapped readable and writable as long
        //   as the piece holds its pool;
        // - an anonymous mapping starts zeroed, so they are initialised;
        // - only this piece has them until it is dropped, and the caller calls once and stops using
        //   them by then.
        let receive = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), memory.receive_bytes) };
        // SAFETY: as above, for the `send_bytes` bytes from `send` on, which do not overlap the
        // receive buffer.
        let send = unsafe { std::slice::from_raw_parts_mut(send.as_ptr(), memory.send_bytes) };
        (receive, send)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let memory = &*self.pool.0;
        let mut pieces = memory.pieces.borrow_mut();
        if pieces.free.len() >= WARM_PIECES {
            // SAFETY: the range is this piece, whole pages of a live mapping that nobody uses any
            // more (see `PooledSocket`); its content becomes zeros, which are as initialised as
            // what was there.
            let advised =
                unsafe { madvise(self.start.as_ptr().cast(), memory.piece_bytes(), Advice::LinuxDontNeed) };
            debug_assert!(advised.is_ok(), "pages of an anonymous mapping can be given back");
        }
        pieces.free.push(self.start);
    }
}

/// A TCP socket, alone in a set, in memory from a pool.
pub(super) struct PooledSocket {
    /// Borrows from `_memory`. Declared first, so it is dropped first.
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    _memory: Piece,
}

impl PooledSocket {
    /// A closed socket.
    ///
    /// # Errors
    ///
    /// The kernel's code if it has no memory left to map.
    pub(super) fn new(pool: &BufferPool) -> Result<Self> {
        let memory = pool.take()?;
        // SAFETY: it is called once for this piece. The slices go into the socket, which lives in
        // `sockets`, is dropped before `_memory`, and is shown only to functions that cannot keep
        // any part of it.
        let (receive, send) = unsafe { memory.buffers() };
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(Socket::new(SocketBuffer::new(receive), SocketBuffer::new(send)));
        Ok(Self { sockets, handle, _memory: memory })
    }

    /// The socket, to look at.
    pub(super) fn get(&self) -> &Socket<'_> {
        self.sockets.get(self.handle)
    }

    /// Calls `f` with the socket.
    pub(super) fn with<R>(&mut self, f: impl for<'a> FnOnce(&mut Socket<'a>) -> R) -> R {
        f(self.sockets.get_mut(self.handle))
    }

    /// Calls `f` with the set that holds the socket. `f` must leave it there.
    pub(super) fn with_set<R>(&mut self, f: impl for<'a> FnOnce(&mut SocketSet<'a>) -> R) -> R {
        f(&mut self.sockets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(pool: &BufferPool) -> usize {
        pool.0.pieces.borrow().free.len()
    }

    #[test]
    fn sockets_have_the_sizes_asked_for_and_do_not_share_memory() {
        let pool = BufferPool::new(65_535, 5000);
        let mut pieces: Vec<Piece> = (0..200).map(|_| pool.take().expect("memory")).collect();
        let mut buffers: Vec<_> = pieces
            .iter()
            .flat_map(|piece| {
                // SAFETY: once for each piece, and `buffers` is dropped before `pieces`.
                let (receive, send) = unsafe { piece.buffers() };
                assert_eq!((receive.len(), send.len()), (65_535, 5000));
                [receive, send]
            })
            .collect();
        let marked = |index: usize, len| vec![u8::try_from(index % 251).expect("below 251"); len];
        for (index, buffer) in buffers.iter_mut().enumerate() {
            assert!(**buffer == vec![0; buffer.len()], "fresh memory is zeroed");
            buffer.copy_from_slice(&marked(index, buffer.len()));
        }
        for (index, buffer) in buffers.iter().enumerate() {
            assert!(**buffer == marked(index, buffer.len()), "buffer {index} was overwritten");
        }
        drop(buffers);
        pieces.clear();
    }

    #[test]
    fn memory_comes_back_and_is_used_again() {
        let pool = BufferPool::new(65_535, 65_536);
        drop(PooledSocket::new(&pool).expect("memory"));
        let mapped = pieces(&pool);
        for _ in 0..10 {
            let sockets: Vec<_> = (0..mapped).map(|_| PooledSocket::new(&pool).expect("memory")).collect();
            assert_eq!(pieces(&pool), 0);
            drop(sockets);
        }
        assert_eq!(pieces(&pool), mapped, "nothing more was mapped");
    }

    #[test]
    fn a_socket_outlives_the_handle_to_its_pool() {
        let pool = BufferPool::new(4096, 4096);
        let mut socket = PooledSocket::new(&pool).expect("memory");
        drop(pool);
        assert_eq!(socket.with(|socket| (socket.recv_capacity(), socket.send_capacity())), (4096, 4096));
    }
}
