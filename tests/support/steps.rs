//! Writers whose every step can be recognised afterwards: what a store holds must be a prefix of
//! each writer's steps that has in it all that were acknowledged.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::server::{Client, Reply};

const KEYS_PER_WRITER: u64 = 50;
const PIPELINE: u64 = 8;

/// A small generator (SplitMix64): a test's own schedule must replay from its seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

/// What one writer knows of its own keys: it alone writes them, one step after the other.
pub(crate) struct Writer {
    number: usize,
    /// How many steps were acknowledged, over all rounds.
    acknowledged: u64,
    /// How many steps were sent; those above `acknowledged` may or may not have happened, but only
    /// in order.
    sent: u64,
}

impl Writer {
    pub(crate) fn new(number: usize) -> Self {
        Self::after(number, 0, 0)
    }

    /// A writer that was told of this many steps and sent this many.
    pub(crate) fn after(number: usize, acknowledged: u64, sent: u64) -> Self {
        Self { number, acknowledged, sent }
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    fn key(&self, step: u64) -> String {
        format!("w{}:{}", self.number, step % KEYS_PER_WRITER)
    }

    /// The value that a step writes: its number, padded to very different lengths.
    fn value(step: u64) -> String {
        let len = usize::try_from(step * 7919 % 3000).expect("small");
        format!("{step}:{}", "v".repeat(len))
    }

    /// Sends one step: a SET, an MSET of two keys, or an INCR, each recognisable afterwards.
    fn send_step(&mut self, client: &mut Client) -> std::io::Result<()> {
        let step = self.sent + 1;
        let (key, value) = (self.key(step), Self::value(step));
        self.sent = step;
        match step % 3 {
            0 => client.send(&[b"SET", key.as_bytes(), value.as_bytes()]),
            1 => {
                let twin = format!("{key}:twin");
                client.send(&[b"MSET", key.as_bytes(), value.as_bytes(), twin.as_bytes(), value.as_bytes()])
            }
            _ => client.send(&[b"INCR", format!("w{}:counter", self.number).as_bytes()]),
        }
    }

    fn receive_step(&mut self, client: &mut Client) -> std::io::Result<()> {
        match client.receive()? {
            Reply::Error(message) => panic!("step {} was refused: {message}", self.acknowledged + 1),
            _ => self.acknowledged += 1,
        }
        Ok(())
    }

    /// Writes until the connection breaks: the server was killed. Even writers wait for each reply,
    /// odd ones pipeline. After each reply `acknowledged` is told the number of steps.
    pub(crate) fn run(&mut self, address: SocketAddr, mut acknowledged: impl FnMut(u64)) {
        let Ok(mut client) = Client::connect(address) else { return };
        let depth = if self.number.is_multiple_of(2) { 1 } else { PIPELINE };
        loop {
            for _ in 0..depth {
                if self.send_step(&mut client).is_err() {
                    return;
                }
            }
            for _ in 0..depth {
                if self.receive_step(&mut client).is_err() {
                    return;
                }
                acknowledged(self.acknowledged);
            }
        }
    }

    /// What the store must hold if exactly the first `steps` steps happened.
    fn expected(&self, steps: u64) -> HashMap<String, String> {
        let mut state = HashMap::new();
        let counted = (1..=steps).filter(|step| step % 3 == 2).count();
        if counted > 0 {
            state.insert(format!("w{}:counter", self.number), counted.to_string());
        }
        // Only the newest write of each key is left; go back far enough to see every key and twin.
        for step in steps.saturating_sub(6 * KEYS_PER_WRITER).max(1)..=steps {
            match step % 3 {
                0 => drop(state.insert(self.key(step), Self::value(step))),
                1 => {
                    state.insert(self.key(step), Self::value(step));
                    state.insert(format!("{}:twin", self.key(step)), Self::value(step));
                }
                _ => {}
            }
        }
        state
    }

    fn actual(&self, client: &mut Client) -> HashMap<String, String> {
        let mut keys = vec![format!("w{}:counter", self.number)];
        for step in 0..KEYS_PER_WRITER {
            keys.push(self.key(step));
            keys.push(format!("{}:twin", self.key(step)));
        }
        let mut state = HashMap::new();
        for key in &keys {
            client.send(&[b"GET", key.as_bytes()]).expect("the server listens");
        }
        for key in keys {
            if let Reply::Bulk(value) = client.receive().expect("the server replies") {
                state.insert(key, String::from_utf8(value).expect("what was written"));
            }
        }
        state
    }

    /// Finds the prefix of this writer's steps that the store holds; an error says what is wrong
    /// with it.
    pub(crate) fn check(&mut self, client: &mut Client) -> Result<(), String> {
        let actual = self.actual(client);
        let Some(steps) = (self.acknowledged..=self.sent).find(|&steps| self.expected(steps) == actual)
        else {
            let expected = self.expected(self.acknowledged);
            let mut wrong: Vec<_> = expected
                .iter()
                .filter(|(key, value)| actual.get(*key) != Some(value))
                .map(|(key, value)| {
                    let short = |value: &str| value.chars().take(12).collect::<String>();
                    format!(
                        "{key}: acknowledged {}, found {:?}",
                        short(value),
                        actual.get(key).map(|v| short(v))
                    )
                })
                .collect();
            wrong.sort();
            return Err(format!(
                "writer {}: {} steps acknowledged, {} sent, the state is no such prefix: {wrong:?}",
                self.number, self.acknowledged, self.sent
            ));
        };
        self.acknowledged = steps;
        self.sent = steps;
        Ok(())
    }
}
