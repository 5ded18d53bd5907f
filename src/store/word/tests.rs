use proptest::prelude::*;

use super::*;

fn cold_addresses() -> impl Strategy<Value = ColdAddress> {
    (0..1u64 << 42, 1..=1024u32)
        .prop_map(|(granule, granules)| ColdAddress::new(granule, granules).expect("in range"))
}

fn node_addresses() -> impl Strategy<Value = NodeAddress> {
    (1..1u64 << 42).prop_map(|line| NodeAddress::new(line * 64).expect("in range"))
}

fn views() -> impl Strategy<Value = MapView> {
    prop_oneof![
        Just(MapView::Free),
        node_addresses().prop_map(MapView::Node),
        (cold_addresses(), 0..4u8).prop_map(|(address, age)| MapView::Cold { address, age }),
        Just(MapView::Special(Special::Frozen)),
        Just(MapView::Special(Special::Damaged)),
    ]
}

fn word_of(view: MapView) -> MapWord {
    match view {
        MapView::Free => MapWord::FREE,
        MapView::Node(address) => MapWord::node(address),
        MapView::Cold { address, age } => MapWord::cold(address, age).expect("in range"),
        MapView::Special(special) => MapWord::special(special),
    }
}

proptest! {
    #[test]
    fn a_child_word_keeps_id_and_epoch(id in 0..1u64 << 40, epoch in 0..1u32 << 24) {
        let (id, epoch) = (PageId::new(id).expect("in range"), Epoch::new(epoch).expect("in range"));
        let word = ChildWord::from_bits(ChildWord::new(id, epoch).bits());
        prop_assert_eq!((word.id(), word.epoch()), (id, epoch));
    }

    #[test]
    fn ids_and_epochs_beyond_their_bits_are_refused(id in 1u64 << 40.., epoch in 1u32 << 24..) {
        prop_assert_eq!(PageId::new(id), None);
        prop_assert_eq!(Epoch::new(epoch), None);
    }

    #[test]
    fn a_mapping_word_keeps_what_it_says(view in views()) {
        let word = word_of(view);
        prop_assert_eq!(word.view(), view);
        prop_assert_eq!(MapWord::from_bits(word.bits()), Some(word));
    }

    #[test]
    fn different_views_have_different_words(one in views(), other in views()) {
        prop_assert_eq!(one == other, word_of(one) == word_of(other));
    }

    /// Any bits are refused, or are the word of what they say.
    #[test]
    fn bits_are_refused_or_mean_what_they_say(bits: u64) {
        if let Some(word) = MapWord::from_bits(bits) {
            prop_assert_eq!(word_of(word.view()).bits(), bits);
        }
        if let Some(word) = SecondWord::from_bits(bits) {
            let parts = SecondWord::new(
                word.checksum_low(), word.epoch(), word.is_cold_stream(), word.has_expiries());
            prop_assert_eq!(parts.bits(), bits);
        }
    }

    #[test]
    fn a_second_word_keeps_its_parts(
        checksum: u32, epoch in 0..1u32 << 24, is_cold_stream: bool, has_expiries: bool,
    ) {
        let epoch = Epoch::new(epoch).expect("in range");
        let word = SecondWord::new(checksum, epoch, is_cold_stream, has_expiries);
        prop_assert_eq!(word.checksum_low(), checksum);
        prop_assert_eq!(word.epoch(), epoch);
        prop_assert_eq!(word.is_cold_stream(), is_cold_stream);
        prop_assert_eq!(word.has_expiries(), has_expiries);
        prop_assert_eq!(SecondWord::from_bits(word.bits()), Some(word));
    }

    #[test]
    fn a_cold_address_keeps_address_and_length(address in cold_addresses()) {
        prop_assert_eq!(ColdAddress::new(address.granule(), address.granules()), Some(address));
        prop_assert_eq!(address.offset_bytes(), address.granule() * 64);
        prop_assert_eq!(address.len_bytes(), u64::from(address.granules()) * 64);
    }
}

#[test]
fn values_out_of_range_are_refused() {
    assert_eq!(ColdAddress::new(1 << 42, 1), None);
    assert_eq!(ColdAddress::new(0, 0), None);
    assert_eq!(ColdAddress::new(0, 1025), None);
    assert_eq!(NodeAddress::new(0), None);
    assert_eq!(NodeAddress::new(32), None);
    assert_eq!(NodeAddress::new(1 << 48), None);
    let address = ColdAddress::new(7, 1).expect("in range");
    assert_eq!(MapWord::cold(address, 4), None);
}

#[test]
fn words_that_nobody_makes_are_refused() {
    let node = MapWord::node(NodeAddress::new(64).expect("in range")).bits();
    let cold = MapWord::cold(ColdAddress::new(7, 1).expect("in range"), 0).expect("in range").bits();
    assert_eq!(MapWord::from_bits(1), None, "free with bits");
    assert_eq!(MapWord::from_bits(node | 8), None, "not aligned");
    assert_eq!(MapWord::from_bits(node | 1 << 48), None, "address too large");
    assert_eq!(MapWord::from_bits(cold | 1), None, "cold with bits that are zero");
    assert_eq!(MapWord::from_bits(3 << 62), None, "special without a reason");
    assert_eq!(MapWord::from_bits(3 << 62 | 3), None, "special for no known reason");
    assert_eq!(SecondWord::from_bits(1 << 58), None, "a flag without a meaning");
}

#[test]
fn the_bits_are_where_the_format_says() {
    let child = ChildWord::new(PageId::new(5).expect("in range"), Epoch::new(3).expect("in range"));
    assert_eq!(child.bits(), 3 << 40 | 5);
    let address = ColdAddress::new(9, 1024).expect("in range");
    let cold = MapWord::cold(address, 2).expect("in range");
    assert_eq!(cold.bits(), 2 << 62 | 1023 << 52 | 9 << 10 | 2 << 8);
    let second = SecondWord::new(0xAB, Epoch::new(2).expect("in range"), true, true);
    assert_eq!(second.bits(), 3 << 56 | 2 << 32 | 0xAB);
}

#[test]
fn the_epoch_after_the_last_is_the_first() {
    assert_eq!(Epoch::FIRST.next().get(), 1);
    assert_eq!(Epoch::new((1 << 24) - 1).expect("in range").next(), Epoch::FIRST);
    assert_eq!(PageId::new((1 << 40) - 1).map(PageId::get), Some((1 << 40) - 1));
}
