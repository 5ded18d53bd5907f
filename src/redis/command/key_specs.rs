//! The key specifications of COMMAND INFO: where a command's keys are, and what it does to them.

use super::super::reply::Replies;
use super::introspection::names;
use super::table::{Command, Id};

/// What a command does to keys: the flags of Redis.
type Flags = &'static [&'static str];

/// The flags of each specification of `command`, and a note.
fn flags(command: &Command) -> (&'static [Flags], Option<&'static str>) {
    let specifications: &[Flags] = match command.id {
        Id::Append => &[&["RW", "insert"]],
        Id::Decr | Id::DecrBy | Id::GetSet | Id::Incr | Id::IncrBy | Id::IncrByFloat | Id::GetEx => {
            &[&["RW", "access", "update"]]
        }
        Id::Set => &[&["RW", "access", "update", "variable_flags"]],
        Id::Del | Id::Unlink => &[&["RM", "delete"]],
        Id::Exists | Id::Touch | Id::StrLen | Id::Type => &[&["RO"]],
        Id::Expire | Id::ExpireAt | Id::Persist | Id::PExpire | Id::PExpireAt | Id::SetRange => {
            &[&["RW", "update"]]
        }
        Id::GetDel => &[&["RW", "access", "delete"]],
        Id::Mset | Id::SetEx | Id::PsetEx => &[&["OW", "update"]],
        Id::MsetNx | Id::SetNx => &[&["OW", "insert"]],
        Id::Rename => &[&["RW", "access", "delete"], &["OW", "update"]],
        Id::RenameNx => &[&["RW", "access", "delete"], &["OW", "insert"]],
        _ if command.keys.first == 0 => &[],
        // GET and whatever else reads values or expiry times.
        _ => &[&["RO", "access"]],
    };
    let note = match command.id {
        Id::GetEx => Some("RW and UPDATE because it changes the TTL"),
        Id::Set => Some("RW and ACCESS due to the optional `GET` argument"),
        _ => None,
    };
    (specifications, note)
}

/// Writes the key specifications of `command`. Where there are several, each is of one key.
pub(super) fn write(replies: &mut Replies, command: &Command) {
    let (specifications, note) = flags(command);
    let place = command.keys;
    replies.set(specifications.len());
    for (first, flags) in (place.first..).zip(specifications) {
        let last = if specifications.len() > 1 { first } else { place.last };
        replies.map(3 + usize::from(note.is_some()));
        if let Some(note) = note {
            replies.bulk(b"notes");
            replies.bulk(note.as_bytes());
        }
        replies.bulk(b"flags");
        names(replies, flags.iter().copied());
        replies.bulk(b"begin_search");
        search(replies, "index", &[("index", first)]);
        replies.bulk(b"find_keys");
        // Relative to the first key, unless it is counted from the end.
        let last = if last < 0 { last } else { last - first };
        search(replies, "range", &[("lastkey", last), ("keystep", place.step), ("limit", 0)]);
    }
}

fn search(replies: &mut Replies, kind: &str, numbers: &[(&str, i32)]) {
    replies.map(2);
    replies.bulk(b"type");
    replies.bulk(kind.as_bytes());
    replies.bulk(b"spec");
    replies.map(numbers.len());
    for (name, number) in numbers {
        replies.bulk(name.as_bytes());
        replies.integer((*number).into());
    }
}
