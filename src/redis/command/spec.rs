//! What is known about a command, and the words it is said in: flags, categories, places of keys.

use super::table::CommandId;

/// Changes keys.
pub(super) const WRITE: u16 = 1 << 0;
/// Only reads keys.
pub(super) const READONLY: u16 = 1 << 1;
/// May make the data larger.
pub(super) const DENYOOM: u16 = 1 << 2;
/// Is for administrators.
pub(super) const ADMIN: u16 = 1 << 3;
/// Is not for scripts.
pub(super) const NOSCRIPT: u16 = 1 << 4;
/// Works while the data are being loaded.
pub(super) const LOADING: u16 = 1 << 5;
/// Works on a stale replica.
pub(super) const STALE: u16 = 1 << 6;
/// Takes time that does not grow with the data.
pub(super) const FAST: u16 = 1 << 7;
/// Needs no authentication.
pub(super) const NO_AUTH: u16 = 1 << 8;
/// Is not for transactions.
pub(super) const NO_MULTI: u16 = 1 << 9;
/// Works while a script is busy.
pub(super) const ALLOW_BUSY: u16 = 1 << 10;

/// The names of the flags, in the order of their bits.
const FLAG_NAMES: [&str; 11] = [
    "write",
    "readonly",
    "denyoom",
    "admin",
    "noscript",
    "loading",
    "stale",
    "fast",
    "no_auth",
    "no_multi",
    "allow_busy",
];

/// Works on keys of any type.
pub(super) const KEYSPACE: u8 = 1 << 0;
/// Works on strings.
pub(super) const STRING: u8 = 1 << 1;
/// Can do harm, or shows what others do.
pub(super) const DANGEROUS: u8 = 1 << 2;
/// Is about the connection.
pub(super) const CONNECTION: u8 = 1 << 3;

/// What a command does to the keys of one specification, in the words of Redis.
pub(super) type KeyFlags = &'static [&'static str];

pub(super) const RO: KeyFlags = &["RO"];
pub(super) const RO_ACCESS: KeyFlags = &["RO", "access"];
pub(super) const RW_ACCESS_DELETE: KeyFlags = &["RW", "access", "delete"];
pub(super) const RW_ACCESS_UPDATE: KeyFlags = &["RW", "access", "update"];
pub(super) const RW_ACCESS_UPDATE_VARIABLE: KeyFlags = &["RW", "access", "update", "variable_flags"];
pub(super) const RW_INSERT: KeyFlags = &["RW", "insert"];
pub(super) const RW_UPDATE: KeyFlags = &["RW", "update"];
pub(super) const RM_DELETE: KeyFlags = &["RM", "delete"];
pub(super) const OW_INSERT: KeyFlags = &["OW", "insert"];
pub(super) const OW_UPDATE: KeyFlags = &["OW", "update"];

/// Where the keys are among the arguments, the name being argument 0. All zero if there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct KeyPlaces {
    /// The first key.
    pub(super) first: i32,
    /// The last key; negative if counted from the end, -1 being the last argument.
    pub(super) last: i32,
    /// From one key to the next.
    pub(super) step: i32,
}

/// What is known about a command, or a subcommand.
#[derive(Debug)]
pub(in super::super) struct Command {
    /// Its name: lower case, without that of the command that it is a subcommand of.
    pub(in super::super) name: &'static str,
    /// Its name, as `command|subcommand` if it is a subcommand.
    pub(in super::super) full_name: &'static str,
    /// Which one it is.
    pub(super) id: CommandId,
    /// How many arguments it takes, the name included; if negative, at least so many.
    pub(super) arity: i32,
    /// Where its keys are.
    pub(super) keys: KeyPlaces,
    /// What it does to them: one for all keys, or one for each.
    pub(super) key_flags: &'static [KeyFlags],
    /// A remark on that.
    pub(super) key_note: Option<&'static str>,
    /// Advice to clients that distribute commands over several servers.
    pub(super) tips: &'static [&'static str],
    /// Its subcommands, by name. If there are any, the second argument names one.
    pub(in super::super) subcommands: &'static [Self],
    /// Whether it is run inside a MULTI, where Redis queues the others.
    pub(super) runs_inside_multi: bool,
    flags: u16,
    categories: u8,
}

impl Command {
    pub(super) const fn new(id: CommandId, full_name: &'static str, arity: i32, flags: u16) -> Self {
        Self {
            name: behind_bar(full_name),
            full_name,
            id,
            arity,
            keys: KeyPlaces { first: 0, last: 0, step: 0 },
            key_flags: &[],
            key_note: None,
            tips: &[],
            subcommands: &[],
            runs_inside_multi: false,
            flags,
            categories: 0,
        }
    }

    pub(super) const fn in_categories(mut self, categories: u8) -> Self {
        self.categories = categories;
        self
    }

    pub(super) const fn with_key(self, flags: &'static [KeyFlags]) -> Self {
        self.with_keys(1, 1, 1, flags)
    }

    pub(super) const fn with_keys(
        mut self,
        first: i32,
        last: i32,
        step: i32,
        flags: &'static [KeyFlags],
    ) -> Self {
        self.keys = KeyPlaces { first, last, step };
        self.key_flags = flags;
        self
    }

    pub(super) const fn with_key_note(mut self, note: &'static str) -> Self {
        self.key_note = Some(note);
        self
    }

    pub(super) const fn with_tips(mut self, tips: &'static [&'static str]) -> Self {
        self.tips = tips;
        self
    }

    pub(super) const fn with_subcommands(mut self, subcommands: &'static [Self]) -> Self {
        self.subcommands = subcommands;
        self
    }

    pub(super) const fn not_queued(mut self) -> Self {
        self.runs_inside_multi = true;
        self
    }

    /// Whether it is a subcommand of the command called `container`.
    pub(super) fn is_subcommand_of(&self, container: &str) -> bool {
        self.full_name.split_once('|').is_some_and(|(before, _)| before == container)
    }

    /// Whether it can be called with `arguments` arguments, its name included.
    pub(in super::super) fn accepts(&self, arguments: usize) -> bool {
        let least = usize::try_from(self.arity.unsigned_abs()).unwrap_or(usize::MAX);
        if self.arity < 0 { arguments >= least } else { arguments == least }
    }

    /// Whether it has `flag`.
    pub(super) fn has_flag(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The names of its flags.
    pub(super) fn flag_names(&self) -> impl Iterator<Item = &'static str> + Clone {
        let flags = self.flags;
        FLAG_NAMES.iter().enumerate().filter(move |(bit, _)| flags >> bit & 1 != 0).map(|(_, &name)| name)
    }

    /// The names of its access categories.
    pub(super) fn category_names(&self) -> impl Iterator<Item = &'static str> + Clone {
        let category = |bit| self.categories & bit != 0;
        [
            (category(KEYSPACE), "@keyspace"),
            (self.has_flag(READONLY), "@read"),
            (self.has_flag(WRITE), "@write"),
            (category(STRING), "@string"),
            (self.has_flag(ADMIN), "@admin"),
            (self.has_flag(FAST), "@fast"),
            (!self.has_flag(FAST), "@slow"),
            (category(DANGEROUS) || self.has_flag(ADMIN), "@dangerous"),
            (category(CONNECTION), "@connection"),
        ]
        .into_iter()
        .filter_map(|(is_in, name)| is_in.then_some(name))
    }

    /// The places of the keys among `arguments` arguments, the name included.
    pub(super) fn key_indexes(&self, arguments: usize) -> impl Iterator<Item = usize> + use<> {
        let from_end = |index: i32| match usize::try_from(index) {
            Ok(index) => index,
            Err(_) => arguments.saturating_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX)),
        };
        let first = if self.keys.first == 0 { usize::MAX } else { from_end(self.keys.first) };
        let last = from_end(self.keys.last).min(arguments.saturating_sub(1));
        (first..=last).step_by(usize::try_from(self.keys.step).unwrap_or(1).max(1))
    }
}

/// What is behind the bar of `full_name`, or all of it if there is no bar.
const fn behind_bar(full_name: &'static str) -> &'static str {
    let bytes = full_name.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'|' {
            return full_name.split_at(at + 1).1;
        }
        at += 1;
    }
    full_name
}
