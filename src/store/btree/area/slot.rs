//! The word of a slot, and what becomes of it.
//!
//! | from | to | by | when |
//! |---|---|---|---|
//! | free | reserved | a writer | its predecessor is taken, and the heap has room |
//! | free | sealed | whoever freezes the area | its predecessor is taken |
//! | reserved | live | the writer that reserved it | its entry and number are written |
//! | reserved | aborted | anyone that needs it decided | after a bounded wait |
//! | live, aborted, sealed | nothing | | the node goes as a whole |
//!
//! Each of them is one compare-and-swap on the slot's word. So the slots of an area are taken in
//! order, without a gap, and a word that is not 0 changes in its state only.
//!
//! | bits | field |
//! |---|---|
//! | 63..62 | state: 0 free, 1 reserved, 2 live, 3 aborted |
//! | 61..58 | kind; 0 in an aborted slot without anything else: sealed |
//! | 57..42 | tag: 16 bits of the key's hash |
//! | 41..28 | offset of the entry in the heap, in 8 bytes |
//! | 27..15 | length of the key, in bytes |
//! | 14..0 | room of the entry, in 8 bytes |

/// What an entry of an area says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    /// The key's value.
    Put,
    /// The key's value lies elsewhere: the entry's value says where.
    Overflow,
    /// The key is absent.
    Delete,
    /// A write of a transaction: it counts when the transaction has committed.
    Intent,
    /// A clean copy of what lies below the area.
    Cached,
    /// Nothing lies below the area.
    CachedAbsence,
}

impl Kind {
    /// The kind's code in words and entries, 1 to 7 without 4.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Put => 1,
            Self::Overflow => 2,
            Self::Delete => 3,
            Self::Intent => 5,
            Self::Cached => 6,
            Self::CachedAbsence => 7,
        }
    }

    pub(super) fn of_code(code: u64) -> Option<Self> {
        Some(match code {
            1 => Self::Put,
            2 => Self::Overflow,
            3 => Self::Delete,
            5 => Self::Intent,
            6 => Self::Cached,
            7 => Self::CachedAbsence,
            _ => return None,
        })
    }

    /// Whether the area has something that lies nowhere below it.
    pub(in crate::store) const fn is_change(self) -> bool {
        !matches!(self, Self::Cached | Self::CachedAbsence)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    /// Nobody may take a slot from here on.
    Sealed,
    Reserved,
    Live,
    Aborted,
}

/// What a writer asks of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) tag: u16,
    /// In bytes, at most [`SlotWord::MAX_KEY_BYTES`].
    pub(super) key_len: usize,
    /// Of the whole entry, in bytes, at most [`SlotWord::MAX_ENTRY_BYTES`].
    pub(super) entry_len: usize,
}

/// The word of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotWord(u64);

impl SlotWord {
    const STATE: u32 = 62;
    const KIND: u32 = 58;
    const TAG: u32 = 42;
    const OFFSET: u32 = 28;
    const KEY: u32 = 15;
    const RESERVED: u64 = 1;
    const LIVE: u64 = 2;
    const ABORTED: u64 = 3;
    const ROOM_MASK: u64 = (1 << Self::KEY) - 1;
    const KEY_MASK: u64 = (1 << (Self::OFFSET - Self::KEY)) - 1;
    const OFFSET_MASK: u64 = (1 << (Self::TAG - Self::OFFSET)) - 1;
    const KIND_MASK: u64 = 0xF;

    /// Entries start at multiples of this many bytes.
    pub(super) const UNIT: usize = 8;
    /// The longest key that a slot can name.
    pub(super) const MAX_KEY_BYTES: usize = 8191;
    /// The longest entry that a slot can have.
    pub(super) const MAX_ENTRY_BYTES: usize = 32_767 * Self::UNIT;

    pub(super) const FREE: Self = Self(0);
    pub(super) const SEALED: Self = Self(Self::ABORTED << Self::STATE);

    /// A reserved slot whose entry starts at `offset` bytes of the heap, a multiple of 8. None if
    /// one of the numbers does not fit its field.
    pub(super) fn reserved(request: Request, offset: usize) -> Option<Self> {
        let field = |value: usize, mask: u64| u64::try_from(value).ok().filter(|value| *value <= mask);
        let room = field(request.entry_len.div_ceil(Self::UNIT), Self::ROOM_MASK)?;
        let key = field(request.key_len, Self::KEY_MASK)?;
        let offset = field(offset / Self::UNIT, Self::OFFSET_MASK)?;
        Some(Self(
            Self::RESERVED << Self::STATE
                | u64::from(request.kind.code()) << Self::KIND
                | u64::from(request.tag) << Self::TAG
                | offset << Self::OFFSET
                | key << Self::KEY
                | room,
        ))
    }

    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    pub(super) fn state(self) -> State {
        match self.0 >> Self::STATE {
            Self::RESERVED => State::Reserved,
            Self::LIVE => State::Live,
            Self::ABORTED if self == Self::SEALED => State::Sealed,
            Self::ABORTED => State::Aborted,
            _ => State::Free,
        }
    }

    /// The same slot, live.
    pub(super) const fn live(self) -> Self {
        Self(self.0 & !(3 << Self::STATE) | Self::LIVE << Self::STATE)
    }

    /// The same slot, aborted.
    pub(super) const fn aborted(self) -> Self {
        Self(self.0 | Self::ABORTED << Self::STATE)
    }

    /// Whether the slot is live and has this tag.
    #[inline]
    pub(super) fn is_live_with(self, tag: u16) -> bool {
        const MASK: u64 = 3 << SlotWord::STATE | 0xFFFF << SlotWord::TAG;
        self.0 & MASK == Self::LIVE << Self::STATE | u64::from(tag) << Self::TAG
    }

    /// Whether the slot has an entry, or room for one.
    pub(super) fn is_taken(self) -> bool {
        self != Self::FREE && self != Self::SEALED
    }

    /// Only for a taken slot.
    pub(super) fn kind(self) -> Kind {
        Kind::of_code((self.0 >> Self::KIND) & Self::KIND_MASK).expect("a taken slot has a kind")
    }

    pub(super) fn tag(self) -> u16 {
        u16::try_from((self.0 >> Self::TAG) & 0xFFFF).expect("16 bits")
    }

    /// Where the entry starts in the heap, in bytes.
    pub(super) fn offset(self) -> usize {
        Self::field((self.0 >> Self::OFFSET) & Self::OFFSET_MASK) * Self::UNIT
    }

    /// In bytes.
    pub(super) fn key_len(self) -> usize {
        Self::field((self.0 >> Self::KEY) & Self::KEY_MASK)
    }

    /// In bytes, a multiple of 8.
    pub(super) fn room(self) -> usize {
        Self::field(self.0 & Self::ROOM_MASK) * Self::UNIT
    }

    fn field(value: u64) -> usize {
        usize::try_from(value).expect("fields of a slot have 15 bits at most")
    }
}
