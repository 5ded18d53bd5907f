//! COMMAND DOCS: what each command does and takes.

mod table;

use self::table::DOCS;
use super::super::reply::Replies;
use super::spec::Command;
use super::table::CommandId;

/// What is known of a command besides how it is called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doc {
    id: CommandId,
    group: &'static str,
    since: &'static str,
    complexity: &'static str,
    summary: &'static str,
    /// Since when it is deprecated, and what is to be used instead.
    deprecated: Option<(&'static str, &'static str)>,
    /// Versions, and what they changed.
    history: &'static [(&'static str, &'static str)],
    arguments: &'static [Argument],
}

#[derive(Clone, Copy, Debug)]
enum ArgumentKind {
    String,
    Integer,
    Double,
    /// With the index of its key specification.
    Key(u8),
    Pattern,
    UnixTime,
    /// Nothing but its token.
    Token,
    OneOf(&'static [Argument]),
    Block(&'static [Argument]),
}

/// An argument of a command, or several that belong together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Argument {
    name: &'static str,
    kind: ArgumentKind,
    /// The word in front of it.
    token: Option<&'static str>,
    since: Option<&'static str>,
    deprecated_since: Option<&'static str>,
    optional: bool,
    multiple: bool,
    /// Its token is said again each time.
    multiple_token: bool,
}

const fn doc(
    id: CommandId,
    group: &'static str,
    since: &'static str,
    complexity: &'static str,
    summary: &'static str,
) -> Doc {
    Doc { id, group, since, complexity, summary, deprecated: None, history: &[], arguments: &[] }
}

impl Doc {
    const fn deprecated(mut self, since: &'static str, replaced_by: &'static str) -> Self {
        self.deprecated = Some((since, replaced_by));
        self
    }

    const fn history(mut self, history: &'static [(&'static str, &'static str)]) -> Self {
        self.history = history;
        self
    }

    const fn arguments(mut self, arguments: &'static [Argument]) -> Self {
        self.arguments = arguments;
        self
    }

    fn of(command: &Command) -> Option<&'static Self> {
        DOCS.iter().find(|doc| doc.id == command.id)
    }
}

const fn argument(name: &'static str, kind: ArgumentKind) -> Argument {
    Argument {
        name,
        kind,
        token: None,
        since: None,
        deprecated_since: None,
        optional: false,
        multiple: false,
        multiple_token: false,
    }
}

const fn string(name: &'static str) -> Argument {
    argument(name, ArgumentKind::String)
}

const fn integer(name: &'static str) -> Argument {
    argument(name, ArgumentKind::Integer)
}

const fn double(name: &'static str) -> Argument {
    argument(name, ArgumentKind::Double)
}

const fn key(name: &'static str, specification: u8) -> Argument {
    argument(name, ArgumentKind::Key(specification))
}

const fn pattern(name: &'static str) -> Argument {
    argument(name, ArgumentKind::Pattern)
}

const fn unix_time(name: &'static str) -> Argument {
    argument(name, ArgumentKind::UnixTime)
}

const fn token(name: &'static str, token: &'static str) -> Argument {
    argument(name, ArgumentKind::Token).behind(token)
}

const fn one_of(name: &'static str, arguments: &'static [Argument]) -> Argument {
    argument(name, ArgumentKind::OneOf(arguments))
}

const fn block(name: &'static str, arguments: &'static [Argument]) -> Argument {
    argument(name, ArgumentKind::Block(arguments))
}

impl Argument {
    const fn behind(mut self, token: &'static str) -> Self {
        self.token = Some(token);
        self
    }

    const fn since(mut self, version: &'static str) -> Self {
        self.since = Some(version);
        self
    }

    const fn deprecated_since(mut self, version: &'static str) -> Self {
        self.deprecated_since = Some(version);
        self
    }

    const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    const fn multiple(mut self) -> Self {
        self.multiple = true;
        self
    }

    const fn multiple_token(mut self) -> Self {
        self.multiple_token = true;
        self
    }

    fn write(&self, replies: &mut Replies) {
        let (type_name, arguments) = match self.kind {
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
        let texts =
            [("token", self.token), ("since", self.since), ("deprecated_since", self.deprecated_since)];
        let flags = [
            ("optional", self.optional),
            ("multiple", self.multiple),
            ("multiple_token", self.multiple_token),
        ];
        let flag_count = flags.iter().filter(|(_, is_set)| *is_set).count();
        let specification = if let ArgumentKind::Key(index) = self.kind { Some(index) } else { None };
        let fields = 2
            + usize::from(specification.is_some())
            + texts.iter().filter(|(_, text)| text.is_some()).count()
            + usize::from(flag_count > 0)
            + usize::from(arguments.is_some());
        replies.map(fields);
        field(replies, "name", self.name);
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
}

fn field(replies: &mut Replies, name: &str, text: &str) {
    replies.bulk(name.as_bytes());
    replies.bulk(text.as_bytes());
}

fn write_arguments(replies: &mut Replies, arguments: &[Argument]) {
    replies.array(arguments.len());
    arguments.iter().for_each(|argument| argument.write(replies));
}

/// Writes the name of `command` and the map that documents it, its subcommands included.
pub(super) fn write(replies: &mut Replies, command: &'static Command) {
    replies.bulk(command.full_name.as_bytes());
    // A test sees that there is one for every command.
    let Some(doc) = Doc::of(command) else { return replies.map(0) };
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
    use super::super::table;
    use super::*;

    #[test]
    fn every_command_is_documented_and_no_other() {
        let mut commands: Vec<&Command> = table::all_with_subcommands().collect();
        commands.sort_unstable_by_key(|command| command.full_name);
        let ids: Vec<CommandId> = commands.iter().map(|command| command.id).collect();
        assert_eq!(DOCS.map(|doc| doc.id).to_vec(), ids);
    }
}
