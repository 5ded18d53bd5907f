//! E2, second run: a whole descent.

use super::*;
use crate::store::word::ChildWord;

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
            level.push((ChildWord::of_numbers((base + id) as u64, 1), separator));
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
                (ChildWord::of_numbers(mapping.len() as u64 - 1, 1), children[0].1.clone())
            });
            level = parents.collect();
        }
        Self { layout, inner, mapping, root: level[0].0, levels }
    }

    #[inline]
    fn descend(&self, key: &Key, lines: usize) -> u32 {
        let mut child = self.root;
        for _ in 0..self.levels {
            let at = self.mapping[to_usize(child.id().get())];
            self.inner.prefetch(at, lines);
            let header = self.inner.bytes(at, NODE_HEADER_BYTES);
            let (image_at, len) = (u32_at(header, 0), u32_at(header, 4));
            let image = self.inner.bytes(at + image_at / 64, len as usize);
            (_, child) = InnerImage::of_verified(image).child_for(key);
        }
        self.mapping[to_usize(child.id().get())]
    }
}
