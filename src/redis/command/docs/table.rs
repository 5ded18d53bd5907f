//! What COMMAND DOCS says of each command: the words of Redis 7.0, which `redis-cli` shows as help
//! and hints.

use super::super::table::CommandId;
use super::doc::{Doc, block, doc, double, integer, key, one_of, pattern, string, token, unix_time};

/// In the order of the commands' full names.
pub(super) static DOCS: [Doc; 81] = [
    doc(
        CommandId::Append,
        "string",
        "2.0.0",
        "O(1). The amortized time complexity is O(1) assuming the appended value is small \
            and the already present value is of any size, since the dynamic string library used \
            by Redis will double the free space available on every reallocation.",
        "Append a value to a key",
    )
    .arguments(&[key("key", 0), string("value")]),
    doc(
        CommandId::Auth,
        "connection",
        "1.0.0",
        "O(N) where N is the number of passwords defined for the user",
        "Authenticate to the server",
    )
    .history(&[("6.0.0", "Added ACL style (username and password).")])
    .arguments(&[string("username").since("6.0.0").optional(), string("password")]),
    doc(
        CommandId::Client,
        "connection",
        "2.4.0",
        "Depends on subcommand.",
        "A container for client connection commands",
    ),
    doc(
        CommandId::ClientCaching,
        "connection",
        "6.0.0",
        "O(1)",
        "Instruct the server about tracking or not keys in the next request",
    )
    .arguments(&[one_of("mode", &[token("yes", "YES"), token("no", "NO")])]),
    doc(CommandId::ClientGetName, "connection", "2.6.9", "O(1)", "Get the current connection name"),
    doc(
        CommandId::ClientGetRedir,
        "connection",
        "6.0.0",
        "O(1)",
        "Get tracking notifications redirection client ID if any",
    ),
    doc(
        CommandId::ClientHelp,
        "connection",
        "5.0.0",
        "O(1)",
        "Show helpful text about the different subcommands",
    ),
    doc(
        CommandId::ClientId,
        "connection",
        "5.0.0",
        "O(1)",
        "Returns the client ID for the current connection",
    ),
    doc(
        CommandId::ClientInfo,
        "connection",
        "6.2.0",
        "O(1)",
        "Returns information about the current client connection.",
    ),
    doc(
        CommandId::ClientKill,
        "connection",
        "2.4.0",
        "O(N) where N is the number of client connections",
        "Kill the connection of a client",
    )
    .history(&[
        ("2.8.12", "Added new filter format."),
        ("2.8.12", "`ID` option."),
        ("3.2.0", "Added `master` type in for `TYPE` option."),
        (
            "5.0.0",
            "Replaced `slave` `TYPE` with `replica`. `slave` still supported for backward \
            compatibility.",
        ),
        ("6.2.0", "`LADDR` option."),
    ])
    .arguments(&[one_of(
        "filter",
        &[
            string("ip:port").deprecated_since("2.8.12"),
            one_of(
                "new-format",
                &[
                    integer("client-id").behind("ID").since("2.8.12").optional(),
                    one_of(
                        "normal_master_slave_pubsub",
                        &[
                            token("normal", "NORMAL"),
                            token("master", "MASTER").since("3.2.0"),
                            token("slave", "SLAVE"),
                            token("replica", "REPLICA").since("5.0.0"),
                            token("pubsub", "PUBSUB"),
                        ],
                    )
                    .behind("TYPE")
                    .since("2.8.12")
                    .optional(),
                    string("username").behind("USER").optional(),
                    string("ip:port").behind("ADDR").optional(),
                    string("ip:port").behind("LADDR").since("6.2.0").optional(),
                    string("yes/no").behind("SKIPME").optional(),
                ],
            )
            .multiple(),
        ],
    )]),
    doc(
        CommandId::ClientList,
        "connection",
        "2.4.0",
        "O(N) where N is the number of client connections",
        "Get the list of client connections",
    )
    .history(&[
        ("2.8.12", "Added unique client `id` field."),
        ("5.0.0", "Added optional `TYPE` filter."),
        ("6.0.0", "Added `user` field."),
        (
            "6.2.0",
            "Added `argv-mem`, `tot-mem`, `laddr` and `redir` fields and the optional `ID` \
            filter.",
        ),
        ("7.0.0", "Added `resp`, `multi-mem`, `rbs` and `rbp` fields."),
        ("7.0.3", "Added `ssub` field."),
    ])
    .arguments(&[
        one_of(
            "normal_master_replica_pubsub",
            &[
                token("normal", "NORMAL"),
                token("master", "MASTER"),
                token("replica", "REPLICA"),
                token("pubsub", "PUBSUB"),
            ],
        )
        .behind("TYPE")
        .since("5.0.0")
        .optional(),
        block("id", &[integer("client-id").multiple()]).behind("ID").since("6.2.0").optional(),
    ]),
    doc(
        CommandId::ClientNoEvict,
        "connection",
        "7.0.0",
        "O(1)",
        "Set client eviction mode for the current connection",
    )
    .arguments(&[one_of("enabled", &[token("on", "ON"), token("off", "OFF")])]),
    doc(
        CommandId::ClientReply,
        "connection",
        "3.2.0",
        "O(1)",
        "Instruct the server whether to reply to commands",
    )
    .arguments(&[one_of("on_off_skip", &[token("on", "ON"), token("off", "OFF"), token("skip", "SKIP")])]),
    doc(CommandId::ClientSetInfo, "connection", "7.2.0", "O(1)", "Set client or connection specific info")
        .arguments(&[one_of(
            "attr",
            &[string("libname").behind("LIB-NAME"), string("libver").behind("LIB-VER")],
        )]),
    doc(CommandId::ClientSetName, "connection", "2.6.9", "O(1)", "Set the current connection name")
        .arguments(&[string("connection-name")]),
    doc(
        CommandId::ClientTracking,
        "connection",
        "6.0.0",
        "O(1). Some options may introduce additional complexity.",
        "Enable or disable server assisted client side caching support",
    )
    .arguments(&[
        one_of("status", &[token("on", "ON"), token("off", "OFF")]),
        integer("client-id").behind("REDIRECT").optional(),
        string("prefix").behind("PREFIX").optional().multiple().multiple_token(),
        token("bcast", "BCAST").optional(),
        token("optin", "OPTIN").optional(),
        token("optout", "OPTOUT").optional(),
        token("noloop", "NOLOOP").optional(),
    ]),
    doc(
        CommandId::ClientTrackingInfo,
        "connection",
        "6.2.0",
        "O(1)",
        "Return information about server assisted client side caching for the current \
            connection",
    ),
    doc(
        CommandId::Command,
        "server",
        "2.8.13",
        "O(N) where N is the total number of Redis commands",
        "Get array of Redis command details",
    ),
    doc(CommandId::CommandCount, "server", "2.8.13", "O(1)", "Get total number of Redis commands"),
    doc(
        CommandId::CommandDocs,
        "server",
        "7.0.0",
        "O(N) where N is the number of commands to look up",
        "Get array of specific Redis command documentation",
    )
    .arguments(&[string("command-name").optional().multiple()]),
    doc(
        CommandId::CommandGetKeys,
        "server",
        "2.8.13",
        "O(N) where N is the number of arguments to the command",
        "Extract keys given a full Redis command",
    ),
    doc(
        CommandId::CommandHelp,
        "server",
        "5.0.0",
        "O(1)",
        "Show helpful text about the different subcommands",
    ),
    doc(
        CommandId::CommandInfo,
        "server",
        "2.8.13",
        "O(N) where N is the number of commands to look up",
        "Get array of specific Redis command details, or all when no argument is given.",
    )
    .history(&[("7.0.0", "Allowed to be called with no argument to get info on all commands.")])
    .arguments(&[string("command-name").optional().multiple()]),
    doc(
        CommandId::CommandList,
        "server",
        "7.0.0",
        "O(N) where N is the total number of Redis commands",
        "Get an array of Redis command names",
    )
    .arguments(&[one_of(
        "filterby",
        &[
            string("module-name").behind("MODULE"),
            string("category").behind("ACLCAT"),
            pattern("pattern").behind("PATTERN"),
        ],
    )
    .behind("FILTERBY")
    .optional()]),
    doc(
        CommandId::Config,
        "server",
        "2.0.0",
        "Depends on subcommand.",
        "A container for server configuration commands",
    ),
    doc(
        CommandId::ConfigGet,
        "server",
        "2.0.0",
        "O(N) when N is the number of configuration parameters provided",
        "Get the values of configuration parameters",
    )
    .history(&[("7.0.0", "Added the ability to pass multiple pattern parameters in one call")])
    .arguments(&[block("parameter", &[string("parameter")]).multiple()]),
    doc(
        CommandId::ConfigHelp,
        "server",
        "5.0.0",
        "O(1)",
        "Show helpful text about the different subcommands",
    ),
    doc(CommandId::ConfigResetStat, "server", "2.0.0", "O(1)", "Reset the stats returned by INFO"),
    doc(
        CommandId::ConfigRewrite,
        "server",
        "2.8.0",
        "O(1)",
        "Rewrite the configuration file with the in memory configuration",
    ),
    doc(
        CommandId::ConfigSet,
        "server",
        "2.0.0",
        "O(N) when N is the number of configuration parameters provided",
        "Set configuration parameters to the given values",
    )
    .history(&[("7.0.0", "Added the ability to set multiple parameters in one call.")])
    .arguments(&[block("parameter_value", &[string("parameter"), string("value")]).multiple()]),
    doc(CommandId::DbSize, "server", "1.0.0", "O(1)", "Return the number of keys in the selected database"),
    doc(CommandId::Decr, "string", "1.0.0", "O(1)", "Decrement the integer value of a key by one")
        .arguments(&[key("key", 0)]),
    doc(
        CommandId::DecrBy,
        "string",
        "1.0.0",
        "O(1)",
        "Decrement the integer value of a key by the given number",
    )
    .arguments(&[key("key", 0), integer("decrement")]),
    doc(
        CommandId::Del,
        "generic",
        "1.0.0",
        "O(N) where N is the number of keys that will be removed. When a key to remove holds \
            a value other than a string, the individual complexity for this key is O(M) where M \
            is the number of elements in the list, set, sorted set or hash. Removing a single \
            key that holds a string value is O(1).",
        "Delete a key",
    )
    .arguments(&[key("key", 0).multiple()]),
    doc(CommandId::Echo, "connection", "1.0.0", "O(1)", "Echo the given string")
        .arguments(&[string("message")]),
    doc(
        CommandId::Exists,
        "generic",
        "1.0.0",
        "O(N) where N is the number of keys to check.",
        "Determine if a key exists",
    )
    .history(&[("3.0.3", "Accepts multiple `key` arguments.")])
    .arguments(&[key("key", 0).multiple()]),
    doc(CommandId::Expire, "generic", "1.0.0", "O(1)", "Set a key's time to live in seconds")
        .history(&[("7.0.0", "Added options: `NX`, `XX`, `GT` and `LT`.")])
        .arguments(&[
            key("key", 0),
            integer("seconds"),
            one_of(
                "condition",
                &[token("nx", "NX"), token("xx", "XX"), token("gt", "GT"), token("lt", "LT")],
            )
            .since("7.0.0")
            .optional(),
        ]),
    doc(CommandId::ExpireAt, "generic", "1.2.0", "O(1)", "Set the expiration for a key as a UNIX timestamp")
        .history(&[("7.0.0", "Added options: `NX`, `XX`, `GT` and `LT`.")])
        .arguments(&[
            key("key", 0),
            unix_time("unix-time-seconds"),
            one_of(
                "condition",
                &[token("nx", "NX"), token("xx", "XX"), token("gt", "GT"), token("lt", "LT")],
            )
            .since("7.0.0")
            .optional(),
        ]),
    doc(CommandId::ExpireTime, "generic", "7.0.0", "O(1)", "Get the expiration Unix timestamp for a key")
        .arguments(&[key("key", 0)]),
    doc(
        CommandId::FlushAll,
        "server",
        "1.0.0",
        "O(N) where N is the total number of keys in all databases",
        "Remove all keys from all databases",
    )
    .history(&[
        ("4.0.0", "Added the `ASYNC` flushing mode modifier."),
        ("6.2.0", "Added the `SYNC` flushing mode modifier."),
    ])
    .arguments(&[one_of(
        "async",
        &[token("async", "ASYNC").since("4.0.0"), token("sync", "SYNC").since("6.2.0")],
    )
    .optional()]),
    doc(
        CommandId::FlushDb,
        "server",
        "1.0.0",
        "O(N) where N is the number of keys in the selected database",
        "Remove all keys from the current database",
    )
    .history(&[
        ("4.0.0", "Added the `ASYNC` flushing mode modifier."),
        ("6.2.0", "Added the `SYNC` flushing mode modifier."),
    ])
    .arguments(&[one_of(
        "async",
        &[token("async", "ASYNC").since("4.0.0"), token("sync", "SYNC").since("6.2.0")],
    )
    .optional()]),
    doc(CommandId::Get, "string", "1.0.0", "O(1)", "Get the value of a key").arguments(&[key("key", 0)]),
    doc(CommandId::GetDel, "string", "6.2.0", "O(1)", "Get the value of a key and delete the key")
        .arguments(&[key("key", 0)]),
    doc(
        CommandId::GetEx,
        "string",
        "6.2.0",
        "O(1)",
        "Get the value of a key and optionally set its expiration",
    )
    .arguments(&[
        key("key", 0),
        one_of(
            "expiration",
            &[
                integer("seconds").behind("EX"),
                integer("milliseconds").behind("PX"),
                unix_time("unix-time-seconds").behind("EXAT"),
                unix_time("unix-time-milliseconds").behind("PXAT"),
                token("persist", "PERSIST"),
            ],
        )
        .optional(),
    ]),
    doc(
        CommandId::GetRange,
        "string",
        "2.4.0",
        "O(N) where N is the length of the returned string. The complexity is ultimately \
            determined by the returned length, but because creating a substring from an existing \
            string is very cheap, it can be considered O(1) for small strings.",
        "Get a substring of the string stored at a key",
    )
    .arguments(&[key("key", 0), integer("start"), integer("end")]),
    doc(
        CommandId::GetSet,
        "string",
        "1.0.0",
        "O(1)",
        "Set the string value of a key and return its old value",
    )
    .deprecated("6.2.0", "`SET` with the `!GET` argument")
    .arguments(&[key("key", 0), string("value")]),
    doc(CommandId::Hello, "connection", "6.0.0", "O(1)", "Handshake with Redis")
        .history(&[(
            "6.2.0",
            "`protover` made optional; when called without arguments the command reports the \
            current connection's context.",
        )])
        .arguments(&[block(
            "arguments",
            &[
                integer("protover"),
                block("username_password", &[string("username"), string("password")])
                    .behind("AUTH")
                    .optional(),
                string("clientname").behind("SETNAME").optional(),
            ],
        )
        .optional()]),
    doc(CommandId::Incr, "string", "1.0.0", "O(1)", "Increment the integer value of a key by one")
        .arguments(&[key("key", 0)]),
    doc(
        CommandId::IncrBy,
        "string",
        "1.0.0",
        "O(1)",
        "Increment the integer value of a key by the given amount",
    )
    .arguments(&[key("key", 0), integer("increment")]),
    doc(
        CommandId::IncrByFloat,
        "string",
        "2.6.0",
        "O(1)",
        "Increment the float value of a key by the given amount",
    )
    .arguments(&[key("key", 0), double("increment")]),
    doc(CommandId::Info, "server", "1.0.0", "O(1)", "Get information and statistics about the server")
        .history(&[("7.0.0", "Added support for taking multiple section arguments.")])
        .arguments(&[string("section").optional().multiple()]),
    doc(
        CommandId::Keys,
        "generic",
        "1.0.0",
        "O(N) with N being the number of keys in the database, under the assumption that the \
            key names in the database and the given pattern have limited length.",
        "Find all keys matching the given pattern",
    )
    .arguments(&[pattern("pattern")]),
    doc(
        CommandId::Mget,
        "string",
        "1.0.0",
        "O(N) where N is the number of keys to retrieve.",
        "Get the values of all the given keys",
    )
    .arguments(&[key("key", 0).multiple()]),
    doc(
        CommandId::Mset,
        "string",
        "1.0.1",
        "O(N) where N is the number of keys to set.",
        "Set multiple keys to multiple values",
    )
    .arguments(&[block("key_value", &[key("key", 0), string("value")]).multiple()]),
    doc(
        CommandId::MsetNx,
        "string",
        "1.0.1",
        "O(N) where N is the number of keys to set.",
        "Set multiple keys to multiple values, only if none of the keys exist",
    )
    .arguments(&[block("key_value", &[key("key", 0), string("value")]).multiple()]),
    doc(CommandId::Persist, "generic", "2.2.0", "O(1)", "Remove the expiration from a key")
        .arguments(&[key("key", 0)]),
    doc(CommandId::PExpire, "generic", "2.6.0", "O(1)", "Set a key's time to live in milliseconds")
        .history(&[("7.0.0", "Added options: `NX`, `XX`, `GT` and `LT`.")])
        .arguments(&[
            key("key", 0),
            integer("milliseconds"),
            one_of(
                "condition",
                &[token("nx", "NX"), token("xx", "XX"), token("gt", "GT"), token("lt", "LT")],
            )
            .since("7.0.0")
            .optional(),
        ]),
    doc(
        CommandId::PExpireAt,
        "generic",
        "2.6.0",
        "O(1)",
        "Set the expiration for a key as a UNIX timestamp specified in milliseconds",
    )
    .history(&[("7.0.0", "Added options: `NX`, `XX`, `GT` and `LT`.")])
    .arguments(&[
        key("key", 0),
        unix_time("unix-time-milliseconds"),
        one_of("condition", &[token("nx", "NX"), token("xx", "XX"), token("gt", "GT"), token("lt", "LT")])
            .since("7.0.0")
            .optional(),
    ]),
    doc(
        CommandId::PExpireTime,
        "generic",
        "7.0.0",
        "O(1)",
        "Get the expiration Unix timestamp for a key in milliseconds",
    )
    .arguments(&[key("key", 0)]),
    doc(CommandId::Ping, "connection", "1.0.0", "O(1)", "Ping the server")
        .arguments(&[string("message").optional()]),
    doc(
        CommandId::PsetEx,
        "string",
        "2.6.0",
        "O(1)",
        "Set the value and expiration in milliseconds of a key",
    )
    .arguments(&[key("key", 0), integer("milliseconds"), string("value")]),
    doc(CommandId::Pttl, "generic", "2.6.0", "O(1)", "Get the time to live for a key in milliseconds")
        .history(&[("2.8.0", "Added the -2 reply.")])
        .arguments(&[key("key", 0)]),
    doc(CommandId::Quit, "connection", "1.0.0", "O(1)", "Close the connection"),
    doc(CommandId::RandomKey, "generic", "1.0.0", "O(1)", "Return a random key from the keyspace"),
    doc(CommandId::Rename, "generic", "1.0.0", "O(1)", "Rename a key")
        .arguments(&[key("key", 0), key("newkey", 1)]),
    doc(CommandId::RenameNx, "generic", "1.0.0", "O(1)", "Rename a key, only if the new key does not exist")
        .history(&[(
            "3.2.0",
            "The command no longer returns an error when source and destination names are the \
            same.",
        )])
        .arguments(&[key("key", 0), key("newkey", 1)]),
    doc(CommandId::Reset, "connection", "6.2.0", "O(1)", "Reset the connection"),
    doc(
        CommandId::Scan,
        "generic",
        "2.8.0",
        "O(1) for every call. O(N) for a complete iteration, including enough command calls \
            for the cursor to return back to 0. N is the number of elements inside the \
            collection.",
        "Incrementally iterate the keys space",
    )
    .history(&[("6.0.0", "Added the `TYPE` subcommand.")])
    .arguments(&[
        integer("cursor"),
        pattern("pattern").behind("MATCH").optional(),
        integer("count").behind("COUNT").optional(),
        string("type").behind("TYPE").since("6.0.0").optional(),
    ]),
    doc(
        CommandId::Select,
        "connection",
        "1.0.0",
        "O(1)",
        "Change the selected database for the current connection",
    )
    .arguments(&[integer("index")]),
    doc(CommandId::Set, "string", "1.0.0", "O(1)", "Set the string value of a key")
        .history(&[
            ("2.6.12", "Added the `EX`, `PX`, `NX` and `XX` options."),
            ("6.0.0", "Added the `KEEPTTL` option."),
            ("6.2.0", "Added the `GET`, `EXAT` and `PXAT` option."),
            ("7.0.0", "Allowed the `NX` and `GET` options to be used together."),
        ])
        .arguments(&[
            key("key", 0),
            string("value"),
            one_of("condition", &[token("nx", "NX"), token("xx", "XX")]).since("2.6.12").optional(),
            token("get", "GET").since("6.2.0").optional(),
            one_of(
                "expiration",
                &[
                    integer("seconds").behind("EX").since("2.6.12"),
                    integer("milliseconds").behind("PX").since("2.6.12"),
                    unix_time("unix-time-seconds").behind("EXAT").since("6.2.0"),
                    unix_time("unix-time-milliseconds").behind("PXAT").since("6.2.0"),
                    token("keepttl", "KEEPTTL").since("6.0.0"),
                ],
            )
            .optional(),
        ]),
    doc(CommandId::SetEx, "string", "2.0.0", "O(1)", "Set the value and expiration of a key").arguments(&[
        key("key", 0),
        integer("seconds"),
        string("value"),
    ]),
    doc(
        CommandId::SetNx,
        "string",
        "1.0.0",
        "O(1)",
        "Set the value of a key, only if the key does not exist",
    )
    .arguments(&[key("key", 0), string("value")]),
    doc(
        CommandId::SetRange,
        "string",
        "2.2.0",
        "O(1), not counting the time taken to copy the new string in place. Usually, this \
            string is very small so the amortized complexity is O(1). Otherwise, complexity is \
            O(M) with M being the length of the value argument.",
        "Overwrite part of a string at key starting at the specified offset",
    )
    .arguments(&[key("key", 0), integer("offset"), string("value")]),
    doc(
        CommandId::Shutdown,
        "server",
        "1.0.0",
        "O(N) when saving, where N is the total number of keys in all databases when saving \
            data, otherwise O(1)",
        "Synchronously save the dataset to disk and then shut down the server",
    )
    .history(&[("7.0.0", "Added the `NOW`, `FORCE` and `ABORT` modifiers.")])
    .arguments(&[
        one_of("nosave_save", &[token("nosave", "NOSAVE"), token("save", "SAVE")]).optional(),
        token("now", "NOW").since("7.0.0").optional(),
        token("force", "FORCE").since("7.0.0").optional(),
        token("abort", "ABORT").since("7.0.0").optional(),
    ]),
    doc(CommandId::StrLen, "string", "2.2.0", "O(1)", "Get the length of the value stored in a key")
        .arguments(&[key("key", 0)]),
    doc(
        CommandId::SubStr,
        "string",
        "1.0.0",
        "O(N) where N is the length of the returned string. The complexity is ultimately \
            determined by the returned length, but because creating a substring from an existing \
            string is very cheap, it can be considered O(1) for small strings.",
        "Get a substring of the string stored at a key",
    )
    .deprecated("2.0.0", "`GETRANGE`")
    .arguments(&[key("key", 0), integer("start"), integer("end")]),
    doc(CommandId::Time, "server", "2.6.0", "O(1)", "Return the current server time"),
    doc(
        CommandId::Touch,
        "generic",
        "3.2.1",
        "O(N) where N is the number of keys that will be touched.",
        "Alters the last access time of a key(s). Returns the number of existing keys \
            specified.",
    )
    .arguments(&[key("key", 0).multiple()]),
    doc(CommandId::Ttl, "generic", "1.0.0", "O(1)", "Get the time to live for a key in seconds")
        .history(&[("2.8.0", "Added the -2 reply.")])
        .arguments(&[key("key", 0)]),
    doc(CommandId::Type, "generic", "1.0.0", "O(1)", "Determine the type stored at key")
        .arguments(&[key("key", 0)]),
    doc(
        CommandId::Unlink,
        "generic",
        "4.0.0",
        "O(1) for each key removed regardless of its size. Then the command does O(N) work \
            in a different thread in order to reclaim memory, where N is the number of \
            allocations the deleted objects where composed of.",
        "Delete a key asynchronously in another thread. Otherwise it is just as DEL, but non \
            blocking.",
    )
    .arguments(&[key("key", 0).multiple()]),
];
