//! COMMAND DOCS: what each command does and takes.

mod doc;
mod table;

use self::doc::{Argument, ArgumentKind, Doc};
use self::table::DOCS;
use super::super::reply::Replies;
use super::table::Command;

/// What there is to say of `command`.
fn doc_of(command: &Command) -> Option<&'static Doc> {
    DOCS.iter().find(|doc| doc.id == command.id)
}

fn write_argument(replies: &mut Replies, argument: &Argument) {
    let (type_name, arguments) = match argument.kind {
        ArgumentKind::String => ("string", None),
        ArgumentKind::Integer => ("integer", None),
        ArgumentKind::Double => ("double", None),
        ArgumentKind::Key(_) => ("key", None),
        ArgumentKind::Pattern => ("pattern", None),
        ArgumentKind::UnixTime => ("unix-time", None),
        ArgumentKind::Token => ("pure-token", None),
        ArgumentKind::OneOf(arguments) => ("oneof", Some(arguments)),
        ArgumentKind::Block(arguments) => ("block", Some(arguments)),
    };
    let texts = [
        ("token", argument.token),
        ("since", argument.since),
        ("deprecated_since", argument.deprecated_since),
    ];
    let flags = [
        ("optional", argument.optional),
        ("multiple", argument.multiple),
        ("multiple_token", argument.multiple_token),
    ];
    let flag_count = flags.iter().filter(|(_, is_set)| *is_set).count();
    let specification = if let ArgumentKind::Key(index) = argument.kind { Some(index) } else { None };
    let fields = 2
        + usize::from(specification.is_some())
        + texts.iter().filter(|(_, text)| text.is_some()).count()
        + usize::from(flag_count > 0)
        + usize::from(arguments.is_some());
    replies.map(fields);
    field(replies, "name", argument.name);
    field(replies, "type", type_name);
    if let Some(index) = specification {
        replies.bulk(b"key_spec_index");
        replies.integer(index.into());
    }
    for (name, text) in texts {
        if let Some(text) = text {
            field(replies, name, text);
        }
    }
    if flag_count > 0 {
        replies.bulk(b"flags");
        replies.set(flag_count);
        flags.iter().filter(|(_, is_set)| *is_set).for_each(|(name, _)| replies.simple(name));
    }
    if let Some(arguments) = arguments {
        replies.bulk(b"arguments");
        write_arguments(replies, arguments);
    }
}

fn field(replies: &mut Replies, name: &str, text: &str) {
    replies.bulk(name.as_bytes());
    replies.bulk(text.as_bytes());
}

fn write_arguments(replies: &mut Replies, arguments: &[Argument]) {
    replies.array(arguments.len());
    arguments.iter().for_each(|argument| write_argument(replies, argument));
}

/// Writes the name of `command` and the map that documents it, its subcommands included.
pub(super) fn write(replies: &mut Replies, command: &'static Command) {
    replies.bulk(command.full_name.as_bytes());
    // A test sees that there is one for every command.
    let Some(doc) = doc_of(command) else { return replies.map(0) };
    let fields = 4
        + if doc.deprecated.is_some() { 3 } else { 0 }
        + usize::from(!doc.history.is_empty())
        + usize::from(!doc.arguments.is_empty())
        + usize::from(!command.subcommands.is_empty());
    replies.map(fields);
    field(replies, "summary", doc.summary);
    field(replies, "since", doc.since);
    field(replies, "group", doc.group);
    field(replies, "complexity", doc.complexity);
    if let Some((since, replaced_by)) = doc.deprecated {
        replies.bulk(b"doc_flags");
        replies.set(1);
        replies.simple("deprecated");
        field(replies, "deprecated_since", since);
        field(replies, "replaced_by", replaced_by);
    }
    if !doc.history.is_empty() {
        replies.bulk(b"history");
        replies.set(doc.history.len());
        for (version, change) in doc.history {
            replies.array(2);
            replies.bulk(version.as_bytes());
            replies.bulk(change.as_bytes());
        }
    }
    if !doc.arguments.is_empty() {
        replies.bulk(b"arguments");
        write_arguments(replies, doc.arguments);
    }
    if !command.subcommands.is_empty() {
        replies.bulk(b"subcommands");
        replies.map(command.subcommands.len());
        command.subcommands.iter().for_each(|subcommand| write(replies, subcommand));
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::{self, CommandId};
    use super::*;

    #[test]
    fn every_command_is_documented_and_no_other() {
        let mut commands: Vec<&Command> = table::all_with_subcommands().collect();
        commands.sort_unstable_by_key(|command| command.full_name);
        let ids: Vec<CommandId> = commands.iter().map(|command| command.id).collect();
        assert_eq!(DOCS.map(|doc| doc.id).to_vec(), ids);
    }
}
