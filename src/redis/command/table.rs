//! The commands there are: names, arities, flags, categories and places of keys, as COMMAND INFO
//! tells them.

/// Which command it is, subcommands included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the command of that name")]
pub enum Id {
    Append,
    Auth,
    Client,
    ClientCaching,
    ClientGetName,
    ClientGetRedir,
    ClientHelp,
    ClientId,
    ClientInfo,
    ClientKill,
    ClientList,
    ClientNoEvict,
    ClientReply,
    ClientSetInfo,
    ClientSetName,
    ClientTracking,
    ClientTrackingInfo,
    Command,
    CommandCount,
    CommandDocs,
    CommandGetKeys,
    CommandHelp,
    CommandInfo,
    CommandList,
    Config,
    ConfigGet,
    ConfigHelp,
    ConfigResetStat,
    ConfigRewrite,
    ConfigSet,
    DbSize,
    Decr,
    DecrBy,
    Del,
    Discard,
    Echo,
    Exec,
    Exists,
    Expire,
    ExpireAt,
    ExpireTime,
    FlushAll,
    FlushDb,
    Get,
    GetDel,
    GetEx,
    GetRange,
    GetSet,
    Hello,
    Incr,
    IncrBy,
    IncrByFloat,
    Info,
    Keys,
    Mget,
    Mset,
    MsetNx,
    Multi,
    Persist,
    PExpire,
    PExpireAt,
    PExpireTime,
    Ping,
    PsetEx,
    Pttl,
    Quit,
    RandomKey,
    Rename,
    RenameNx,
    Reset,
    Scan,
    Select,
    Set,
    SetEx,
    SetNx,
    SetRange,
    Shutdown,
    StrLen,
    SubStr,
    Time,
    Touch,
    Ttl,
    Type,
    Unlink,
    Unwatch,
    Watch,
}

/// Changes keys.
pub const WRITE: u16 = 1 << 0;
/// Only reads keys.
pub const READONLY: u16 = 1 << 1;
/// May make the data larger.
pub const DENYOOM: u16 = 1 << 2;
/// Is for administrators.
pub const ADMIN: u16 = 1 << 3;
/// Is not for scripts.
pub const NOSCRIPT: u16 = 1 << 4;
/// Works while the data are being loaded.
pub const LOADING: u16 = 1 << 5;
/// Works on a stale replica.
pub const STALE: u16 = 1 << 6;
/// Takes time that does not grow with the data.
pub const FAST: u16 = 1 << 7;
/// Needs no authentication.
pub const NO_AUTH: u16 = 1 << 8;
/// Is not for transactions.
pub const NO_MULTI: u16 = 1 << 9;
/// Works while a script is busy.
pub const ALLOW_BUSY: u16 = 1 << 10;

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
const KEYSPACE: u8 = 1 << 0;
/// Works on strings.
const STRING: u8 = 1 << 1;
/// Can do harm, or shows what others do.
const DANGEROUS: u8 = 1 << 2;
/// Is about the connection.
const CONNECTION: u8 = 1 << 3;

/// The longest name of a command, in bytes.
const MAX_NAME_BYTES: usize = 16;

/// Where the keys are among the arguments, the name being argument 0. All zero if there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyPlaces {
    /// The first key.
    pub first: i32,
    /// The last key; negative if counted from the end, -1 being the last argument.
    pub last: i32,
    /// From one key to the next.
    pub step: i32,
}

/// What is known about a command, or a subcommand.
#[derive(Debug)]
pub struct Command {
    /// Its name: lower case, without that of the command that it is a subcommand of.
    pub name: &'static str,
    /// Its name, as `command|subcommand` if it is a subcommand.
    pub full_name: &'static str,
    /// Which one it is.
    pub id: Id,
    /// How many arguments it takes, the name included; if negative, at least so many.
    pub arity: i32,
    /// Where its keys are.
    pub keys: KeyPlaces,
    /// Advice to clients that distribute commands over several servers.
    pub tips: &'static [&'static str],
    /// Its subcommands, by name. If there are any, the second argument names one.
    pub subcommands: &'static [Command],
    flags: u16,
    categories: u8,
}

impl Command {
    const fn new(full_name: &'static str, id: Id, arity: i32, flags: u16) -> Self {
        Self {
            name: behind_bar(full_name),
            full_name,
            id,
            arity,
            keys: KeyPlaces { first: 0, last: 0, step: 0 },
            tips: &[],
            subcommands: &[],
            flags,
            categories: 0,
        }
    }

    const fn in_categories(mut self, categories: u8) -> Self {
        self.categories = categories;
        self
    }

    const fn with_keys(mut self, first: i32, last: i32, step: i32) -> Self {
        self.keys = KeyPlaces { first, last, step };
        self
    }

    const fn with_tips(mut self, tips: &'static [&'static str]) -> Self {
        self.tips = tips;
        self
    }

    const fn with_subcommands(mut self, subcommands: &'static [Self]) -> Self {
        self.subcommands = subcommands;
        self
    }

    /// Whether it can be called with `arguments` arguments, its name included.
    pub fn accepts(&self, arguments: usize) -> bool {
        let least = usize::try_from(self.arity.unsigned_abs()).unwrap_or(usize::MAX);
        if self.arity < 0 { arguments >= least } else { arguments == least }
    }

    /// Whether it has `flag`.
    pub fn has_flag(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The names of its flags.
    pub fn flag_names(&self) -> impl Iterator<Item = &'static str> + Clone {
        let flags = self.flags;
        FLAG_NAMES.iter().enumerate().filter(move |(bit, _)| flags >> bit & 1 != 0).map(|(_, &name)| name)
    }

    /// The names of its access categories.
    pub fn category_names(&self) -> impl Iterator<Item = &'static str> + Clone {
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
    pub fn key_indexes(&self, arguments: usize) -> impl Iterator<Item = usize> + use<> {
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

/// The command called `name`, in upper or lower case.
pub fn find(name: &[u8]) -> Option<&'static Command> {
    find_in(&COMMANDS, name)
}

/// The command called `name`, in upper or lower case, among `commands` in the order of their names.
pub fn find_in(commands: &'static [Command], name: &[u8]) -> Option<&'static Command> {
    let mut lower = [0; MAX_NAME_BYTES];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let index = commands.binary_search_by(|command| command.name.as_bytes().cmp(lower)).ok()?;
    commands.get(index)
}

/// The command called `name`, in upper or lower case, among those that are known only to be refused
/// properly. They are in no list: a client that looks for one is told that it is not there.
pub(super) fn find_refused(name: &[u8]) -> Option<&'static Command> {
    find_in(&REFUSED, name)
}

/// All commands, in the order of their names.
pub fn all() -> &'static [Command] {
    &COMMANDS
}

/// The command `id`, which must not be a subcommand's.
pub(super) fn command(id: Id) -> &'static Command {
    COMMANDS.iter().find(|command| command.id == id).unwrap_or(&COMMANDS[0])
}

static CLIENT_SUBCOMMANDS: [Command; 14] = [
    Command::new("client|caching", Id::ClientCaching, 3, NOSCRIPT | LOADING | STALE)
        .in_categories(CONNECTION),
    Command::new("client|getname", Id::ClientGetName, 2, NOSCRIPT | LOADING | STALE)
        .in_categories(CONNECTION),
    Command::new("client|getredir", Id::ClientGetRedir, 2, NOSCRIPT | LOADING | STALE)
        .in_categories(CONNECTION),
    Command::new("client|help", Id::ClientHelp, 2, LOADING | STALE).in_categories(CONNECTION),
    Command::new("client|id", Id::ClientId, 2, NOSCRIPT | LOADING | STALE).in_categories(CONNECTION),
    Command::new("client|info", Id::ClientInfo, 2, NOSCRIPT | LOADING | STALE)
        .in_categories(CONNECTION)
        .with_tips(&["nondeterministic_output"]),
    Command::new("client|kill", Id::ClientKill, -3, ADMIN | NOSCRIPT | LOADING | STALE)
        .in_categories(CONNECTION),
    Command::new("client|list", Id::ClientList, -2, ADMIN | NOSCRIPT | LOADING | STALE)
        .in_categories(CONNECTION)
        .with_tips(&["nondeterministic_output"]),
    Command::new("client|no-evict", Id::ClientNoEvict, 3, ADMIN | NOSCRIPT | LOADING | STALE)
        .in_categories(CONNECTION),
    Command::new("client|reply", Id::ClientReply, 3, NOSCRIPT | LOADING | STALE).in_categories(CONNECTION),
    Command::new("client|setinfo", Id::ClientSetInfo, 4, NOSCRIPT | LOADING | STALE)
        .in_categories(CONNECTION),
    Command::new("client|setname", Id::ClientSetName, 3, NOSCRIPT | LOADING | STALE)
        .in_categories(CONNECTION),
    Command::new("client|tracking", Id::ClientTracking, -3, NOSCRIPT | LOADING | STALE)
        .in_categories(CONNECTION),
    Command::new("client|trackinginfo", Id::ClientTrackingInfo, 2, NOSCRIPT | LOADING | STALE)
        .in_categories(CONNECTION),
];

static COMMAND_SUBCOMMANDS: [Command; 6] = [
    Command::new("command|count", Id::CommandCount, 2, LOADING | STALE).in_categories(CONNECTION),
    Command::new("command|docs", Id::CommandDocs, -2, LOADING | STALE)
        .in_categories(CONNECTION)
        .with_tips(&["nondeterministic_output_order"]),
    Command::new("command|getkeys", Id::CommandGetKeys, -4, LOADING | STALE).in_categories(CONNECTION),
    Command::new("command|help", Id::CommandHelp, 2, LOADING | STALE).in_categories(CONNECTION),
    Command::new("command|info", Id::CommandInfo, -2, LOADING | STALE)
        .in_categories(CONNECTION)
        .with_tips(&["nondeterministic_output_order"]),
    Command::new("command|list", Id::CommandList, -2, LOADING | STALE)
        .in_categories(CONNECTION)
        .with_tips(&["nondeterministic_output_order"]),
];

static CONFIG_SUBCOMMANDS: [Command; 5] = [
    Command::new("config|get", Id::ConfigGet, -3, ADMIN | NOSCRIPT | LOADING | STALE),
    Command::new("config|help", Id::ConfigHelp, 2, LOADING | STALE),
    Command::new("config|resetstat", Id::ConfigResetStat, 2, ADMIN | NOSCRIPT | LOADING | STALE),
    Command::new("config|rewrite", Id::ConfigRewrite, 2, ADMIN | NOSCRIPT | LOADING | STALE),
    Command::new("config|set", Id::ConfigSet, -4, ADMIN | NOSCRIPT | LOADING | STALE)
        .with_tips(&["request_policy:all_nodes", "response_policy:all_succeeded"]),
];

/// The commands of transactions.
static REFUSED: [Command; 5] = [
    Command::new("discard", Id::Discard, 1, NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY),
    Command::new("exec", Id::Exec, 1, NOSCRIPT | LOADING | STALE),
    Command::new("multi", Id::Multi, 1, NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY),
    Command::new("unwatch", Id::Unwatch, 1, NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY),
    Command::new("watch", Id::Watch, -2, NOSCRIPT | LOADING | STALE | FAST | NO_MULTI | ALLOW_BUSY)
        .with_keys(1, -1, 1),
];

static COMMANDS: [Command; 56] = [
    Command::new("append", Id::Append, 3, WRITE | DENYOOM | FAST).in_categories(STRING).with_keys(1, 1, 1),
    Command::new("auth", Id::Auth, -2, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY)
        .in_categories(CONNECTION),
    Command::new("client", Id::Client, -2, 0).with_subcommands(&CLIENT_SUBCOMMANDS),
    Command::new("command", Id::Command, -1, LOADING | STALE)
        .in_categories(CONNECTION)
        .with_tips(&["nondeterministic_output_order"])
        .with_subcommands(&COMMAND_SUBCOMMANDS),
    Command::new("config", Id::Config, -2, 0).with_subcommands(&CONFIG_SUBCOMMANDS),
    Command::new("dbsize", Id::DbSize, 1, READONLY | FAST)
        .in_categories(KEYSPACE)
        .with_tips(&["request_policy:all_shards", "response_policy:agg_sum"]),
    Command::new("decr", Id::Decr, 2, WRITE | DENYOOM | FAST).in_categories(STRING).with_keys(1, 1, 1),
    Command::new("decrby", Id::DecrBy, 3, WRITE | DENYOOM | FAST).in_categories(STRING).with_keys(1, 1, 1),
    Command::new("del", Id::Del, -2, WRITE)
        .in_categories(KEYSPACE)
        .with_keys(1, -1, 1)
        .with_tips(&["request_policy:multi_shard", "response_policy:agg_sum"]),
    Command::new("echo", Id::Echo, 2, LOADING | STALE | FAST).in_categories(CONNECTION),
    Command::new("exists", Id::Exists, -2, READONLY | FAST)
        .in_categories(KEYSPACE)
        .with_keys(1, -1, 1)
        .with_tips(&["request_policy:multi_shard", "response_policy:agg_sum"]),
    Command::new("expire", Id::Expire, -3, WRITE | FAST).in_categories(KEYSPACE).with_keys(1, 1, 1),
    Command::new("expireat", Id::ExpireAt, -3, WRITE | FAST).in_categories(KEYSPACE).with_keys(1, 1, 1),
    Command::new("expiretime", Id::ExpireTime, 2, READONLY | FAST).in_categories(KEYSPACE).with_keys(1, 1, 1),
    Command::new("flushall", Id::FlushAll, -1, WRITE)
        .in_categories(KEYSPACE | DANGEROUS)
        .with_tips(&["request_policy:all_shards", "response_policy:all_succeeded"]),
    Command::new("flushdb", Id::FlushDb, -1, WRITE)
        .in_categories(KEYSPACE | DANGEROUS)
        .with_tips(&["request_policy:all_shards", "response_policy:all_succeeded"]),
    Command::new("get", Id::Get, 2, READONLY | FAST).in_categories(STRING).with_keys(1, 1, 1),
    Command::new("getdel", Id::GetDel, 2, WRITE | FAST).in_categories(STRING).with_keys(1, 1, 1),
    Command::new("getex", Id::GetEx, -2, WRITE | FAST).in_categories(STRING).with_keys(1, 1, 1),
    Command::new("getrange", Id::GetRange, 4, READONLY).in_categories(STRING).with_keys(1, 1, 1),
    Command::new("getset", Id::GetSet, 3, WRITE | DENYOOM | FAST).in_categories(STRING).with_keys(1, 1, 1),
    Command::new("hello", Id::Hello, -1, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY)
        .in_categories(CONNECTION),
    Command::new("incr", Id::Incr, 2, WRITE | DENYOOM | FAST).in_categories(STRING).with_keys(1, 1, 1),
    Command::new("incrby", Id::IncrBy, 3, WRITE | DENYOOM | FAST).in_categories(STRING).with_keys(1, 1, 1),
    Command::new("incrbyfloat", Id::IncrByFloat, 3, WRITE | DENYOOM | FAST)
        .in_categories(STRING)
        .with_keys(1, 1, 1),
    Command::new("info", Id::Info, -1, LOADING | STALE).in_categories(DANGEROUS).with_tips(&[
        "nondeterministic_output",
        "request_policy:all_shards",
        "response_policy:special",
    ]),
    Command::new("keys", Id::Keys, 2, READONLY)
        .in_categories(KEYSPACE | DANGEROUS)
        .with_tips(&["request_policy:all_shards", "nondeterministic_output_order"]),
    Command::new("mget", Id::Mget, -2, READONLY | FAST)
        .in_categories(STRING)
        .with_keys(1, -1, 1)
        .with_tips(&["request_policy:multi_shard"]),
    Command::new("mset", Id::Mset, -3, WRITE | DENYOOM)
        .in_categories(STRING)
        .with_keys(1, -1, 2)
        .with_tips(&["request_policy:multi_shard", "response_policy:all_succeeded"]),
    Command::new("msetnx", Id::MsetNx, -3, WRITE | DENYOOM)
        .in_categories(STRING)
        .with_keys(1, -1, 2)
        .with_tips(&["request_policy:multi_shard", "response_policy:agg_min"]),
    Command::new("persist", Id::Persist, 2, WRITE | FAST).in_categories(KEYSPACE).with_keys(1, 1, 1),
    Command::new("pexpire", Id::PExpire, -3, WRITE | FAST).in_categories(KEYSPACE).with_keys(1, 1, 1),
    Command::new("pexpireat", Id::PExpireAt, -3, WRITE | FAST).in_categories(KEYSPACE).with_keys(1, 1, 1),
    Command::new("pexpiretime", Id::PExpireTime, 2, READONLY | FAST)
        .in_categories(KEYSPACE)
        .with_keys(1, 1, 1),
    Command::new("ping", Id::Ping, -1, FAST)
        .in_categories(CONNECTION)
        .with_tips(&["request_policy:all_shards", "response_policy:all_succeeded"]),
    Command::new("psetex", Id::PsetEx, 4, WRITE | DENYOOM).in_categories(STRING).with_keys(1, 1, 1),
    Command::new("pttl", Id::Pttl, 2, READONLY | FAST)
        .in_categories(KEYSPACE)
        .with_keys(1, 1, 1)
        .with_tips(&["nondeterministic_output"]),
    Command::new("quit", Id::Quit, -1, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY)
        .in_categories(CONNECTION),
    Command::new("randomkey", Id::RandomKey, 1, READONLY)
        .in_categories(KEYSPACE)
        .with_tips(&["request_policy:all_shards", "nondeterministic_output"]),
    Command::new("rename", Id::Rename, 3, WRITE).in_categories(KEYSPACE).with_keys(1, 2, 1),
    Command::new("renamenx", Id::RenameNx, 3, WRITE | FAST).in_categories(KEYSPACE).with_keys(1, 2, 1),
    Command::new("reset", Id::Reset, 1, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY)
        .in_categories(CONNECTION),
    Command::new("scan", Id::Scan, -2, READONLY)
        .in_categories(KEYSPACE)
        .with_tips(&["nondeterministic_output", "request_policy:special"]),
    Command::new("select", Id::Select, 2, LOADING | STALE | FAST).in_categories(CONNECTION),
    Command::new("set", Id::Set, -3, WRITE | DENYOOM).in_categories(STRING).with_keys(1, 1, 1),
    Command::new("setex", Id::SetEx, 4, WRITE | DENYOOM).in_categories(STRING).with_keys(1, 1, 1),
    Command::new("setnx", Id::SetNx, 3, WRITE | DENYOOM | FAST).in_categories(STRING).with_keys(1, 1, 1),
    Command::new("setrange", Id::SetRange, 4, WRITE | DENYOOM).in_categories(STRING).with_keys(1, 1, 1),
    Command::new("shutdown", Id::Shutdown, -1, ADMIN | NOSCRIPT | LOADING | STALE | NO_MULTI | ALLOW_BUSY),
    Command::new("strlen", Id::StrLen, 2, READONLY | FAST).in_categories(STRING).with_keys(1, 1, 1),
    Command::new("substr", Id::SubStr, 4, READONLY).in_categories(STRING).with_keys(1, 1, 1),
    Command::new("time", Id::Time, 1, LOADING | STALE | FAST).with_tips(&["nondeterministic_output"]),
    Command::new("touch", Id::Touch, -2, READONLY | FAST)
        .in_categories(KEYSPACE)
        .with_keys(1, -1, 1)
        .with_tips(&["request_policy:multi_shard", "response_policy:agg_sum"]),
    Command::new("ttl", Id::Ttl, 2, READONLY | FAST)
        .in_categories(KEYSPACE)
        .with_keys(1, 1, 1)
        .with_tips(&["nondeterministic_output"]),
    Command::new("type", Id::Type, 2, READONLY | FAST).in_categories(KEYSPACE).with_keys(1, 1, 1),
    Command::new("unlink", Id::Unlink, -2, WRITE | FAST)
        .in_categories(KEYSPACE)
        .with_keys(1, -1, 1)
        .with_tips(&["request_policy:multi_shard", "response_policy:agg_sum"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_in_the_order_of_names() {
        for table in [&COMMANDS[..], &REFUSED, &CLIENT_SUBCOMMANDS, &COMMAND_SUBCOMMANDS, &CONFIG_SUBCOMMANDS]
        {
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
        assert_eq!(find(b"GeT").map(|command| command.id), Some(Id::Get));
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
