//! The key specifications of COMMAND INFO: where a command's keys are, and what it does to them.

use super::super::reply::Replies;

use super::table::Command;

/// Writes a set of `names`.
pub(super) fn names(replies: &mut Replies, names: impl Iterator<Item = &'static str> + Clone) {
    replies.set(names.clone().count());
    names.for_each(|name| replies.simple(name));
}

/// Writes the key specifications of `command`. Where there are several, each is about one key.
pub(super) fn write(replies: &mut Replies, command: &Command) {
    let (specifications, note) = (command.key_flags, command.key_note);
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
