//! The table of commands: the only list of them.
//!
//! A row says all that COMMAND INFO tells of a command, and what the server itself needs to know:
//! the name, the arity, the flags, the categories, where the keys are. Dispatch is an exhaustive
//! `match` over [`CommandId`], which the rows define: a row without a handler does not compile.

use super::flags::{
    ADMIN, ALLOW_BUSY, CONNECTION, DANGEROUS, DENYOOM, FAST, FLAG_NAMES, KEYSPACE, KeyFlags, LOADING,
    NO_AUTH, NO_MULTI, NOSCRIPT, OW_INSERT, OW_UPDATE, READONLY, RM_DELETE, RO, RO_ACCESS, RW_ACCESS_DELETE,
    RW_ACCESS_UPDATE, RW_ACCESS_UPDATE_VARIABLE, RW_INSERT, RW_UPDATE, STALE, STRING, WRITE,
};

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
    /// How many arguments it takes, the name included; if negative, at least that many.
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
    /// Whether it runs at once inside a MULTI, where Redis queues the others.
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

/// What follows the bar in `full_name`, or all of it if there is no bar.
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

/// Makes the enum of all commands, and tables of them in the order of their names. A row is
/// `Id("name", arity, flags)` and more calls of [`Command`].
macro_rules! commands {
    ($(
        $table:ident = [$( $id:ident($($part:expr),*) $( .$more:ident($($value:expr),*) )* ),* $(,)?]
    ),* $(,)?) => {
        /// Which command it is, subcommands included.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum CommandId {
            $($( $id, )*)*
        }

        $(
            static $table: [Command; [$( CommandId::$id ),*].len()] =
                [$( Command::new(CommandId::$id, $($part),*) $( .$more($($value),*) )* ),*];
        )*

        /// All tables.
        #[cfg(test)]
        static TABLES: [&[Command]; [$( stringify!($table) ),*].len()] = [$( &$table ),*];
    };
}

// Those in REFUSED are known only to be refused properly. They are in no list: a client that looks
// for one is told that it does not exist.
commands!(
    COMMANDS = [
        Append("append", 3, WRITE | DENYOOM | FAST).in_categories(STRING).with_key(&[RW_INSERT]),
        Auth("auth", -2, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY).in_categories(CONNECTION),
        Client("client", -2, 0).with_subcommands(&CLIENT_SUBCOMMANDS),
        Command("command", -1, LOADING | STALE)
            .in_categories(CONNECTION)
            .with_tips(&["nondeterministic_output_order"])
            .with_subcommands(&COMMAND_SUBCOMMANDS),
        Config("config", -2, 0).with_subcommands(&CONFIG_SUBCOMMANDS),
        DbSize("dbsize", 1, READONLY | FAST)
            .in_categories(KEYSPACE)
            .with_tips(&["request_policy:all_shards", "response_policy:agg_sum"]),
        Decr("decr", 2, WRITE | DENYOOM | FAST).in_categories(STRING).with_key(&[RW_ACCESS_UPDATE]),
        DecrBy("decrby", 3, WRITE | DENYOOM | FAST).in_categories(STRING).with_key(&[RW_ACCESS_UPDATE]),
        Del("del", -2, WRITE)
            .in_categories(KEYSPACE)
            .with_keys(1, -1, 1, &[RM_DELETE])
            .with_tips(&["request_policy:multi_shard", "response_policy:agg_sum"]),
        Echo("echo", 2, LOADING | STALE | FAST).in_categories(CONNECTION),
        Exists("exists", -2, READONLY | FAST)
            .in_categories(KEYSPACE)
            .with_keys(1, -1, 1, &[RO])
            .with_tips(&["request_policy:multi_shard", "response_policy:agg_sum"]),
        Expire("expire", -3, WRITE | FAST).in_categories(KEYSPACE).with_key(&[RW_UPDATE]),
        ExpireAt("expireat", -3, WRITE | FAST).in_categories(KEYSPACE).with_key(&[RW_UPDATE]),
        ExpireTime("expiretime", 2, READONLY | FAST).in_categories(KEYSPACE).with_key(&[RO_ACCESS]),
        FlushAll("flushall", -1, WRITE)
            .in_categories(KEYSPACE | DANGEROUS)
            .with_tips(&["request_policy:all_shards", "response_policy:all_succeeded"]),
        FlushDb("flushdb", -1, WRITE)
            .in_categories(KEYSPACE | DANGEROUS)
            .with_tips(&["request_policy:all_shards", "response_policy:all_succeeded"]),
        Get("get", 2, READONLY | FAST).in_categories(STRING).with_key(&[RO_ACCESS]),
        GetDel("getdel", 2, WRITE | FAST).in_categories(STRING).with_key(&[RW_ACCESS_DELETE]),
        GetEx("getex", -2, WRITE | FAST)
            .in_categories(STRING)
            .with_key(&[RW_ACCESS_UPDATE])
            .with_key_note("RW and UPDATE because it changes the TTL"),
        GetRange("getrange", 4, READONLY).in_categories(STRING).with_key(&[RO_ACCESS]),
        GetSet("getset", 3, WRITE | DENYOOM | FAST).in_categories(STRING).with_key(&[RW_ACCESS_UPDATE]),
        Hello("hello", -1, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY)
            .in_categories(CONNECTION),
        Incr("incr", 2, WRITE | DENYOOM | FAST).in_categories(STRING).with_key(&[RW_ACCESS_UPDATE]),
        IncrBy("incrby", 3, WRITE | DENYOOM | FAST).in_categories(STRING).with_key(&[RW_ACCESS_UPDATE]),
        IncrByFloat("incrbyfloat", 3, WRITE | DENYOOM | FAST)
            .in_categories(STRING)
            .with_key(&[RW_ACCESS_UPDATE]),
        Info("info", -1, LOADING | STALE).in_categories(DANGEROUS).with_tips(&[
            "nondeterministic_output",
            "request_policy:all_shards",
            "response_policy:special",
        ]),
        Keys("keys", 2, READONLY)
            .in_categories(KEYSPACE | DANGEROUS)
            .with_tips(&["request_policy:all_shards", "nondeterministic_output_order"]),
        Mget("mget", -2, READONLY | FAST)
            .in_categories(STRING)
            .with_keys(1, -1, 1, &[RO_ACCESS])
            .with_tips(&["request_policy:multi_shard"]),
        Mset("mset", -3, WRITE | DENYOOM)
            .in_categories(STRING)
            .with_keys(1, -1, 2, &[OW_UPDATE])
            .with_tips(&["request_policy:multi_shard", "response_policy:all_succeeded"]),
        MsetNx("msetnx", -3, WRITE | DENYOOM)
            .in_categories(STRING)
            .with_keys(1, -1, 2, &[OW_INSERT])
            .with_tips(&["request_policy:multi_shard", "response_policy:agg_min"]),
        Persist("persist", 2, WRITE | FAST).in_categories(KEYSPACE).with_key(&[RW_UPDATE]),
        PExpire("pexpire", -3, WRITE | FAST).in_categories(KEYSPACE).with_key(&[RW_UPDATE]),
        PExpireAt("pexpireat", -3, WRITE | FAST).in_categories(KEYSPACE).with_key(&[RW_UPDATE]),
        PExpireTime("pexpiretime", 2, READONLY | FAST).in_categories(KEYSPACE).with_key(&[RO_ACCESS]),
        Ping("ping", -1, FAST)
            .in_categories(CONNECTION)
            .with_tips(&["request_policy:all_shards", "response_policy:all_succeeded"]),
        PsetEx("psetex", 4, WRITE | DENYOOM).in_categories(STRING).with_key(&[OW_UPDATE]),
        Pttl("pttl", 2, READONLY | FAST)
            .in_categories(KEYSPACE)
            .with_key(&[RO_ACCESS])
            .with_tips(&["nondeterministic_output"]),
        Quit("quit", -1, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY)
            .in_categories(CONNECTION)
            .not_queued(),
        RandomKey("randomkey", 1, READONLY)
            .in_categories(KEYSPACE)
            .with_tips(&["request_policy:all_shards", "nondeterministic_output"]),
        Rename("rename", 3, WRITE).in_categories(KEYSPACE).with_keys(1, 2, 1, &[RW_ACCESS_DELETE, OW_UPDATE]),
        RenameNx("renamenx", 3, WRITE | FAST).in_categories(KEYSPACE).with_keys(
            1,
            2,
            1,
            &[RW_ACCESS_DELETE, OW_INSERT]
        ),
        Reset("reset", 1, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY)
            .in_categories(CONNECTION)
            .not_queued(),
        Scan("scan", -2, READONLY)
            .in_categories(KEYSPACE)
            .with_tips(&["nondeterministic_output", "request_policy:special"]),
        Select("select", 2, LOADING | STALE | FAST).in_categories(CONNECTION),
        Set("set", -3, WRITE | DENYOOM)
            .in_categories(STRING)
            .with_key(&[RW_ACCESS_UPDATE_VARIABLE])
            .with_key_note("RW and ACCESS due to the optional `GET` argument"),
        SetEx("setex", 4, WRITE | DENYOOM).in_categories(STRING).with_key(&[OW_UPDATE]),
        SetNx("setnx", 3, WRITE | DENYOOM | FAST).in_categories(STRING).with_key(&[OW_INSERT]),
        SetRange("setrange", 4, WRITE | DENYOOM).in_categories(STRING).with_key(&[RW_UPDATE]),
        Shutdown("shutdown", -1, ADMIN | NOSCRIPT | LOADING | STALE | NO_MULTI | ALLOW_BUSY),
        StrLen("strlen", 2, READONLY | FAST).in_categories(STRING).with_key(&[RO]),
        SubStr("substr", 4, READONLY).in_categories(STRING).with_key(&[RO_ACCESS]),
        Time("time", 1, LOADING | STALE | FAST).with_tips(&["nondeterministic_output"]),
        Touch("touch", -2, READONLY | FAST)
            .in_categories(KEYSPACE)
            .with_keys(1, -1, 1, &[RO])
            .with_tips(&["request_policy:multi_shard", "response_policy:agg_sum"]),
        Ttl("ttl", 2, READONLY | FAST)
            .in_categories(KEYSPACE)
            .with_key(&[RO_ACCESS])
            .with_tips(&["nondeterministic_output"]),
        Type("type", 2, READONLY | FAST).in_categories(KEYSPACE).with_key(&[RO]),
        Unlink("unlink", -2, WRITE | FAST)
            .in_categories(KEYSPACE)
            .with_keys(1, -1, 1, &[RM_DELETE])
            .with_tips(&["request_policy:multi_shard", "response_policy:agg_sum"]),
    ],
    CLIENT_SUBCOMMANDS = [
        ClientCaching("client|caching", 3, NOSCRIPT | LOADING | STALE).in_categories(CONNECTION),
        ClientGetName("client|getname", 2, NOSCRIPT | LOADING | STALE).in_categories(CONNECTION),
        ClientGetRedir("client|getredir", 2, NOSCRIPT | LOADING | STALE).in_categories(CONNECTION),
        ClientHelp("client|help", 2, LOADING | STALE).in_categories(CONNECTION),
        ClientId("client|id", 2, NOSCRIPT | LOADING | STALE).in_categories(CONNECTION),
        ClientInfo("client|info", 2, NOSCRIPT | LOADING | STALE)
            .in_categories(CONNECTION)
            .with_tips(&["nondeterministic_output"]),
        ClientKill("client|kill", -3, ADMIN | NOSCRIPT | LOADING | STALE).in_categories(CONNECTION),
        ClientList("client|list", -2, ADMIN | NOSCRIPT | LOADING | STALE)
            .in_categories(CONNECTION)
            .with_tips(&["nondeterministic_output"]),
        ClientNoEvict("client|no-evict", 3, ADMIN | NOSCRIPT | LOADING | STALE).in_categories(CONNECTION),
        ClientReply("client|reply", 3, NOSCRIPT | LOADING | STALE).in_categories(CONNECTION),
        ClientSetInfo("client|setinfo", 4, NOSCRIPT | LOADING | STALE).in_categories(CONNECTION),
        ClientSetName("client|setname", 3, NOSCRIPT | LOADING | STALE).in_categories(CONNECTION),
        ClientTracking("client|tracking", -3, NOSCRIPT | LOADING | STALE).in_categories(CONNECTION),
        ClientTrackingInfo("client|trackinginfo", 2, NOSCRIPT | LOADING | STALE).in_categories(CONNECTION),
    ],
    COMMAND_SUBCOMMANDS = [
        CommandCount("command|count", 2, LOADING | STALE).in_categories(CONNECTION),
        CommandDocs("command|docs", -2, LOADING | STALE)
            .in_categories(CONNECTION)
            .with_tips(&["nondeterministic_output_order"]),
        CommandGetKeys("command|getkeys", -4, LOADING | STALE).in_categories(CONNECTION),
        CommandHelp("command|help", 2, LOADING | STALE).in_categories(CONNECTION),
        CommandInfo("command|info", -2, LOADING | STALE)
            .in_categories(CONNECTION)
            .with_tips(&["nondeterministic_output_order"]),
        CommandList("command|list", -2, LOADING | STALE)
            .in_categories(CONNECTION)
            .with_tips(&["nondeterministic_output_order"]),
    ],
    CONFIG_SUBCOMMANDS = [
        ConfigGet("config|get", -3, ADMIN | NOSCRIPT | LOADING | STALE),
        ConfigHelp("config|help", 2, LOADING | STALE),
        ConfigResetStat("config|resetstat", 2, ADMIN | NOSCRIPT | LOADING | STALE),
        ConfigRewrite("config|rewrite", 2, ADMIN | NOSCRIPT | LOADING | STALE),
        ConfigSet("config|set", -4, ADMIN | NOSCRIPT | LOADING | STALE)
            .with_tips(&["request_policy:all_nodes", "response_policy:all_succeeded"]),
    ],
    REFUSED = [
        Discard("discard", 1, NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY).not_queued(),
        Exec("exec", 1, NOSCRIPT | LOADING | STALE).not_queued(),
        Multi("multi", 1, NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY).not_queued(),
        Unwatch("unwatch", 1, NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY),
        Watch("watch", -2, NOSCRIPT | LOADING | STALE | FAST | NO_MULTI | ALLOW_BUSY)
            .with_keys(1, -1, 1, &[RO])
            .not_queued(),
    ],
);

/// The longest name of a command, in bytes.
const MAX_NAME_BYTES: usize = 16;

/// All commands that clients may use, in the order of their names.
pub(in super::super) fn all() -> &'static [Command] {
    &COMMANDS
}

/// All commands that clients may use and their subcommands, which follow their command.
pub(super) fn all_with_subcommands() -> impl Iterator<Item = &'static Command> {
    all().iter().flat_map(|command| std::iter::once(command).chain(command.subcommands))
}

/// The command called `name`, in upper or lower case, if clients may use it.
pub(super) fn find(name: &[u8]) -> Option<&'static Command> {
    find_in(&COMMANDS, name)
}

/// The command called `name`, in upper or lower case, whether it runs or is refused.
pub(super) fn find_any(name: &[u8]) -> Option<&'static Command> {
    find(name).or_else(|| find_in(&REFUSED, name))
}

/// The command called `name`, in upper or lower case, among `commands` in the order of their names.
pub(super) fn find_in(commands: &'static [Command], name: &[u8]) -> Option<&'static Command> {
    let mut lower = [0; MAX_NAME_BYTES];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let index = commands.binary_search_by(|command| command.name.as_bytes().cmp(lower)).ok()?;
    commands.get(index)
}

/// Every command with a row, refused ones and subcommands included.
#[cfg(test)]
pub(in super::super) fn every() -> impl Iterator<Item = &'static Command> {
    TABLES.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_in_the_order_of_names() {
        for table in TABLES {
            assert!(table.is_sorted_by(|a, b| a.name < b.name));
            for command in table {
                assert!(command.name.len() <= MAX_NAME_BYTES);
                assert!(std::ptr::eq(
                    find_in(table, command.name.as_bytes()).expect("finds itself"),
                    command
                ));
            }
        }
    }

    #[test]
    fn names_are_found_in_either_case() {
        assert_eq!(find(b"GeT").map(|command| command.id), Some(CommandId::Get));
        for name in [&b""[..], b"ge", b"gett", b"g\0t", b"a name longer than any"] {
            assert!(find(name).is_none());
        }
    }

    #[test]
    fn keys_are_where_the_table_says() {
        let keys = |name: &str, arguments| {
            find(name.as_bytes()).expect(name).key_indexes(arguments).collect::<Vec<_>>()
        };
        assert_eq!(keys("get", 2), [1]);
        assert_eq!(keys("mget", 4), [1, 2, 3]);
        assert_eq!(keys("mset", 5), [1, 3]);
        assert_eq!(keys("rename", 3), [1, 2]);
        assert!(keys("ping", 2).is_empty());
        assert!(keys("get", 1).is_empty());
    }
}
