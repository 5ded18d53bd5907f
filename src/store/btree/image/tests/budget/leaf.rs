//! E2, first run: a leaf whose place is known, by what is in it.

use super::*;

/// Heads in images of 2, 4 and 8 KiB; 1-byte tags beside heads; both with the first lines of the
/// node asked for at once.
#[test]
#[ignore = "a measurement, of minutes and 6 GB"]
fn leaf_by_size_and_tags() {
    let keys = sorted_keys();
    let sizes = [4032, 2016, 8128];
    let by_size: Vec<(usize, Layout)> =
        sizes.iter().map(|&size| ((size - 16) / 122, Layout::new(&keys, size, |_| Vec::new()))).collect();
    let tagged = Layout::new(&keys, 4032, tags);
    let mut reads: Vec<Read<'_>> = vec![one_line(&by_size[0].1.arena)];
    for prefetched in [0, 6] {
        for ((per_leaf, layout), size) in by_size.iter().zip(sizes) {
            // As many lines as hold headers, heads and slots.
            let lines = if prefetched == 0 { 0 } else { 1 + (16 + 8 * per_leaf).div_ceil(64) };
            reads.push((
                format!("heads, image of {size}, {lines} lines prefetched"),
                Box::new(move |query, value| {
                    let at = layout.nodes[query.rank as usize / per_leaf];
                    layout.arena.prefetch(at, lines);
                    copy(LeafImage::of_verified(layout.image(at)).find(&query.key), value);
                }),
            ));
        }
        let per_leaf = (4032 - 16) / 122;
        let (tagged, lines) = (&tagged, if prefetched == 0 { 0 } else { 7 });
        reads.push((
            format!("tags, image of 4032, {lines} lines prefetched"),
            Box::new(move |query, value| {
                let at = tagged.nodes[query.rank as usize / per_leaf];
                tagged.arena.prefetch(at, lines);
                let leaf = LeafImage::of_verified(tagged.image(at));
                let tags = &tagged.arena.bytes(at + 1, 64)[..leaf.len()];
                copy(find_by_tag(&leaf, tags, &query.key, hash(&query.key).to_be_bytes()[0]), value);
            }),
        ));
    }
    measure(&keys, &reads);
}

/// Areas of 8, 16 and 32 slots, half of them taken, in the image's node and in one of their own;
/// chains of single deltas.
#[test]
#[ignore = "a measurement, of minutes and 8 GB"]
fn leaf_with_area_or_deltas() {
    const IMAGE_BYTES: usize = 4032;
    let keys = sorted_keys();
    let per_leaf = (IMAGE_BYTES - 16) / 122;
    let plain = Layout::new(&keys, IMAGE_BYTES, |_| Vec::new());
    let plain = &plain;
    let mut state = 5;
    let counts = [8, 16, 32];
    let inside: Vec<Layout> =
        counts.iter().map(|&slots| Layout::new(&keys, IMAGE_BYTES, |_| area(slots, &mut state))).collect();
    let mut apart: Vec<Layout> = Vec::new();
    for slots in counts {
        let mut arena = Arena::new(plain.nodes.len() * (slots * 72 + 192));
        let order = shuffled(plain.nodes.len(), &mut state);
        let mut nodes = vec![0; plain.nodes.len()];
        for index in order {
            nodes[index] = arena.push(&node(&area(slots, &mut state), &[], plain.nodes[index]));
        }
        apart.push(Layout { arena, nodes });
    }
    // Deltas of one record each, as they were allocated one after the other, over all leaves.
    let mut deltas = Arena::new(plain.nodes.len() * 8 * 192);
    let mut chains: Vec<Vec<u32>> = vec![plain.nodes.clone()];
    for _ in 0..8 {
        let below = chains.last().expect("one at least");
        let mut heads = vec![0; plain.nodes.len()];
        for index in shuffled(plain.nodes.len(), &mut state) {
            let mut delta = vec![0; 140];
            delta[8..12].copy_from_slice(&below[index].to_le_bytes());
            let other =
                keys[(per_leaf * index + to_usize(random(&mut state)) % per_leaf).min(keys.len() - 1)];
            delta[16..32].copy_from_slice(&other);
            delta[16] ^= 0x80;
            heads[index] = deltas.push(&delta);
        }
        chains.push(heads);
    }
    let mut reads: Vec<Read<'_>> = vec![one_line(&plain.arena)];
    for lines in [0, 6] {
        reads.push((
            format!("no area, {lines} lines prefetched"),
            Box::new(move |query, value| {
                let at = plain.nodes[query.rank as usize / per_leaf];
                plain.arena.prefetch(at, lines);
                copy(LeafImage::of_verified(plain.image(at)).find(&query.key), value);
            }),
        ));
    }
    for (layout, slots) in inside.iter().zip(counts) {
        for prefetched in [false, true] {
            let how = if prefetched { ", prefetched" } else { "" };
            reads.push((
                format!("area inside, {slots} slots{how}"),
                Box::new(move |query, value| {
                    let at = layout.nodes[query.rank as usize / per_leaf];
                    let image_at = 1 + (slots * 72usize).div_ceil(64);
                    if prefetched {
                        layout.arena.prefetch(at, 1 + slots / 8);
                        layout.arena.prefetch(at + to_u32(image_at), 5);
                    }
                    let area = layout.arena.bytes(at + 1, 8 * slots);
                    assert_eq!(black_box(scan_area(area, slots, 0x1_0000 | hash(&query.key) >> 48)), None);
                    copy(LeafImage::of_verified(layout.image(at)).find(&query.key), value);
                }),
            ));
        }
    }
    for (layout, slots) in apart.iter().zip(counts) {
        reads.push((
            format!("area apart, {slots} slots, image prefetched"),
            Box::new(move |query, value| {
                let at = layout.nodes[query.rank as usize / per_leaf];
                layout.arena.prefetch(at, 1 + slots / 8);
                let header = layout.arena.bytes(at, NODE_HEADER_BYTES);
                let below = u32_at(header, 8);
                plain.arena.prefetch(below, 6);
                let area = layout.arena.bytes(at + 1, 8 * slots);
                assert_eq!(black_box(scan_area(area, slots, 0x1_0000 | hash(&query.key) >> 48)), None);
                copy(LeafImage::of_verified(plain.image(below)).find(&query.key), value);
            }),
        ));
    }
    for count in [1, 4, 8] {
        let (heads, deltas) = (&chains[count], &deltas);
        reads.push((
            format!("{count} deltas, image prefetched"),
            Box::new(move |query, value| {
                let mut at = heads[query.rank as usize / per_leaf];
                for _ in 0..count {
                    let delta = deltas.bytes(at, 64);
                    assert_ne!(delta[16..32], query.key);
                    at = u32_at(delta, 8);
                }
                plain.arena.prefetch(at, 6);
                copy(LeafImage::of_verified(plain.image(at)).find(&query.key), value);
            }),
        ));
    }
    measure(&keys, &reads);
}

/// What it takes to build a leaf of 32 entries from those of another, and to verify it.
#[test]
#[ignore = "a measurement"]
fn building_and_parsing() {
    const LEAVES: usize = 2000;
    let mut state = 4;
    let leaves: Vec<Vec<u8>> = (0..LEAVES)
        .map(|_| {
            let mut keys: Vec<Key> = (0..32)
                .map(|_| {
                    (u128::from(random(&mut state)) << 64 | u128::from(random(&mut state))).to_be_bytes()
                })
                .collect();
            keys.sort_unstable();
            leaf(&keys)
        })
        .collect();
    let mut buffer = vec![0; 8192];
    let (mut builds, mut parses, mut checksums) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = thread_ns();
        for image in &leaves {
            let leaf = LeafImage::of_verified(image);
            let builder = LeafBuilder::new(leaf.entries(0..leaf.len()), &[]);
            let size = builder.size_bytes();
            black_box(builder.write(&mut buffer[..size]));
        }
        let built = thread_ns();
        for image in &leaves {
            black_box(LeafImage::parse(image).expect("a leaf"));
        }
        let parsed = thread_ns();
        for image in &leaves {
            black_box(crate::store::codec::checksum(image));
        }
        let checked = thread_ns();
        for (times, ns) in [
            (&mut builds, built - started),
            (&mut parses, parsed - built),
            (&mut checksums, checked - parsed),
        ] {
            times.push(ns as f64 / LEAVES as f64);
        }
    }
    let medians = medians(&mut [builds, parses, checksums]);
    println!("build {:.0} ns, parse {:.0} ns, checksum {:.0} ns", medians[0], medians[1], medians[2]);
}

fn tags(keys: &[Key]) -> Vec<u8> {
    keys.iter().map(|key| hash(key).to_be_bytes()[0]).collect()
}

/// The index of `key` by tags: `tags` are as many as there are entries.
#[inline]
fn find_by_tag<'a>(leaf: &LeafImage<'a>, tags: &[u8], key: &Key, tag: u8) -> Option<Entry<'a>> {
    for (block, tags) in tags.chunks(32).enumerate() {
        let mut matches =
            tags.iter().enumerate().fold(0u32, |mask, (at, &other)| mask | u32::from(other == tag) << at);
        while matches != 0 {
            let index = 32 * block + matches.trailing_zeros() as usize;
            let entry = leaf.get(index);
            if entry.key.is(key) {
                return Some(entry);
            }
            matches &= matches - 1;
        }
    }
    None
}

/// `slots` words, the first half of them live with random tags, and half as much heap as they may
/// have.
fn area(slots: usize, state: &mut u64) -> Vec<u8> {
    let mut area = Vec::new();
    for index in 0..slots {
        let live = if index < slots / 2 { 2 << 62 | random(state) >> 2 } else { 0 };
        area.extend_from_slice(&u64::to_le_bytes(live));
    }
    area.resize(slots * (8 + 64), 0);
    area
}

/// Looks for the tag, here of 17 bits so that none is there, among live slots, the newest first.
#[inline]
fn scan_area(area: &[u8], slots: usize, tag: u64) -> Option<usize> {
    let (words, _) = area[..8 * slots].as_chunks::<8>();
    words.iter().rposition(|word| {
        let word = u64::from_le_bytes(*word);
        word >> 62 == 2 && word >> 42 & 0xffff == tag
    })
}
