//! Operations read back, and nothing else does.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::{Effect, Operation, Operations, Part};
use crate::store::options::{MAX_KEY_BYTES, MAX_TREE_NAME_BYTES};

/// An operation that owns what it says.
#[derive(Clone, Debug)]
pub(in crate::store::wal) struct Owned {
    kind: u8,
    tree: u32,
    effect: Effect,
    expiry: Option<u64>,
    key: Vec<u8>,
    value: Vec<u8>,
    name: String,
    word: u64,
    reference: [u8; 24],
}

impl Owned {
    fn part(&self) -> Part {
        let parts = self.expiry.map(|parts| u32::try_from(parts % 1000 + 2).expect("small"));
        let back = u32::try_from(self.word >> 32).expect("32 bits are left");
        Part { back: back.max(parts.map_or(0, |parts| parts - 1)), parts }
    }

    /// Operations that may be a record.
    pub(in crate::store::wal) fn record(&self) -> Vec<Operation<'_>> {
        let behind = (self.kind == 5).then_some(Operation::RemoveTree { tree: self.tree });
        [self.operation()].into_iter().chain(behind).collect()
    }

    fn operation(&self) -> Operation<'_> {
        let Self { tree, effect, expiry, reference, .. } = *self;
        let (key, value) = (self.key.as_slice(), self.value.as_slice());
        match self.kind {
            0 => Operation::Void,
            1 => Operation::Put { tree, effect, expiry, key, value },
            2 => Operation::Delete { tree, effect, key },
            4 => Operation::PutReference { tree, effect, expiry, reference, key },
            5 => Operation::Part(self.part()),
            6 => Operation::CreateTree { tree, root: self.word, options: !self.word, name: &self.name },
            7 => Operation::RemoveTree { tree },
            8 => Operation::ClearTree { tree, root: self.word },
            9 => Operation::DeleteRange { tree, from: key, to: &value[..value.len().min(MAX_KEY_BYTES)] },
            _ => Operation::InstallTree { tree, root: self.word },
        }
    }
}

prop_compose! {
    pub(in crate::store::wal) fn any_operation()(
        kind in prop_oneof![0_u8..=2, 4_u8..=10],
        tree in prop_oneof![0_u32..300, any::<u32>()],
        effect in prop_oneof![
            Just(Effect::None), Just(Effect::More), Just(Effect::Less), Just(Effect::Unknown)
        ],
        expiry in option::of(0_u64..1 << 48),
        key in prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), MAX_KEY_BYTES)],
        value in prop_oneof![vec(any::<u8>(), 0..200), vec(any::<u8>(), 16_000..17_000)],
        name in "[a-zä]{0,20}",
        word in any::<u64>(),
        reference in any::<[u8; 24]>(),
    ) -> Owned {
        Owned { kind, tree, effect, expiry, key, value, name, word, reference }
    }
}

pub(in crate::store::wal) fn encode(operations: &[Operation<'_>]) -> Vec<u8> {
    let mut bytes = vec![0xaa; operations.iter().map(Operation::encoded_len).sum()];
    let mut rest = bytes.as_mut_slice();
    for operation in operations {
        rest = operation.encode(rest);
    }
    assert!(rest.is_empty(), "its length was said right");
    bytes
}

proptest! {
    #[test]
    fn an_operation_reads_back_and_no_prefix_of_it_does(owned in any_operation()) {
        let bytes = encode(&owned.record());
        let operations = Operations(&bytes);
        prop_assert!(operations.is_valid());
        prop_assert_eq!(operations.iter().collect::<Vec<_>>(), owned.record());
        let behind = operations.part().map(|(part, behind)| (part, behind.iter().collect::<Vec<_>>()));
        let expected = (owned.kind == 5).then(|| (owned.part(), owned.record()[1..].to_vec()));
        prop_assert_eq!(behind, expected);
        for cut in (0..bytes.len()).step_by(1 + bytes.len() / 200) {
            prop_assert!(!Operations(&bytes[..cut]).is_valid(), "cut to {}", cut);
        }
    }

    #[test]
    fn records_of_many_operations_read_back(owned in vec(any_operation(), 1..20)) {
        let operations: Vec<_> = owned.iter().map(Owned::operation).collect();
        let bytes = encode(&operations);
        let is_alone = operations.len() == 1;
        let has_void = operations.contains(&Operation::Void);
        let is_part = |operation: &Operation<'_>| matches!(operation, Operation::Part(_));
        let has_late_part = operations[1..].iter().any(is_part) || is_alone && is_part(&operations[0]);
        prop_assert_eq!(Operations(&bytes).is_valid(), (is_alone || !has_void) && !has_late_part);
        prop_assert_eq!(Operations(&bytes).iter().collect::<Vec<_>>(), operations);
    }

    #[test]
    fn what_reads_is_what_encoding_writes(bytes in vec(any::<u8>(), 0..300), kind in 0_u8..16, len in 0_u8..60) {
        let mut bytes = bytes;
        // Likely lengths, so that some of it reads.
        for (place, byte) in bytes.iter_mut().zip([kind, 1, len, len]) {
            *place = byte;
        }
        if Operations(&bytes).is_valid() {
            let operations: Vec<_> = Operations(&bytes).iter().collect();
            prop_assert_eq!(encode(&operations), bytes);
        }
    }
}

#[test]
fn operations_beyond_the_limits_are_refused() {
    let key = vec![7; MAX_KEY_BYTES + 1];
    let (name, effect) = ("n".repeat(MAX_TREE_NAME_BYTES + 1), Effect::None);
    let operations = [
        Operation::Put { tree: 7, effect, expiry: None, key: &key, value: b"v" },
        Operation::Delete { tree: 7, effect, key: &key },
        Operation::PutReference { tree: 7, effect, expiry: None, reference: [1; 24], key: &key },
        Operation::CreateTree { tree: 7, root: 1, options: 0, name: &name },
        Operation::DeleteRange { tree: 7, from: &key, to: b"" },
        Operation::DeleteRange { tree: 7, from: b"", to: &key },
    ];
    for operation in operations {
        assert!(!Operations(&encode(&[operation])).is_valid(), "{operation:?}");
    }
}

#[test]
fn what_encoding_does_not_write_is_refused() {
    let refused: [&[u8]; 16] = [
        &[],                                   // no operation
        &[0x10],                               // a void that expires
        &[0x20],                               // a void that counts
        &[0x80],                               // a bit without a meaning
        &[0x0b, 0],                            // a kind without a meaning
        &[0x12, 0, 0],                         // a delete that expires
        &[2, 0x80, 0, 0],                      // tree 0, too long
        &[2, 0xff, 0xff, 0xff, 0xff, 0x10, 0], // tree 2^32
        &[0, 0],                               // two voids
        &[5, 0],                               // a part of nothing
        &[5, 1, 5, 1, 7, 0],                   // a part of a part
        &[7, 0, 5, 1],                         // a part behind others
        &[5, 1, 0],                            // a void in a part
        &[0x25, 1, 7, 0],                      // a part that counts
        &[0x15, 1, 1, 7, 0],                   // the last one of one part
        &[0x15, 1, 3, 7, 0],                   // the last one of three parts, two of them before
    ];
    for bytes in refused {
        assert!(!Operations(bytes).is_valid(), "{bytes:?}");
    }
    assert!(Operations(&[2, 0xff, 0xff, 0xff, 0xff, 0x0f, 0]).is_valid(), "tree 2^32 - 1");
    assert!(Operations(&[0x15, 2, 3, 7, 0]).is_valid(), "the last one of three parts");
}
