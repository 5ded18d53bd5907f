//! What an operation asks of the kernel, and the two ways to ask it.

use std::os::fd::RawFd;

use io_uring::{opcode, squeue, types};

/// A system call on a descriptor. Its pointers are only as good as the operation that made it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    /// `recv(2)` without flags.
    Recv { buf: *mut u8, len: u32 },
    /// `send(2)` that never raises SIGPIPE.
    Send { buf: *const u8, len: u32 },
    /// `send(2)` likewise, from memory that is in use until the peer has acknowledged it:
    /// `IORING_OP_SEND_ZC`. The result has [`COPIED`] set if the kernel copied it after all.
    SendZeroCopy { buf: *const u8, len: u32 },
    /// `accept4(2)` that does not ask for the address.
    Accept,
    /// `connect(2)`.
    Connect { address: *const libc::sockaddr, len: libc::socklen_t },
    /// `recvmsg(2)` without flags.
    ReceiveMessage { header: *mut libc::msghdr },
    /// `sendmsg(2)` that never raises SIGPIPE.
    SendMessage { header: *const libc::msghdr },
    /// `poll(2)` for something to read, which is left where it is.
    PollReadable,
    /// `read(2)` from where a stream is.
    Read { buf: *mut u8, len: u32 },
    /// `write(2)` to where a stream is.
    Write { buf: *const u8, len: u32 },
    /// `preadv2(2)`: the offset -1 is where a stream is, as for an io_uring.
    ReadAt { buf: *mut u8, len: u32, offset: u64 },
    /// `pwritev2(2)`, likewise, with its flags (`RWF_DSYNC`, `RWF_ATOMIC`).
    WriteAt { buf: *const u8, len: u32, offset: u64, flags: i32 },
    /// `preadv2(2)` into `count` pieces of memory.
    ReadVectoredAt { list: *const libc::iovec, count: u32, offset: u64 },
    /// `pwritev2(2)` from `count` pieces of memory.
    WriteVectoredAt { list: *const libc::iovec, count: u32, offset: u64 },
    /// `fdatasync(2)`.
    Datasync,
    /// `fallocate(2)`.
    Allocate { mode: i32, offset: u64, len: u64 },
    /// Tells a block device that a range holds nothing of use: `BLOCK_URING_CMD_DISCARD` (Linux
    /// 6.12), or the ioctl `BLKDISCARD` on a thread.
    Discard { offset: u64, len: u64 },
}

/// `BLOCK_URING_CMD_DISCARD`: `_IO(0x12, 0)` in `linux/blkdev.h`.
const URING_DISCARD: u32 = 0x1200;
/// `BLKDISCARD`: `_IO(0x12, 119)` in `linux/fs.h`.
const BLKDISCARD: libc::Ioctl = 0x1277;

/// In the result of [`Call::SendZeroCopy`]: the kernel copied the bytes. The others are how many it
/// sent.
pub(in crate::reactor) const COPIED: i32 = 1 << 30;
/// The most that one [`Call::SendZeroCopy`] sends, so that the count keeps clear of [`COPIED`].
pub(super) const MAX_ZERO_COPY_BYTES: u32 = (1 << 30) - 4096;
/// `IORING_SEND_ZC_REPORT_USAGE`: say whether it was copied.
pub(in crate::reactor) const REPORT_USAGE: u16 = 1 << 3;

/// `MSG_NOSIGNAL` as an io_uring entry takes it.
const NO_SIGNAL: u32 = libc::MSG_NOSIGNAL.cast_unsigned();

/// `POLLIN` as an io_uring entry takes it.
const POLL_IN: u32 = 1;

/// What a descriptor can be ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reactor) enum Direction {
    /// Bytes, a connection or the end can be taken.
    Read,
    /// There is room, or a connection is made.
    Write,
}

/// How a call is made where there is no io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reactor) enum Way {
    /// Try, and wait for readiness when it would block.
    WhenReady(Direction),
    /// There is no readiness to wait for: on a thread that may block.
    OnThread,
}

impl Call {
    /// The address and length of what a call on a file moves; no address for a call that moves
    /// nothing, `None` for other calls.
    pub(in crate::reactor) fn file_memory(self) -> Option<(usize, usize)> {
        match self {
            Self::ReadAt { buf, len, .. } => Some((buf.addr(), len as usize)),
            Self::WriteAt { buf, len, .. } => Some((buf.addr(), len as usize)),
            Self::Datasync | Self::Allocate { .. } | Self::Discard { .. } => Some((0, 0)),
            _ => None,
        }
    }

    /// How many bytes it moves, if a ring that polls its devices may have it. A durable write may
    /// end with a flush, which the device says by an interrupt; of pieces nobody knows how many
    /// commands the driver makes.
    pub(in crate::reactor) fn polled_bytes(self) -> Option<u32> {
        match self {
            Self::ReadAt { len, .. } => Some(len),
            Self::WriteAt { len, flags, .. } => (flags & libc::RWF_DSYNC == 0).then_some(len),
            _ => None,
        }
    }

    /// The call as an io_uring entry; `buffer` is the registered buffer that the memory of a call
    /// on a file lies in.
    pub(in crate::reactor) fn entry(self, descriptor: RawFd, buffer: Option<u16>) -> squeue::Entry {
        let fd = types::Fd(descriptor);
        match self {
            Self::Recv { buf, len } => opcode::Recv::new(fd, buf, len).build(),
            Self::Send { buf, len } => opcode::Send::new(fd, buf, len).flags(libc::MSG_NOSIGNAL).build(),
            Self::SendZeroCopy { buf, len } => {
                opcode::SendZc::new(fd, buf, len).flags(libc::MSG_NOSIGNAL).zc_flags(REPORT_USAGE).build()
            }
            Self::Accept => opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
                .flags(libc::SOCK_CLOEXEC)
                .build(),
            Self::Connect { address, len } => opcode::Connect::new(fd, address, len).build(),
            Self::ReceiveMessage { header } => opcode::RecvMsg::new(fd, header).build(),
            Self::SendMessage { header } => opcode::SendMsg::new(fd, header).flags(NO_SIGNAL).build(),
            Self::PollReadable => opcode::PollAdd::new(fd, POLL_IN).build(),
            // The offset -1 is where a stream is.
            Self::Read { buf, len } => opcode::Read::new(fd, buf, len).offset(u64::MAX).build(),
            Self::Write { buf, len } => opcode::Write::new(fd, buf, len).offset(u64::MAX).build(),
            Self::ReadAt { buf, len, offset } => match buffer {
                Some(index) => opcode::ReadFixed::new(fd, buf, len, index).offset(offset).build(),
                None => opcode::Read::new(fd, buf, len).offset(offset).build(),
            },
            Self::WriteAt { buf, len, offset, flags } => match buffer {
                Some(index) => {
                    opcode::WriteFixed::new(fd, buf, len, index).offset(offset).rw_flags(flags).build()
                }
                None => opcode::Write::new(fd, buf, len).offset(offset).rw_flags(flags).build(),
            },
            Self::ReadVectoredAt { list, count, offset } => {
                opcode::Readv::new(fd, list, count).offset(offset).build()
            }
            Self::WriteVectoredAt { list, count, offset } => {
                opcode::Writev::new(fd, list, count).offset(offset).build()
            }
            Self::Datasync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            Self::Allocate { mode, offset, len } => {
                opcode::Fallocate::new(fd, len).offset(offset).mode(mode).build()
            }
            Self::Discard { offset, len } => {
                // The length is in `addr3`, the first half of the command.
                let mut command = [0; 16];
                command[..8].copy_from_slice(&len.to_ne_bytes());
                opcode::UringCmd16::new(fd, URING_DISCARD).addr(Some(offset)).cmd(command).build()
            }
        }
    }

    /// What a task that awaits it waits for.
    pub(in crate::reactor) fn waits_for(self) -> &'static str {
        match self {
            Self::Recv { .. } => "bytes to receive",
            Self::Send { .. } => "room to send",
            Self::SendZeroCopy { .. } => "a peer to acknowledge what is sent from where it is",
            Self::Accept => "a connection to accept",
            Self::Connect { .. } => "a connection to be made",
            Self::ReceiveMessage { .. } => "a datagram to receive",
            Self::SendMessage { .. } => "room to send a datagram",
            Self::PollReadable => "something to read",
            Self::Read { .. } => "a read",
            Self::Write { .. } => "room to write",
            Self::ReadAt { .. } | Self::ReadVectoredAt { .. } => "a read of a file",
            Self::WriteAt { .. } | Self::WriteVectoredAt { .. } => "a write to a file",
            Self::Datasync => "a flush of a file",
            Self::Allocate { .. } => "an allocation in a file",
            Self::Discard { .. } => "a discard of a range of a device",
        }
    }

    pub(in crate::reactor) fn way(self) -> Way {
        match self {
            Self::Recv { .. }
            | Self::Accept
            | Self::ReceiveMessage { .. }
            | Self::PollReadable
            | Self::Read { .. } => Way::WhenReady(Direction::Read),
            Self::Send { .. }
            | Self::SendZeroCopy { .. }
            | Self::Connect { .. }
            | Self::SendMessage { .. }
            | Self::Write { .. } => Way::WhenReady(Direction::Write),
            Self::ReadAt { .. }
            | Self::WriteAt { .. }
            | Self::ReadVectoredAt { .. }
            | Self::WriteVectoredAt { .. }
            | Self::Datasync
            | Self::Allocate { .. }
            | Self::Discard { .. } => Way::OnThread,
        }
    }

    /// Whether the call would block on a descriptor without `O_NONBLOCK`: it has no flag of its own
    /// to say so.
    pub(in crate::reactor) fn needs_nonblocking_descriptor(self) -> bool {
        matches!(self, Self::Accept | Self::Connect { .. } | Self::Read { .. } | Self::Write { .. })
    }

    /// Whether `errno` says that the call must wait for readiness.
    pub(in crate::reactor) fn would_block(self, errno: i32) -> bool {
        match self {
            // `EAGAIN` would be final: no port is left, or a Unix listener's backlog is full.
            Self::Connect { .. } => matches!(errno, libc::EINPROGRESS | libc::EALREADY),
            _ => errno == libc::EAGAIN,
        }
    }

    /// Whether a `result` of this call says that the descriptor has no more, if it is a TCP socket.
    pub(in crate::reactor) fn drained(self, result: i32) -> bool {
        match self {
            Self::Recv { len, .. } => u32::try_from(result).is_ok_and(|got| got > 0 && got < len),
            _ => false,
        }
    }

    /// Makes the system call on this thread and returns what an io_uring would: a count or a
    /// descriptor, or a negated errno. Calls that wait for readiness do not block, given a
    /// descriptor that `needs_nonblocking_descriptor` was heeded for.
    ///
    /// # Safety
    ///
    /// The call's pointers are valid for what the kernel does with them, and nobody else uses the
    /// memory meanwhile.
    pub(in crate::reactor) unsafe fn perform(self, descriptor: RawFd) -> i32 {
        loop {
            // SAFETY: the caller's promise is passed on.
            let result = unsafe { self.perform_once(descriptor) };
            if result == 0 && matches!(self, Self::PollReadable) {
                return -libc::EAGAIN;
            }
            if result >= 0 {
                // A call transfers less than 2 GiB, and descriptors are ints.
                return i32::try_from(result).unwrap_or(i32::MAX);
            }
            let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
            if errno != libc::EINTR {
                return -errno;
            }
        }
    }

    /// # Safety
    ///
    /// As for `perform`.
    unsafe fn perform_once(self, descriptor: RawFd) -> isize {
        // Beyond `i64::MAX` an offset becomes negative, and the kernel says `EINVAL`.
        let at = u64::cast_signed;
        match self {
            Self::Recv { buf, len } => {
                // SAFETY: `buf` is valid for writes of `len` bytes, by the caller's promise.
                unsafe { libc::recv(descriptor, buf.cast(), len as usize, libc::MSG_DONTWAIT) }
            }
            Self::Send { buf, len } | Self::SendZeroCopy { buf, len } => {
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                // SAFETY: `buf` is valid for reads of `len` bytes, by the caller's promise.
                unsafe { libc::send(descriptor, buf.cast(), len as usize, flags) }
            }
            Self::Accept => {
                let (address, len) = (std::ptr::null_mut(), std::ptr::null_mut());
                // SAFETY: null pointers ask for no address.
                unsafe { libc::accept4(descriptor, address, len, libc::SOCK_CLOEXEC) as isize }
            }
            Self::Connect { address, len } => {
                // SAFETY: `address` points to an address of `len` bytes, by the caller's promise.
                unsafe { libc::connect(descriptor, address, len) as isize }
            }
            Self::ReceiveMessage { header } => {
                // SAFETY: `header` and all that it points to are valid for writes, by the caller's
                // promise.
                unsafe { libc::recvmsg(descriptor, header, libc::MSG_DONTWAIT) }
            }
            Self::SendMessage { header } => {
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                // SAFETY: `header` and all that it points to are valid for reads, by the caller's
                // promise.
                unsafe { libc::sendmsg(descriptor, header, flags) }
            }
            Self::PollReadable => {
                let mut asked = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
                // SAFETY: `asked` is one entry, which nobody else uses meanwhile; a time-out of 0
                // does not wait.
                unsafe { libc::poll(&raw mut asked, 1, 0) as isize }
            }
            Self::Read { buf, len } => {
                // SAFETY: `buf` is valid for writes of `len` bytes, by the caller's promise.
                unsafe { libc::read(descriptor, buf.cast(), len as usize) }
            }
            Self::Write { buf, len } => {
                // SAFETY: `buf` is valid for reads of `len` bytes, by the caller's promise.
                unsafe { libc::write(descriptor, buf.cast(), len as usize) }
            }
            Self::ReadAt { buf, len, offset } => {
                let part = libc::iovec { iov_base: buf.cast(), iov_len: len as usize };
                // SAFETY: the one part is valid for writes of `len` bytes, by the caller's promise.
                unsafe { libc::preadv2(descriptor, &raw const part, 1, at(offset), 0) }
            }
            Self::WriteAt { buf, len, offset, flags } => {
                let part = libc::iovec { iov_base: buf.cast_mut().cast(), iov_len: len as usize };
                // SAFETY: the one part is valid for reads of `len` bytes, by the caller's promise;
                // it is not written to.
                unsafe { libc::pwritev2(descriptor, &raw const part, 1, at(offset), flags) }
            }
            Self::ReadVectoredAt { list, count, offset } => {
                let count = count.cast_signed();
                // SAFETY: `list` points to `count` parts, which are valid for writes, by the
                // caller's promise.
                unsafe { libc::preadv2(descriptor, list, count, at(offset), 0) }
            }
            Self::WriteVectoredAt { list, count, offset } => {
                let count = count.cast_signed();
                // SAFETY: `list` points to `count` parts, which are valid for reads, by the
                // caller's promise; they are not written to.
                unsafe { libc::pwritev2(descriptor, list, count, at(offset), 0) }
            }
            // SAFETY: the call has no pointers.
            Self::Datasync => unsafe { libc::fdatasync(descriptor) as isize },
            Self::Allocate { mode, offset, len } => {
                // SAFETY: the call has no pointers.
                unsafe { libc::fallocate64(descriptor, mode, at(offset), at(len)) as isize }
            }
            Self::Discard { offset, len } => {
                let range = [offset, len];
                // SAFETY: the call reads two numbers, those of `range`.
                unsafe { libc::ioctl(descriptor, BLKDISCARD, range.as_ptr()) as isize }
            }
        }
    }
}
