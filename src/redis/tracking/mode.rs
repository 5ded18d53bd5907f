//! How a client tracks keys, as CLIENT TRACKING told it.

/// Which of the keys that it reads a client keeps copies of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) enum TrackedReads {
    #[default]
    All,
    /// Those of a command that follows CLIENT CACHING YES.
    OptIn,
    /// All but those of a command that follows CLIENT CACHING NO.
    OptOut,
}

/// How a client tracks.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct TrackingMode {
    pub(in super::super) reads: TrackedReads,
    /// The client is not told of its own changes.
    pub(in super::super) no_loop: bool,
    /// In broadcast mode: the prefixes of the keys that it is told of whether it has read them or
    /// not.
    pub(in super::super) prefixes: Vec<Vec<u8>>,
    /// CLIENT CACHING was sent: the next command is an exception.
    pub(in super::super) caching: bool,
}

impl TrackingMode {
    /// Whether it is in broadcast mode.
    pub(in super::super) fn broadcasts(&self) -> bool {
        !self.prefixes.is_empty()
    }

    pub(super) fn covers(&self, key: &[u8]) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }
}
