//! The failure after which a store takes no more writes.

use crate::error::{Error, ErrorKind, Outcome};

/// What is kept of the error of an I/O that failed for good.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    kind: ErrorKind,
    code: Option<i32>,
    text: String,
}

impl Failure {
    pub(super) fn of(error: &Error) -> Self {
        Self { kind: error.kind(), code: error.code(), text: error.to_string() }
    }

    /// What it said.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The error that a write, or one that waits for its durability, gets.
    pub(super) fn error(&self, operation: &'static str, outcome: Outcome) -> Error {
        let error = match self.code {
            Some(code) => Error::os(code, operation),
            None => Error::new(self.kind, operation),
        };
        let text =
            format!("the store failed and takes no more writes until it is opened again: {}", self.text);
        error.because(text).outcome_is(outcome)
    }
}
