//! The states of a bundle on its way to be durable.
//!
//! | state | what is true | next, by |
//! |---|---|---|
//! | [`Builder`](super::Builder) | its core adds pages | [`seal`](super::Builder::seal) |
//! | [`Sealed`] | the trailer is behind the pages; one write of the whole | [`Sealed::written`] |
//! | [`Written`] | the write is complete, perhaps in a volatile cache | [`Written::flushed`], by a flush that began after; if it moves pages, its entries are [installed](Written::moved) |
//! | [`Flushed`] | it is on the namespace | [`Flushed::name`], in a batch that reaches its newest write (W1) |
//! | [`Named`] | a batch that was formed names it | [`Named::durable`], when that batch is |
//! | [`Durable`] | recovery will find it | its entries are installed in the map |
//!
//! Each is a type of its own, so no step can be left out, and none can be taken twice. What failed
//! is dropped: nothing refers to it.

use std::collections::VecDeque;

use super::{Entry, Trailer};
use crate::store::pages::defect::PagesDefect;
use crate::store::word::{ChildWord, PageRef};

/// Numbers the flushes of a namespace.
#[derive(Debug, Default)]
pub(in crate::store) struct FlushClock {
    begun: u64,
}

/// A flush that is under way, or complete.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Flush(u64);

impl FlushClock {
    /// A flush begins.
    pub(in crate::store) fn begin(&mut self) -> Flush {
        self.begun += 1;
        Flush(self.begun)
    }
}

/// To be written.
#[derive(Debug)]
pub(in crate::store) struct Sealed {
    trailer: Trailer,
    at: PageRef,
    offset: u64,
    len: usize,
}

impl Sealed {
    pub(in crate::store) fn new(trailer: Trailer, at: PageRef, offset: u64, len: usize) -> Self {
        Self { trailer, at, offset, len }
    }

    /// Where it goes, and how many bytes of the buffer: whole blocks.
    pub(in crate::store) fn write(&self) -> (u64, usize) {
        (self.offset, self.len)
    }

    pub(in crate::store) fn trailer(&self) -> &Trailer {
        &self.trailer
    }

    /// The write is complete.
    pub(in crate::store) fn written(self, clock: &FlushClock) -> Written {
        Written { trailer: self.trailer, at: self.at, after: clock.begun }
    }
}

/// In the namespace's cache at least.
#[derive(Debug)]
pub(in crate::store) struct Written {
    trailer: Trailer,
    at: PageRef,
    /// The newest flush that may not cover it.
    after: u64,
}

impl Written {
    /// It has images that were moved, and nothing else: nobody names it. Until a checkpoint is
    /// durable that has their new places, the old ones count. Its entries are installed now.
    pub(in crate::store) fn moved(self) -> Trailer {
        debug_assert!(self.trailer.entries.iter().all(|entry| entry.moved_from().is_some()));
        self.trailer
    }

    /// `flush` is complete.
    ///
    /// # Errors
    ///
    /// Itself, if the flush began before the write was complete: it may not cover it.
    pub(in crate::store) fn flushed(self, flush: Flush) -> Result<Flushed, Self> {
        if flush.0 <= self.after {
            return Err(self);
        }
        Ok(Flushed { trailer: self.trailer, at: self.at })
    }
}

/// On the namespace.
#[derive(Debug)]
pub(in crate::store) struct Flushed {
    trailer: Trailer,
    at: PageRef,
}

impl Flushed {
    /// What the batch of the log says about it: number, place of the trailer, its checksum.
    pub(in crate::store) fn record(&self) -> (u64, PageRef) {
        (self.trailer.number, self.at)
    }

    /// The newest write in its pages.
    pub(in crate::store) fn newest(&self) -> u64 {
        self.trailer.newest
    }

    /// Its trailer, for a caller that has the log say when the batch that names it is durable.
    pub(in crate::store) fn into_trailer(self) -> Trailer {
        self.trailer
    }

    /// It is named in `batch`, whose last write is `last_write`.
    ///
    /// # Errors
    ///
    /// Itself, if its pages have a newer write (rule W1): it waits for a later batch.
    pub(in crate::store) fn name(
        self,
        batch: u64,
        last_write: u64,
        defect: Option<PagesDefect>,
    ) -> Result<Named, Self> {
        if self.trailer.newest > last_write && defect != Some(PagesDefect::PagesBeforeLog) {
            return Err(self);
        }
        Ok(Named { trailer: self.trailer, batch })
    }
}

/// In a batch of the log.
#[derive(Debug)]
pub(in crate::store) struct Named {
    trailer: Trailer,
    batch: u64,
}

impl Named {
    /// The batches up to `batch` are durable.
    ///
    /// # Errors
    ///
    /// Itself, if that does not reach its own.
    pub(in crate::store) fn durable(self, batch: u64) -> Result<Durable, Self> {
        if batch < self.batch {
            return Err(self);
        }
        Ok(Durable { trailer: self.trailer, batch: self.batch })
    }
}

/// To be installed in the map.
#[derive(Debug)]
pub(in crate::store) struct Durable {
    trailer: Trailer,
    batch: u64,
}

impl Durable {
    /// The batch that names it.
    pub(in crate::store) fn batch(&self) -> u64 {
        self.batch
    }

    pub(in crate::store) fn entries(&self) -> &[Entry] {
        &self.trailer.entries
    }

    pub(in crate::store) fn freed(&self) -> &[ChildWord] {
        &self.trailer.freed
    }

    pub(in crate::store) fn trailer(&self) -> &Trailer {
        &self.trailer
    }
}

/// Which bundles the map includes: all that are named in batches before a certain one.
///
/// Bundles are installed in the order of their batches. A checkpoint begins between two batches: a
/// batch of which the map has some bundles and not others would have to be named with them.
#[derive(Debug, Default)]
pub(in crate::store) struct Naming {
    /// Batches with bundles that are not installed: number, how many it names, how many are.
    batches: VecDeque<(u64, usize, usize)>,
}

impl Naming {
    /// A batch was formed that names `bundles` bundles.
    pub(in crate::store) fn named(&mut self, batch: u64, bundles: usize) {
        debug_assert!(self.batches.back().is_none_or(|last| last.0 < batch));
        if bundles > 0 {
            self.batches.push_back((batch, bundles, 0));
        }
    }

    /// A bundle of `batch` was installed. Returns false, and does nothing, if an earlier batch has
    /// bundles that are not.
    pub(in crate::store) fn installed(&mut self, batch: u64) -> bool {
        let Some(first) = self.batches.front_mut().filter(|first| first.0 == batch) else { return false };
        first.2 += 1;
        if first.2 == first.1 {
            self.batches.pop_front();
        }
        true
    }

    /// The first batch whose bundles the map does not include, if a checkpoint may begin now;
    /// `next` is the batch that will be formed next.
    pub(in crate::store) fn freeze(&self, next: u64) -> Option<u64> {
        match self.batches.front() {
            None => Some(next),
            Some(&(batch, _, 0)) => Some(batch),
            Some(_) => None,
        }
    }
}
