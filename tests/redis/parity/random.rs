//! Random commands on a few keys, so that they meet.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const KEYS: [&str; 6] = ["a", "b", "c", "user:1", "user:2", "\"\""];
const VALUES: [&str; 16] = [
    "v",
    "\"\"",
    "0",
    "1",
    "-1",
    "42",
    "9223372036854775807",
    "-9223372036854775808",
    "3.25",
    "1e3",
    "0.1",
    "-0",
    "\"a b\"",
    "\"\\x00\\xff\"",
    "abc",
    "12345678901234567890",
];
const NUMBERS: [&str; 14] = [
    "0",
    "1",
    "-1",
    "2",
    "-3",
    "7",
    "100",
    "1000",
    "9223372036854775807",
    "-9223372036854775808",
    "abc",
    "1.5",
    "\"\"",
    "99999999999999999999",
];
/// Times that are far from now, so that no reply depends on when exactly a command runs.
const TIMES: [&str; 8] = ["1000", "100000", "0", "-1", "abc", "9223372036854775807", "33177117420", "5000"];

/// The commands of one seed.
pub(crate) struct Commands {
    random: StdRng,
    keys: Vec<String>,
}

impl Commands {
    pub(crate) fn new(seed: u64) -> Self {
        Self::on(seed, KEYS.map(str::to_owned).to_vec())
    }

    /// Commands on `keys`.
    pub(crate) fn on(seed: u64, keys: Vec<String>) -> Self {
        Self { random: StdRng::seed_from_u64(seed), keys }
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of.choose(&mut self.random).expect("not empty")
    }

    fn key(&mut self) -> String {
        self.keys.choose(&mut self.random).expect("not empty").clone()
    }

    fn value(&mut self) -> String {
        if self.random.random_bool(0.2) {
            let number: f64 = self.random.random_range(-1e6..1e6);
            let places = self.random.random_range(0..12);
            return format!("{number:.places$}");
        }
        self.one(&VALUES).to_owned()
    }

    /// A number with up to 24 digits, in some notation.
    fn float(&mut self) -> String {
        let digits: String = (0..self.random.random_range(1..25))
            .map(|_| self.random.random_range(0..10).to_string())
            .collect();
        let sign = self.one(&["", "-", "+"]);
        match self.random.random_range(0..4) {
            0 => format!("{sign}{digits}"),
            1 => format!("{sign}{}.{digits}", self.random.random_range(0..100_000)),
            2 => format!("{sign}{digits}e{}", self.random.random_range(-45..25)),
            _ => format!(
                "{sign}0x{}.{digits}p{}",
                self.random.random_range(0..100),
                self.random.random_range(-70..70)
            ),
        }
    }

    fn options(&mut self, of: &[&str]) -> String {
        let mut options = String::new();
        while self.random.random_bool(0.4) {
            let option = self.one(of);
            options.push(' ');
            options.push_str(option);
            let takes_a_time = ["ex", "px", "exat", "pxat"].contains(&option.to_ascii_lowercase().as_str());
            if takes_a_time && self.random.random_bool(0.95) {
                options.push(' ');
                options.push_str(self.one(&TIMES));
            }
        }
        options
    }

    fn pairs(&mut self) -> String {
        (0..self.random.random_range(1..4)).map(|_| format!(" {} {}", self.key(), self.value())).collect()
    }

    fn keys(&mut self) -> String {
        (0..self.random.random_range(1..5)).map(|_| format!(" {}", self.key())).collect()
    }

    /// The next command, with its mark.
    pub(crate) fn next_command(&mut self) -> String {
        let key = self.key();
        match self.random.random_range(0..31) {
            0..=3 => {
                let value = self.value();
                let options =
                    self.options(&["nx", "xx", "get", "keepttl", "ex", "px", "exat", "pxat", "NX", "foo"]);
                format!("set {key} {value}{options}")
            }
            4..=5 => format!("get {key}"),
            6 => format!("getex {key}{}", self.options(&["persist", "ex", "px", "exat", "pxat", "nx"])),
            7 => format!("getdel {key}"),
            8 => format!("getset {key} {}", self.value()),
            9 => format!("setnx {key} {}", self.value()),
            10 => format!("{} {key} {} {}", self.one(&["setex", "psetex"]), self.one(&TIMES), self.value()),
            11 => format!("mget{}", self.keys()),
            12 => format!("{}{}", self.one(&["mset", "msetnx"]), self.pairs()),
            13 => format!("{}{}", self.one(&["del", "unlink", "exists", "touch"]), self.keys()),
            14 => format!("{} {key}", self.one(&["incr", "decr"])),
            15 => format!("{} {key} {}", self.one(&["incrby", "decrby"]), self.one(&NUMBERS)),
            16 => format!("incrbyfloat {key} {}", self.value()),
            17..=18 => format!("incrbyfloat {key} {}", self.float()),
            19 => format!("append {key} {}", self.value()),
            20 => format!("strlen {key}"),
            21 => format!(
                "{} {key} {} {}",
                self.one(&["getrange", "substr"]),
                self.one(&NUMBERS),
                self.one(&NUMBERS)
            ),
            22 => {
                format!("setrange {key} {} {}", self.one(&["0", "1", "5", "20", "-1", "abc"]), self.value())
            }
            23..=24 => {
                let command = self.one(&["expire", "pexpire", "expireat", "pexpireat"]);
                let time = self.one(&TIMES);
                format!("{command} {key} {time}{}", self.options(&["nx", "xx", "gt", "lt", "foo"]))
            }
            25 => format!("~{} {key}", self.one(&["ttl", "pttl", "expiretime", "pexpiretime"])),
            26 => format!("persist {key}"),
            27 => format!("{} {key} {}", self.one(&["rename", "renamenx"]), self.key()),
            28 => format!("type {key}"),
            29 => format!("%keys {}", self.one(&["*", "user:*", "?", "[ab]", "[^a]*", "nosuch"])),
            _ => format!("select {}", self.one(&["0", "0", "0", "1", "16", "x"])),
        }
    }
}

/// Patterns full of what is special in them.
pub(crate) fn patterns(seed: u64) -> impl Iterator<Item = String> {
    let mut random = StdRng::seed_from_u64(seed);
    std::iter::repeat_with(move || {
        let len = random.random_range(0..7);
        (0..len).map(|_| char::from(*b"ab*?[]^-\\a*c".choose(&mut random).expect("not empty"))).collect()
    })
}
