//! The load generator: one thread, one io_uring, replies verified by their length.
//!
//! A ping-pong connection costs two submissions and one completion per request, in batches: sends post no completion, and
//! receives wait for the whole message. So the client needs fewer system calls than any server that it measures.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};

use super::{MESSAGE_BYTES, Pattern};

/// Two entries per connection, twice over.
const RING_ENTRIES: u32 = 4096;
/// The largest single transfer of a stream, in bytes.
const CHUNK_BYTES: usize = 16 << 10;
/// How many completions are handled between two looks at the clock.
const COMPLETIONS_PER_LOOK: usize = 64;
/// A server that is silent for so many looks has failed.
const SPINS: u32 = 1 << 30;

pub struct Client {
    ring: IoUring,
    pattern: Pattern,
    connections: Vec<Connection>,
    started: bool,
}

struct Connection {
    stream: TcpStream,
    /// What is sent; never written after the connection is made.
    message: Box<[u8]>,
    /// Where the kernel puts what it receives. Nobody reads it.
    inbox: Box<[u8]>,
    sent_bytes: u64,
    received_bytes: u64,
    /// Stream only: a send or a receive is in flight.
    sending: bool,
}

const SEND: u64 = 1;

impl Client {
    pub fn connect(server: SocketAddr, pattern: Pattern) -> Self {
        let (count, chunk) = match pattern {
            Pattern::PingPong { connections } => (connections, MESSAGE_BYTES),
            Pattern::Stream { connections, .. } => (connections, CHUNK_BYTES),
        };
        let connections: Vec<Connection> = (0..count)
            .map(|_| {
                let stream = TcpStream::connect(server).expect("the server accepts");
                stream.set_nodelay(true).expect("nodelay");
                let buffer = || vec![b'x'; chunk].into_boxed_slice();
                Connection {
                    stream,
                    message: buffer(),
                    inbox: buffer(),
                    sent_bytes: 0,
                    received_bytes: 0,
                    sending: false,
                }
            })
            .collect();
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(RING_ENTRIES)
            .expect("io_uring is usable");
        let files: Vec<i32> = connections.iter().map(|connection| connection.stream.as_raw_fd()).collect();
        ring.submitter().register_files(&files).expect("there is room for the files");
        Self { ring, pattern, connections, started: false }
    }

    /// Keeps going for `time`; returns how many messages came back, and in what time exactly.
    pub fn run(&mut self, time: Duration) -> (u64, Duration) {
        if !std::mem::replace(&mut self.started, true) {
            for index in 0..self.connections.len() {
                self.start(index);
            }
        }
        let before = self.received_bytes();
        let start = Instant::now();
        let mut last = start;
        loop {
            self.await_completion();
            let mut left = COMPLETIONS_PER_LOOK;
            while left > 0
                && let Some(completion) = { self.ring.completion().next() }
            {
                left -= 1;
                let (index, kind) = ((completion.user_data() >> 1) as usize, completion.user_data() & SEND);
                let len = usize::try_from(completion.result()).unwrap_or_else(|_| {
                    panic!("I/O: {}", std::io::Error::from_raw_os_error(-completion.result()))
                });
                assert_ne!(len, 0, "the server closed a connection");
                self.completed(index, kind == SEND, len);
            }
            let now = Instant::now();
            if now - start >= time {
                last = now;
            }
            if last != start {
                break;
            }
        }
        ((self.received_bytes() - before) / MESSAGE_BYTES as u64, last - start)
    }

    /// Hands over what is queued and spins until there is a completion.
    fn await_completion(&mut self) {
        let mut spins = 0u32;
        loop {
            let (queued, deferred) = {
                let queue = self.ring.submission();
                (!queue.is_empty(), queue.taskrun())
            };
            if queued || deferred {
                self.ring.submit().expect("the ring works");
            }
            if !self.ring.completion().is_empty() {
                return;
            }
            spins += 1;
            std::hint::spin_loop();
            assert!(spins < SPINS, "the server is silent");
        }
    }

    fn received_bytes(&self) -> u64 {
        self.connections.iter().map(|connection| connection.received_bytes).sum()
    }

    fn start(&mut self, index: usize) {
        match self.pattern {
            Pattern::PingPong { .. } => self.request(index),
            Pattern::Stream { window_bytes, .. } => {
                self.receive(index, 0);
                self.fill_window(index, window_bytes);
            }
        }
    }

    fn completed(&mut self, index: usize, was_send: bool, len: usize) {
        let connection = &mut self.connections[index];
        match self.pattern {
            Pattern::PingPong { .. } => {
                // Only a send that failed or fell short posts a completion.
                assert!(!was_send, "a send took {len} of {MESSAGE_BYTES} bytes");
                assert_eq!(len, MESSAGE_BYTES, "the reply is as long as the request");
                connection.received_bytes += len as u64;
                self.request(index);
            }
            Pattern::Stream { window_bytes, .. } => {
                if was_send {
                    connection.sent_bytes += len as u64;
                    connection.sending = false;
                } else {
                    connection.received_bytes += len as u64;
                    self.receive(index, 0);
                }
                self.fill_window(index, window_bytes);
            }
        }
    }

    /// Sends a message and receives the reply.
    fn request(&mut self, index: usize) {
        let connection = &self.connections[index];
        let send =
            opcode::Send::new(types::Fixed(index as u32), connection.message.as_ptr(), MESSAGE_BYTES as u32)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data((index as u64) << 1 | SEND);
        self.push(&send);
        self.receive(index, libc::MSG_WAITALL);
    }

    fn receive(&mut self, index: usize, flags: i32) {
        let inbox = &mut self.connections[index].inbox;
        let receive = opcode::Recv::new(types::Fixed(index as u32), inbox.as_mut_ptr(), inbox.len() as u32)
            .flags(flags)
            .ioprio(IORING_RECVSEND_POLL_FIRST)
            .build()
            .user_data((index as u64) << 1);
        self.push(&receive);
    }

    fn fill_window(&mut self, index: usize, window_bytes: usize) {
        let connection = &mut self.connections[index];
        let on_the_way = connection.sent_bytes - connection.received_bytes.min(connection.sent_bytes);
        if connection.sending || on_the_way + CHUNK_BYTES as u64 > window_bytes as u64 {
            return;
        }
        connection.sending = true;
        let send =
            opcode::Send::new(types::Fixed(index as u32), connection.message.as_ptr(), CHUNK_BYTES as u32)
                .build()
                .user_data((index as u64) << 1 | SEND);
        self.push(&send);
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the entry's buffer is a boxed slice of a connection that lives in `self` until the ring is dropped (the
        // ring is declared first), is never resized, and is not touched by this program while it is in flight.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.ring.submit().expect("the ring works");
        }
    }
}

/// `linux/io_uring.h`: wait for readiness first, for the reply is never there yet. Since Linux 5.19.
const IORING_RECVSEND_POLL_FIRST: u16 = 1;
