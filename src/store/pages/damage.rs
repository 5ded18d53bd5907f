//! Stored bytes that are not what they should be: of what, where, and what can be done.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// What was to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Structure {
    SegmentHeader,
    SegmentTable,
    MapPage,
    Trailer,
    Page,
}

impl Structure {
    fn name(self) -> &'static str {
        match self {
            Self::SegmentHeader => "the header of a segment",
            Self::SegmentTable => "the segment table",
            Self::MapPage => "a page of the map",
            Self::Trailer => "the trailer of a bundle",
            Self::Page => "a page",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::SegmentHeader => "`boson store verify --repair` writes it again",
            Self::SegmentTable => "`boson store verify --repair` counts it again from the map",
            Self::MapPage => "`boson store verify --repair` finds its 256 pages again",
            Self::Trailer => "`boson store salvage` makes a new store of what is left",
            Self::Page => "the keys in it cannot be read, all others can",
        }
    }
}

/// Why bytes of a store cannot be what refers to them says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) structure: Structure,
    /// The offset on the namespace, in bytes.
    pub(super) offset: u64,
    /// What is wrong with it, to follow "the trailer of a bundle: ".
    pub(super) problem: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { structure, problem, .. } = self;
        write!(f, "{}: {problem}; {}", structure.name(), structure.remedy())
    }
}

impl Damage {
    /// The error of an operation on the namespace `name` that met it.
    pub(super) fn error(self, operation: &'static str, name: &str) -> Error {
        let place = format!("{name} offset {}", self.offset);
        Error::new(ErrorKind::Corrupt, operation).at(place).because(self.to_string())
    }
}

/// Damage of one structure at one place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checker {
    structure: Structure,
    offset: u64,
}

impl Checker {
    pub(super) fn new(structure: Structure, offset: u64) -> Self {
        Self { structure, offset }
    }

    pub(super) fn damage(self, problem: &'static str) -> Damage {
        Damage { structure: self.structure, offset: self.offset, problem }
    }

    /// # Errors
    ///
    /// `problem`, unless `holds`.
    pub(super) fn check(self, holds: bool, problem: &'static str) -> Result<(), Damage> {
        if holds { Ok(()) } else { Err(self.damage(problem)) }
    }

    /// # Errors
    ///
    /// That it ends too early, if there is no `value`.
    pub(super) fn some<T>(self, value: Option<T>) -> Result<T, Damage> {
        value.ok_or_else(|| self.damage("it ends too early"))
    }
}
