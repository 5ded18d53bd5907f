//! The flags and categories of commands, and what they do to keys, in the words of Redis.

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
pub(super) const FLAG_NAMES: [&str; 11] = [
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
