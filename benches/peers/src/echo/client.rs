//! The load generator: one thread, one io_uring, replies verified by their length.
//!
//! It never sleeps, so no server pays for waking it, and what a server does while it would sleep is
//! not hidden. A ping-pong connection costs two submissions and one completion per request, in
//! batches: sends post no completion, and receives that find nothing are tried again. So the client
//! needs less than any server that it measures, and says how long it had to wait for it.

use std::collections::VecDeque;
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
/// How many connections are asked for their reply in one system call.
const TRIES_PER_LOOK: usize = 16;
/// A server that is silent for this long has failed.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct Client {
    ring: IoUring,
    pattern: Pattern,
    connections: Vec<Connection>,
    started: bool,
    /// Ping-pong only: the connections with a request on its way, the one that has waited longest
    /// first.
    awaiting: VecDeque<usize>,
    /// Reused by `look_for_replies`.
    missed: Vec<usize>,
    /// How long it had nothing to do but look for a reply.
    waited: Duration,
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
        Self {
            ring,
            pattern,
            connections,
            awaiting: VecDeque::new(),
            missed: Vec::new(),
            started: false,
            waited: Duration::ZERO,
        }
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
        let mut in_vain_since = None;
        loop {
            let progress = match self.pattern {
                Pattern::PingPong { .. } => self.look_for_replies(),
                Pattern::Stream { window_bytes, .. } => self.reap_stream(window_bytes),
            };
            let now = Instant::now();
            match (progress, in_vain_since) {
                (true, since) => {
                    self.waited += since.map_or(Duration::ZERO, |since| now - since);
                    in_vain_since = None;
                }
                (false, None) => in_vain_since = Some(now),
                (false, Some(since)) => assert!(now - since < PATIENCE, "the server is silent"),
            }
            if now - start >= time {
                let messages = (self.received_bytes() - before) / MESSAGE_BYTES as u64;
                return (messages, now - start);
            }
        }
    }

    /// How long the client has had nothing to do but look for a reply.
    pub fn waited(&self) -> Duration {
        self.waited
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

    /// Hands over what is queued and tries to receive from the connections that have waited
    /// longest; whether any had a reply.
    ///
    /// The receives do not wait. So no connection ever has anybody waiting in the kernel, which
    /// would cost both ends: the server for waking, the client for going to wait.
    fn look_for_replies(&mut self) -> bool {
        let tried = self.awaiting.len().min(TRIES_PER_LOOK);
        for at in 0..tried {
            self.receive(self.awaiting[at], libc::MSG_DONTWAIT);
        }
        self.ring.submit().expect("the ring works");
        let (mut completed, mut progress) = (0, false);
        while completed < tried {
            let completion = self.ring.completion().next().expect("what does not wait is done at once");
            let (index, was_send) = index_of(completion.user_data());
            let result = completion.result();
            // Only a send that failed or fell short posts a completion.
            assert!(!was_send, "a send came to {result} of {MESSAGE_BYTES} bytes");
            completed += 1;
            // They complete in order.
            self.awaiting.pop_front();
            if result == -libc::EAGAIN {
                self.missed.push(index);
                continue;
            }
            progress = true;
            let connection = &mut self.connections[index];
            connection.received_bytes += count(result);
            if connection.received_bytes.is_multiple_of(MESSAGE_BYTES as u64) {
                self.request(index);
            } else {
                self.missed.push(index);
            }
        }
        if progress {
            self.missed.drain(..).rev().for_each(|index| self.awaiting.push_front(index));
        } else {
            // The server may answer in another order.
            self.awaiting.extend(self.missed.drain(..));
        }
        progress
    }

    /// Hands over what is queued and handles some completions; whether there were any.
    fn reap_stream(&mut self, window_bytes: usize) -> bool {
        let (queued, deferred) = {
            let queue = self.ring.submission();
            (!queue.is_empty(), queue.taskrun())
        };
        if queued || deferred {
            self.ring.submit().expect("the ring works");
        }
        let mut left = COMPLETIONS_PER_LOOK;
        while left > 0
            && let Some(completion) = { self.ring.completion().next() }
        {
            left -= 1;
            let (index, was_send) = index_of(completion.user_data());
            let len = count(completion.result());
            let connection = &mut self.connections[index];
            if was_send {
                connection.sent_bytes += len;
                connection.sending = false;
            } else {
                connection.received_bytes += len;
                self.receive(index, 0);
            }
            self.fill_window(index, window_bytes);
        }
        left < COMPLETIONS_PER_LOOK
    }

    /// Sends a message; the reply is looked for after the others'.
    fn request(&mut self, index: usize) {
        let connection = &self.connections[index];
        let send =
            opcode::Send::new(types::Fixed(index as u32), connection.message.as_ptr(), MESSAGE_BYTES as u32)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data((index as u64) << 1 | SEND);
        self.push(&send);
        self.awaiting.push_back(index);
    }

    fn receive(&mut self, index: usize, flags: i32) {
        let inbox = &mut self.connections[index].inbox;
        let receive = opcode::Recv::new(types::Fixed(index as u32), inbox.as_mut_ptr(), inbox.len() as u32)
            .flags(flags)
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
        // SAFETY: the entry's buffer is a boxed slice of a connection that lives in `self` until
        // the ring is dropped (the ring is declared first), is never resized, and is not touched by
        // this program while it is in flight.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.ring.submit().expect("the ring works");
        }
    }
}

/// The connection of a completion, and whether it is that of a send.
fn index_of(user_data: u64) -> (usize, bool) {
    ((user_data >> 1) as usize, user_data & SEND != 0)
}

/// The number of bytes that a completion stands for.
fn count(result: i32) -> u64 {
    assert_ne!(result, 0, "the server closed a connection");
    u64::try_from(result).unwrap_or_else(|_| panic!("I/O: {}", std::io::Error::from_raw_os_error(-result)))
}
