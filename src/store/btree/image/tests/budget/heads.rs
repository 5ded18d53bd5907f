//! E12: the search of heads, by itself.

use super::*;
use crate::store::btree::image::search::first_head;

/// The first head that is not smaller, by the search of images and by others, over arrays that are
/// in the first cache.
#[test]
#[ignore = "a measurement"]
fn search_of_heads() {
    const ARRAYS: usize = 16;
    let mut state = 3;
    for count in [16, 32, 64, 150] {
        let arrays: Vec<Vec<[u8; 4]>> = (0..ARRAYS)
            .map(|_| {
                let mut heads: Vec<u32> =
                    (0..count).map(|_| to_u32(to_usize(random(&mut state) >> 32))).collect();
                heads.sort_unstable();
                heads.into_iter().map(u32::to_le_bytes).collect()
            })
            .collect();
        let needles: Vec<u32> = (0..4096).map(|_| to_u32(to_usize(random(&mut state) >> 32))).collect();
        type Search = fn(&[[u8; 4]], u32) -> usize;
        let mut searches: Vec<(&str, Search)> =
            vec![("binary", binary), ("binary to 16, then count", binary_and_count), ("count", smaller)];
        searches.push(("as images do", first_head));
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
                assert_eq!(
                    search(heads, *needle),
                    heads.partition_point(|head| u32::from_le_bytes(*head) < *needle)
                );
            }
        }
    }
}

/// Where the answer is, in at most `until` heads.
#[inline]
fn halve(heads: &[[u8; 4]], head: u32, until: usize) -> (usize, usize) {
    let (mut base, mut size) = (0, heads.len());
    while size > until {
        let half = size / 2;
        base = std::hint::select_unpredictable(
            u32::from_le_bytes(heads[base + half - 1]) < head,
            base + half,
            base,
        );
        size -= half;
    }
    (base, size)
}

fn binary(heads: &[[u8; 4]], head: u32) -> usize {
    let (base, size) = halve(heads, head, 1);
    base + usize::from(size == 1 && u32::from_le_bytes(heads[base]) < head)
}

#[inline]
fn smaller(heads: &[[u8; 4]], head: u32) -> usize {
    heads.iter().map(|&other| u32::from(u32::from_le_bytes(other) < head)).sum::<u32>() as usize
}

fn binary_and_count(heads: &[[u8; 4]], head: u32) -> usize {
    let (base, size) = halve(heads, head, 16);
    base + smaller(&heads[base..base + size], head)
}

#[target_feature(enable = "avx2")]
fn smaller_avx2(heads: &[[u8; 4]], head: u32) -> usize {
    smaller(heads, head)
}
