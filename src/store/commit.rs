//! What to wait for before a write is acknowledged.

/// A write that was applied, and may not be durable yet: give it to [`Db::wait`](super::Db::wait).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "a write under `Sync` is acknowledged only after `Db::wait`"]
pub struct Commit {
    /// The log sequence number of the write; 0 if nothing was written.
    pub lsn: u64,
    /// Whether its durability has to be waited for.
    pub wait: bool,
}

impl Commit {
    /// One commit that stands for both: waiting for it waits for both.
    pub fn and(self, other: Self) -> Self {
        let waited = |commit: Self| if commit.wait { commit.lsn } else { 0 };
        let wait = self.wait || other.wait;
        Self { lsn: if wait { waited(self).max(waited(other)) } else { self.lsn.max(other.lsn) }, wait }
    }
}
