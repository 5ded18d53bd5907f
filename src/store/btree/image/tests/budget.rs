//! What a point read in memory costs, by the layout of the leaf: E2 and E12 of
//! `docs/store-design.md`. The report is `docs/experiments/leaf-layout.md`.
//!
//! ```text
//! export GLIBC_TUNABLES=glibc.malloc.hugetlb=1  # huge pages, where they are left to madvise
//! taskset -c 1 cargo test --release --lib store::btree::image::tests::budget -- \
//!     --ignored --nocapture --test-threads=1
//! ```
//!
//! Times are of the thread's processor time, so what else runs takes no part but in the caches.
//! Rounds are interleaved, each figure is the median of its rounds. A read depends on the one before
//! it, as in a caller that waits for its answers, and copies the value out.

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::hint::black_box;

use rustix::time::{ClockId, clock_gettime};

use super::*;
use crate::store::codec::{to_u32, to_usize};

const VALUE_BYTES: usize = 100;
const QUERIES: usize = 100_000;
const ROUNDS: usize = 9;
const NODE_HEADER_BYTES: usize = 64;

fn records() -> usize {
    std::env::var("RECORDS").ok().and_then(|count| count.parse().ok()).unwrap_or(10_000_000)
}

type Key = [u8; 16];

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn sorted_keys() -> Vec<Key> {
    let mut state = 1;
    let mut keys: Vec<Key> = (0..records())
        .map(|_| (u128::from(random(&mut state)) << 64 | u128::from(random(&mut state))).to_be_bytes())
        .collect();
    keys.sort_unstable();
    keys
}

/// One mapping, cut at cache lines.
struct Arena {
    lines: Vec<Line>,
    used: usize,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u8; 64]);

impl Arena {
    fn new(bytes: usize) -> Self {
        Self { lines: vec![Line([0; 64]); bytes / 64 + 1], used: 0 }
    }

    /// Copies `bytes` to the next line, and returns its number.
    fn push(&mut self, bytes: &[u8]) -> u32 {
        let at = self.used;
        for (line, part) in self.lines[at..].iter_mut().zip(bytes.chunks(64)) {
            line.0[..part.len()].copy_from_slice(part);
        }
        self.used += bytes.len().div_ceil(64);
        to_u32(at)
    }

    #[inline]
    fn bytes(&self, at: u32, len: usize) -> &[u8] {
        let lines = &self.lines[at as usize..at as usize + len.div_ceil(64)];
        let (first, lines_len) = (lines.as_ptr().cast::<u8>(), lines.len() * 64);
        // SAFETY: lines are 64 bytes each without padding, initialised, and borrowed for as long.
        unsafe { std::slice::from_raw_parts(first, lines_len.min(len)) }
    }

    /// Asks for `count` lines from `at` on.
    #[inline]
    fn prefetch(&self, at: u32, count: usize) {
        let first = self.lines.as_ptr().wrapping_add(at as usize);
        for index in 0..count {
            // SAFETY: a prefetch reads nothing; any address will do.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(index).cast()) };
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn leaf(keys: &[Key]) -> Vec<u8> {
    let value = [0; VALUE_BYTES];
    build(
        keys.iter().map(|key| Entry {
            kind: EntryKind::Value,
            number: None,
            expiry_ms: None,
            key: KeyParts::whole(key),
            value: &value,
        }),
        &[],
    )
}

/// What lies in front of an image in its node: a header that says where the image is, then what
/// `front` says.
fn node(front: &[u8], image: &[u8], next: u32) -> Vec<u8> {
    let image_at = NODE_HEADER_BYTES + front.len().next_multiple_of(64);
    let mut node = vec![0; image_at];
    node[0..4].copy_from_slice(&to_u32(image_at).to_le_bytes());
    node[4..8].copy_from_slice(&to_u32(image.len()).to_le_bytes());
    node[8..12].copy_from_slice(&next.to_le_bytes());
    node[NODE_HEADER_BYTES..NODE_HEADER_BYTES + front.len()].copy_from_slice(front);
    node.extend_from_slice(image);
    node
}

/// The nodes of one layout, in the order of their keys.
struct Layout {
    arena: Arena,
    nodes: Vec<u32>,
}

impl Layout {
    fn new(keys: &[Key], image_bytes: usize, mut front: impl FnMut(&[Key]) -> Vec<u8>) -> Self {
        let per_leaf = (image_bytes - 16) / 122;
        let extra = front(&keys[..per_leaf]).len().next_multiple_of(64) + NODE_HEADER_BYTES + 64;
        let mut arena = Arena::new((image_bytes + extra) * keys.len().div_ceil(per_leaf));
        let nodes =
            keys.chunks(per_leaf).map(|keys| arena.push(&node(&front(keys), &leaf(keys), 0))).collect();
        Self { arena, nodes }
    }

    #[inline]
    fn image(&self, at: u32) -> &[u8] {
        let header = self.arena.bytes(at, NODE_HEADER_BYTES);
        let (image_at, len) = (u32_at(header, 0), u32_at(header, 4));
        self.arena.bytes(at + image_at / 64, len as usize)
    }
}

fn hash(key: &Key) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
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

/// Looks for the tag among live slots, the newest first.
#[inline]
fn scan_area(area: &[u8], slots: usize, tag: u64) -> Option<usize> {
    let (words, _) = area[..8 * slots].as_chunks::<8>();
    words.iter().rposition(|word| {
        let word = u64::from_le_bytes(*word);
        word >> 62 == 2 && word >> 42 & 0xffff == tag
    })
}

#[derive(Clone, Copy)]
struct Query {
    key: Key,
    rank: u32,
}

fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

type Read<'a> = (String, Box<dyn Fn(&Query, &mut [u8; VALUE_BYTES]) + 'a>);

fn measure(keys: &[Key], reads: &[Read<'_>]) {
    let mut state = 99;
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); reads.len()];
    for _ in 0..ROUNDS {
        for (read, times) in reads.iter().zip(&mut times) {
            let queries: Vec<Query> = (0..QUERIES)
                .map(|_| to_usize(random(&mut state)) % keys.len())
                .map(|rank| Query { key: keys[rank], rank: to_u32(rank) })
                .collect();
            let mut value = [0; VALUE_BYTES];
            let started = thread_ns();
            let mut next = 0;
            for _ in 0..QUERIES {
                value[0] = 1;
                read.1(&queries[next], &mut value);
                // 0 is what is stored: the next query is known when the value is.
                next += 1 + usize::from(black_box(value[0]));
            }
            times.push((thread_ns() - started) as f64 / QUERIES as f64);
        }
    }
    let medians: Vec<f64> = times
        .iter_mut()
        .map(|times| {
            times.sort_unstable_by(f64::total_cmp);
            times[times.len() / 2]
        })
        .collect();
    println!("{:<44} {:>7} {:>6} {:>15}", "", "ns", "ratio", "least to most");
    for ((read, median), times) in reads.iter().zip(&medians).zip(&times) {
        let (least, most) = (times[0], times[times.len() - 1]);
        println!("{:<44} {median:>7.0} {:>6.2} {least:>7.0} {most:>7.0}", read.0, median / medians[0]);
    }
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    for line in rollup.lines().filter(|line| line.starts_with("Rss") || line.starts_with("AnonHuge")) {
        println!("{line}");
    }
}

fn copy(entry: Option<Entry<'_>>, value: &mut [u8; VALUE_BYTES]) {
    value.copy_from_slice(entry.expect("every key is there").value);
}

/// The unit of the others: a line anywhere in an arena, with nothing to do.
fn one_line(arena: &Arena) -> Read<'_> {
    let lines = arena.used as u64;
    let read = move |query: &Query, value: &mut [u8; VALUE_BYTES]| {
        let at = u64::from(query.rank).wrapping_mul(0x9e37_79b9_7f4a_7c15) % lines;
        value[0] = black_box(arena.lines[to_usize(at)].0[63]) & black_box(0);
    };
    ("one line of memory".to_owned(), Box::new(read))
}

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

fn shuffled(len: usize, state: &mut u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    for index in (1..len).rev() {
        order.swap(index, to_usize(random(state)) % (index + 1));
    }
    order
}

/// A descent by child words and a mapping, through levels of 150 children, to leaves of 2, 4 and
/// 8 KiB; with the lines of heads asked for at once, in inner pages, in the leaf and in both.
#[test]
#[ignore = "a measurement, of minutes and 5 GB"]
fn descent_to_a_leaf() {
    let keys = sorted_keys();
    let trees: Vec<(usize, Tree)> = [4032, 2016, 8128].map(|size| (size, Tree::new(&keys, size))).into();
    let mut reads: Vec<Read<'_>> = vec![one_line(&trees[0].1.layout.arena)];
    for (size, tree) in &trees {
        let heads = 1 + (16 + 8 * ((size - 16) / 122)).div_ceil(64);
        for (inner_lines, lines) in [(0, 0), (0, heads), (11, 0), (11, heads)] {
            let name =
                format!("{} levels, leaf of {size}, prefetched {inner_lines} and {lines}", tree.levels);
            reads.push((
                name,
                Box::new(move |query, value| {
                    let at = tree.descend(&query.key, inner_lines);
                    tree.layout.arena.prefetch(at, lines);
                    copy(LeafImage::of_verified(tree.layout.image(at)).find(&query.key), value);
                }),
            ));
        }
        reads.push((
            format!("{} levels alone, prefetched 11", tree.levels),
            Box::new(move |query, value| {
                value[0] = u8::try_from(black_box(tree.descend(&query.key, 11)) >> 31).expect("a bit");
            }),
        ));
    }
    measure(&keys, &reads);
}

struct Tree {
    layout: Layout,
    inner: Arena,
    /// By page id, the line of its node; those of inner pages count from 2^31.
    mapping: Vec<u32>,
    root: ChildWord,
    levels: usize,
}

impl Tree {
    const CHILDREN: usize = 150;

    fn new(keys: &[Key], size: usize) -> Self {
        let layout = Layout::new(keys, size, |_| Vec::new());
        let per_leaf = (size - 16) / 122;
        let mut mapping = vec![0; 16];
        let mut inner = Arena::new(layout.nodes.len() * 32 + (1 << 20));
        let mut state = 8;
        // Ids in no order.
        let base = mapping.len();
        mapping.resize(base + layout.nodes.len(), 0);
        let mut level: Vec<(ChildWord, Vec<u8>)> = Vec::new();
        for (index, id) in shuffled(layout.nodes.len(), &mut state).into_iter().enumerate() {
            mapping[base + id] = layout.nodes[index];
            let first = KeyParts::whole(&keys[index * per_leaf]);
            let below = KeyParts::whole(&keys[(index * per_leaf).saturating_sub(1)]);
            let separator = keys[index * per_leaf][..(first.common_len(&below) + 1).min(16)].to_vec();
            level.push((ChildWord::new((base + id) as u64, 1), separator));
        }
        let mut levels = 0;
        while level.len() > 1 {
            levels += 1;
            let parents = level.chunks(Self::CHILDREN).map(|children| {
                let branches = children.iter().enumerate().map(|(index, (child, _))| Branch {
                    child: *child,
                    upper: children.get(index + 1).map(|(_, lower)| KeyParts::whole(lower)),
                });
                let builder = InnerBuilder::new(branches, InnerParts::default());
                let mut image = vec![0; builder.size_bytes()];
                builder.write(&mut image);
                mapping.push(inner.push(&node(&[], &image, 0)));
                (ChildWord::new(mapping.len() as u64 - 1, 1), children[0].1.clone())
            });
            level = parents.collect();
        }
        Self { layout, inner, mapping, root: level[0].0, levels }
    }

    #[inline]
    fn descend(&self, key: &Key, lines: usize) -> u32 {
        let mut child = self.root;
        for _ in 0..self.levels {
            let at = self.mapping[to_usize(child.id())];
            self.inner.prefetch(at, lines);
            let header = self.inner.bytes(at, NODE_HEADER_BYTES);
            let (image_at, len) = (u32_at(header, 0), u32_at(header, 4));
            let image = self.inner.bytes(at + image_at / 64, len as usize);
            (_, child) = InnerImage::of_verified(image).child_for(key);
        }
        self.mapping[to_usize(child.id())]
    }
}

/// The first head that is not smaller, by the search of images and by others, over arrays that are
/// in the first cache.
#[test]
#[ignore = "a measurement"]
fn search_of_heads() {
    const ARRAYS: usize = 16;
    let mut state = 3;
    for count in [16, 32, 64, 150] {
        let arrays: Vec<Vec<u32>> = (0..ARRAYS)
            .map(|_| {
                let mut heads: Vec<u32> =
                    (0..count).map(|_| to_u32(to_usize(random(&mut state) >> 32))).collect();
                heads.sort_unstable();
                heads
            })
            .collect();
        let needles: Vec<u32> = (0..4096).map(|_| to_u32(to_usize(random(&mut state) >> 32))).collect();
        type Search = fn(&[u32], u32) -> usize;
        let mut searches: Vec<(&str, Search)> =
            vec![("binary", binary), ("binary to 16, then count", binary_and_count), ("count", smaller)];
        if std::arch::is_x86_feature_detected!("avx2") {
            searches.push(("count by AVX2", |heads, head| {
                // SAFETY: the processor has AVX2: it was asked just now.
                unsafe { smaller_avx2(heads, head) }
            }));
            searches.push(("binary to 16, then AVX2", |heads, head| {
                let (base, size) = halve(heads, head, 16);
                // SAFETY: the processor has AVX2: it was asked just now.
                base + unsafe { smaller_avx2(&heads[base..base + size], head) }
            }));
        }
        let mut times = vec![Vec::new(); searches.len()];
        for _ in 0..41 {
            for ((_, search), times) in searches.iter().zip(&mut times) {
                let started = thread_ns();
                let mut found = 0;
                for &needle in &needles {
                    // The array to search is known when the search before is done.
                    found = search(&arrays[found % ARRAYS], needle);
                }
                black_box(found);
                times.push((thread_ns() - started) as f64 / needles.len() as f64);
            }
        }
        for ((name, search), times) in searches.iter().zip(&mut times) {
            times.sort_unstable_by(f64::total_cmp);
            println!("{count:>4} heads, {name:<28} {:>6.1} ns", times[times.len() / 2]);
            for (needle, heads) in needles.iter().zip(arrays.iter().cycle()) {
                assert_eq!(search(heads, *needle), heads.partition_point(|head| head < needle));
            }
        }
    }
}

/// Where the answer is, in at most `until` heads.
#[inline]
fn halve(heads: &[u32], head: u32, until: usize) -> (usize, usize) {
    let (mut base, mut size) = (0, heads.len());
    while size > until {
        let half = size / 2;
        base = std::hint::select_unpredictable(heads[base + half - 1] < head, base + half, base);
        size -= half;
    }
    (base, size)
}

fn binary(heads: &[u32], head: u32) -> usize {
    let (base, size) = halve(heads, head, 1);
    base + usize::from(size == 1 && heads[base] < head)
}

#[inline]
fn smaller(heads: &[u32], head: u32) -> usize {
    heads.iter().map(|&other| u32::from(other < head)).sum::<u32>() as usize
}

fn binary_and_count(heads: &[u32], head: u32) -> usize {
    let (base, size) = halve(heads, head, 16);
    base + smaller(&heads[base..base + size], head)
}

#[target_feature(enable = "avx2")]
fn smaller_avx2(heads: &[u32], head: u32) -> usize {
    smaller(heads, head)
}
