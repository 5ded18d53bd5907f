//! Stored bytes that are not what they should be: of what, where, and what can be done.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// What was to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Structure {
    SegmentHeader,
    SegmentTable,
    MapPage,
    Lengths,
    Trailer,
    Page,
}

impl Structure {
    fn name(self) -> &'static str {
        match self {
            Self::SegmentHeader => "the header of a segment",
            Self::SegmentTable => "the segment table",
            Self::MapPage => "a page of the map",
            Self::Lengths => "the page with the numbers of keys",
            Self::Trailer => "the trailer of a bundle",
            Self::Page => "a page",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::SegmentHeader | Self::SegmentTable | Self::Lengths | Self::Trailer => {
                "restore the store from a copy"
            }
            Self::MapPage => "the pages that it places cannot be read, all others can",
            Self::Page => "the keys in it cannot be read, all others can",
        }
    }
}

/// Why bytes of a store cannot be what refers to them says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Damage {
    pub(in crate::store) structure: Structure,
    /// The offset on the namespace, in bytes.
    pub(in crate::store) offset: u64,
    /// What is wrong with it, to follow "the trailer of a bundle: ".
    pub(in crate::store) problem: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { structure, problem, .. } = self;
        write!(f, "{}: {problem}; {}", structure.name(), structure.remedy())
    }
}

impl Damage {
    /// Another page lies at `place` than the one that is meant.
    pub(in crate::store) fn another_page(place: crate::store::word::ColdAddress) -> Self {
        let problem = "another page, or another state of it, lies in its place";
        Self { structure: Structure::Page, offset: place.offset_bytes(), problem }
    }

    /// The error of an operation on the namespace `name` that met it.
    pub(in crate::store) fn error(self, operation: &'static str, name: &str) -> Error {
        let place = format!("{name} offset {}", self.offset);
        Error::new(ErrorKind::Corrupt, operation).at(place).because(self.to_string())
    }
}

/// Damage of one structure at one place.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Checker {
    structure: Structure,
    offset: u64,
}

impl Checker {
    pub(in crate::store) fn new(structure: Structure, offset: u64) -> Self {
        Self { structure, offset }
    }

    pub(in crate::store) fn damage(self, problem: &'static str) -> Damage {
        Damage { structure: self.structure, offset: self.offset, problem }
    }

    /// # Errors
    ///
    /// `problem`, unless `holds`.
    pub(in crate::store) fn check(self, holds: bool, problem: &'static str) -> Result<(), Damage> {
        if holds { Ok(()) } else { Err(self.damage(problem)) }
    }

    /// # Errors
    ///
    /// That it ends too early, if there is no `value`.
    pub(in crate::store) fn some<T>(self, value: Option<T>) -> Result<T, Damage> {
        value.ok_or_else(|| self.damage("it ends too early"))
    }
}
