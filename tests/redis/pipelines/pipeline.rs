//! Random pipelines, and what a Redis server replies to them.

use std::collections::HashMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const KEYS: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"{e}:longer"];
/// The longest value.
const MAX_VALUE_BYTES: usize = 8 << 20;
/// No more commands once a pipeline, or the replies to it, are this long, in bytes.
const ENOUGH_BYTES: usize = 6 << 20;
/// No more commands once this many bytes of values were rewritten: more would take a debug build
/// too long.
const ENOUGH_REWRITTEN_BYTES: usize = 24 << 20;

/// The requests of one client, and the replies it must get.
pub(crate) struct Pipeline {
    pub(crate) requests: Vec<u8>,
    pub(crate) replies: Vec<u8>,
    /// The length of the longest piece that the client writes.
    pub(crate) piece_bytes: usize,
    /// The sizes of the client's send and receive buffers, if it does not leave them to the kernel.
    pub(crate) buffers_bytes: Option<(usize, usize)>,
}

/// Makes pipelines that follow each other on one server.
pub(crate) struct Pipelines {
    random: StdRng,
    values: HashMap<&'static [u8], Vec<u8>>,
    written: u8,
}

impl Pipelines {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), values: HashMap::new(), written: 0 }
    }

    /// A number of up to `max`; small ones are as likely as large ones.
    fn up_to(&mut self, max: usize) -> usize {
        let bits = self.random.random_range(0..=max.ilog2() + 1);
        self.random.random_range(0..=max.min((1 << bits) - 1))
    }

    fn key(&mut self) -> &'static [u8] {
        KEYS[self.random.random_range(0..KEYS.len())]
    }

    fn value(&mut self, max: usize) -> Vec<u8> {
        self.written = self.written.wrapping_add(1);
        vec![self.written; self.up_to(max)]
    }

    pub(crate) fn next_pipeline(&mut self) -> Pipeline {
        let commands = 1 + self.up_to(20_000);
        let max_value_bytes = 1 + self.up_to(MAX_VALUE_BYTES);
        let buffers = [None, Some((4 << 10, 4 << 10)), Some((64 << 10, 4 << 10)), Some((4 << 10, 1 << 20))];
        let mut pipeline = Pipeline {
            requests: Vec::new(),
            replies: Vec::new(),
            piece_bytes: 1 + self.up_to(256 << 10),
            buffers_bytes: buffers[self.random.random_range(0..buffers.len())],
        };
        let (mut rounds, mut rewritten) = (0, 0);
        while rounds < commands
            && pipeline.requests.len().max(pipeline.replies.len()) < ENOUGH_BYTES
            && rewritten < ENOUGH_REWRITTEN_BYTES
        {
            rewritten += self.push_command(&mut pipeline, max_value_bytes);
            rounds += 1;
        }
        // Tiny pieces of a long pipeline take too long.
        pipeline.piece_bytes = pipeline.piece_bytes.max(pipeline.requests.len() / 10_000);
        pipeline
    }

    /// Returns how many bytes of values it has the server write.
    fn push_command(&mut self, pipeline: &mut Pipeline, max_value_bytes: usize) -> usize {
        let key = self.key();
        let held = self.values.get(key).map_or(0, Vec::len);
        let replies = &mut pipeline.replies;
        match self.random.random_range(0..12) {
            0..=2 => {
                let value = self.value(max_value_bytes);
                request(&mut pipeline.requests, &[b"SET", key, &value]);
                self.values.insert(key, value);
                replies.extend_from_slice(b"+OK\r\n");
            }
            3..=4 => {
                let value = self.value(max_value_bytes);
                request(&mut pipeline.requests, &[b"SET", key, &value, b"GET"]);
                bulk_or_nil(replies, self.values.insert(key, value).as_ref());
            }
            5..=6 => {
                request(&mut pipeline.requests, &[b"GET", key]);
                bulk_or_nil(replies, self.values.get(key));
            }
            7 if held < MAX_VALUE_BYTES => {
                let tail = self.value(max_value_bytes.min(64 << 10));
                request(&mut pipeline.requests, &[b"APPEND", key, &tail]);
                let value = self.values.entry(key).or_default();
                value.extend(tail);
                replies.extend(format!(":{}\r\n", value.len()).into_bytes());
            }
            8 => {
                let other = self.key();
                request(&mut pipeline.requests, &[b"MGET", key, b"nosuch", other]);
                replies.extend_from_slice(b"*3\r\n");
                bulk_or_nil(replies, self.values.get(key));
                bulk_or_nil(replies, None);
                bulk_or_nil(replies, self.values.get(other));
            }
            9 => {
                let (start, end) = (self.up_to(held + 1), self.up_to(held + 1));
                let (from, to) = (start.to_string(), end.to_string());
                request(&mut pipeline.requests, &[b"GETRANGE", key, from.as_bytes(), to.as_bytes()]);
                let value = self.values.get(key).map_or(&[][..], Vec::as_slice);
                let part = value.get(start..value.len().min(end + 1)).unwrap_or_default();
                bulk(replies, part);
            }
            10 => {
                let other = self.key();
                request(&mut pipeline.requests, &[b"DEL", key, other]);
                let deleted = [key, other].iter().filter(|&&key| self.values.remove(key).is_some()).count();
                replies.extend(format!(":{deleted}\r\n").into_bytes());
            }
            _ => {
                request(&mut pipeline.requests, &[b"ECHO", b"between"]);
                bulk(replies, b"between");
            }
        }
        self.values.get(key).map_or(0, Vec::len)
    }
}

pub(crate) fn request(requests: &mut Vec<u8>, arguments: &[&[u8]]) {
    requests.extend(format!("*{}\r\n", arguments.len()).into_bytes());
    arguments.iter().for_each(|argument| bulk(requests, argument));
}

pub(crate) fn bulk(bytes: &mut Vec<u8>, value: &[u8]) {
    bytes.extend(format!("${}\r\n", value.len()).into_bytes());
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(b"\r\n");
}

fn bulk_or_nil(bytes: &mut Vec<u8>, value: Option<&Vec<u8>>) {
    match value {
        Some(value) => bulk(bytes, value),
        None => bytes.extend_from_slice(b"$-1\r\n"),
    }
}
