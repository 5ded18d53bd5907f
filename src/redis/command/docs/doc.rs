//! The form of what COMMAND DOCS says of a command.

use super::super::table::CommandId;

/// What COMMAND DOCS says of a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doc {
    pub(super) id: CommandId,
    pub(super) group: &'static str,
    pub(super) since: &'static str,
    pub(super) complexity: &'static str,
    pub(super) summary: &'static str,
    /// Since when it is deprecated, and what is to be used instead.
    pub(super) deprecated: Option<(&'static str, &'static str)>,
    /// Versions, and what they changed.
    pub(super) history: &'static [(&'static str, &'static str)],
    pub(super) arguments: &'static [Argument],
}

#[derive(Clone, Copy, Debug)]
pub(super) enum ArgumentKind {
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
    pub(super) name: &'static str,
    pub(super) kind: ArgumentKind,
    /// The word in front of it.
    pub(super) token: Option<&'static str>,
    pub(super) since: Option<&'static str>,
    pub(super) deprecated_since: Option<&'static str>,
    pub(super) optional: bool,
    pub(super) multiple: bool,
    /// Its token is said again each time.
    pub(super) multiple_token: bool,
}

pub(super) const fn doc(
    id: CommandId,
    group: &'static str,
    since: &'static str,
    complexity: &'static str,
    summary: &'static str,
) -> Doc {
    Doc { id, group, since, complexity, summary, deprecated: None, history: &[], arguments: &[] }
}

impl Doc {
    pub(super) const fn deprecated(mut self, since: &'static str, replaced_by: &'static str) -> Self {
        self.deprecated = Some((since, replaced_by));
        self
    }

    pub(super) const fn history(mut self, history: &'static [(&'static str, &'static str)]) -> Self {
        self.history = history;
        self
    }

    pub(super) const fn arguments(mut self, arguments: &'static [Argument]) -> Self {
        self.arguments = arguments;
        self
    }
}

pub(super) const fn argument(name: &'static str, kind: ArgumentKind) -> Argument {
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

pub(super) const fn string(name: &'static str) -> Argument {
    argument(name, ArgumentKind::String)
}

pub(super) const fn integer(name: &'static str) -> Argument {
    argument(name, ArgumentKind::Integer)
}

pub(super) const fn double(name: &'static str) -> Argument {
    argument(name, ArgumentKind::Double)
}

pub(super) const fn key(name: &'static str, specification: u8) -> Argument {
    argument(name, ArgumentKind::Key(specification))
}

pub(super) const fn pattern(name: &'static str) -> Argument {
    argument(name, ArgumentKind::Pattern)
}

pub(super) const fn unix_time(name: &'static str) -> Argument {
    argument(name, ArgumentKind::UnixTime)
}

pub(super) const fn token(name: &'static str, token: &'static str) -> Argument {
    argument(name, ArgumentKind::Token).behind(token)
}

pub(super) const fn one_of(name: &'static str, arguments: &'static [Argument]) -> Argument {
    argument(name, ArgumentKind::OneOf(arguments))
}

pub(super) const fn block(name: &'static str, arguments: &'static [Argument]) -> Argument {
    argument(name, ArgumentKind::Block(arguments))
}

impl Argument {
    pub(super) const fn behind(mut self, token: &'static str) -> Self {
        self.token = Some(token);
        self
    }

    pub(super) const fn since(mut self, version: &'static str) -> Self {
        self.since = Some(version);
        self
    }

    pub(super) const fn deprecated_since(mut self, version: &'static str) -> Self {
        self.deprecated_since = Some(version);
        self
    }

    pub(super) const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    pub(super) const fn multiple(mut self) -> Self {
        self.multiple = true;
        self
    }

    pub(super) const fn multiple_token(mut self) -> Self {
        self.multiple_token = true;
        self
    }
}
