//! What readers find in an area.

use super::entry::Entry;
use super::slot::{Kind, State};
use super::{Area, View};

/// What a transaction record says of an intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum IntentState {
    Open,
    /// Committed under this sequence number.
    Committed(u64),
    Aborted,
}

/// What an area says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Lookup<'a> {
    /// The newest entry, which may be a committed intent; it has that kind then which the intent
    /// becomes.
    pub(in crate::store) newest: Option<Entry<'a>>,
    /// Whether `newest` is a committed intent. Then what lies below the area may be newer: the
    /// intent may have come here from the node before this one, whose plain entries are in the
    /// image now, also those that drew their number after the transaction did.
    pub(in crate::store) is_intent: bool,
    /// The record of an open transaction that writes the key.
    pub(in crate::store) open_intent: Option<u64>,
}

impl<'a> Area<'a> {
    /// What the area says of `key` now, of writes with numbers below `before`. Slots that are
    /// reserved are skipped: their writes are concurrent.
    ///
    /// `intent` says what became of an intent, given the address of its transaction record.
    pub(in crate::store) fn lookup(
        &self,
        key: &[u8],
        tag: u16,
        before: u64,
        intent: impl FnMut(u64) -> IntentState,
    ) -> Lookup<'a> {
        self.lookup_below(self.taken(), key, tag, before, intent)
    }

    /// What the area said of `key` at the moment of `view`, which was made with this tag.
    pub(in crate::store) fn lookup_in(
        &self,
        view: View,
        key: &[u8],
        tag: u16,
        intent: impl FnMut(u64) -> IntentState,
    ) -> Lookup<'a> {
        self.lookup_below(view.end, key, tag, u64::MAX, intent)
    }

    /// Numbers of plain entries of one key grow with their slots, so the first one from the end is
    /// the newest. Those of intents do not: every intent is looked at, and the largest number wins.
    fn lookup_below(
        &self,
        end: usize,
        key: &[u8],
        tag: u16,
        before: u64,
        mut intent: impl FnMut(u64) -> IntentState,
    ) -> Lookup<'a> {
        let mut found = Lookup { newest: None, is_intent: false, open_intent: None };
        let mut is_plain_found = false;
        for (index, word) in self.slots.live_of_tag(end, tag) {
            let is_intent = word.kind() == Kind::Intent;
            if is_plain_found && !is_intent {
                continue;
            }
            let Some(entry) = self.entry(index).filter(|entry| entry.key == key) else { continue };
            let entry = if is_intent {
                match intent(entry.seq) {
                    IntentState::Committed(seq) => entry.committed(seq),
                    IntentState::Open => {
                        found.open_intent = Some(entry.seq);
                        continue;
                    }
                    IntentState::Aborted => continue,
                }
            } else {
                entry
            };
            if entry.seq >= before {
                continue;
            }
            is_plain_found |= !is_intent;
            if found.newest.is_none_or(|newest| newest.seq < entry.seq) {
                found.newest = Some(entry);
                found.is_intent = is_intent;
            }
        }
        found
    }

    /// The live entries of `key`, the last slot first; intents as they are.
    pub(in crate::store) fn versions<'k>(
        &self,
        key: &'k [u8],
        tag: u16,
    ) -> impl Iterator<Item = Entry<'a>> + use<'a, 'k> {
        let area = *self;
        let of_tag = move |index: &usize| area.slots.load(*index).tag() == tag;
        let entries = (0..self.taken()).rev().filter(of_tag).filter_map(move |index| area.entry(index));
        entries.filter(move |entry| entry.key == key)
    }

    /// All live entries, the last slot first; intents as they are.
    pub(in crate::store) fn live(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let area = *self;
        (0..self.taken()).rev().filter_map(move |index| area.entry(index))
    }

    /// Whether a change is live. Of an area that is frozen and decided: whether it has one.
    pub(in crate::store) fn has_changes(&self) -> bool {
        (0..self.taken()).any(|index| {
            let word = self.slots.load(index);
            word.state() == State::Live && word.kind().is_change()
        })
    }

    /// The newest number of a change that is live, or 0.
    pub(in crate::store) fn newest(&self) -> u64 {
        self.live().filter(|entry| entry.kind.is_change()).map(|entry| entry.seq).max().unwrap_or(0)
    }

    fn entry(&self, index: usize) -> Option<Entry<'a>> {
        self.slots.entry(index).map(|(word, bytes)| Entry::read(word, bytes))
    }

    /// The smallest number that a change of this area has or can get, or none if it has no changes.
    /// `stable` is a number that was, before this call, no larger than any number that was drawn
    /// and not published, or was yet to be drawn. `intent` is as for [`lookup`](Self::lookup).
    pub(in crate::store) fn dirty_from(
        &self,
        stable: u64,
        mut intent: impl FnMut(u64) -> IntentState,
    ) -> Option<u64> {
        let from = |index| {
            let word = self.slots.load(index);
            if !word.kind().is_change() {
                return None;
            }
            match word.state() {
                State::Reserved => Some(stable),
                State::Live => self.entry(index).and_then(|entry| match entry.kind {
                    Kind::Intent => match intent(entry.seq) {
                        IntentState::Open => Some(stable),
                        IntentState::Committed(seq) => Some(seq),
                        IntentState::Aborted => None,
                    },
                    _ => Some(entry.seq),
                }),
                State::Free | State::Sealed | State::Aborted => None,
            }
        };
        (0..self.taken()).filter_map(from).min()
    }
}
