//! Reads, writes and their like that succeed.

use boson::block::{Device, Namespace};
use boson::mem::DmaBuf;
use boson::rt;

use super::{Run, assert_written, attach, block_bytes, check, fill, memory, pattern, read, write};

pub(super) async fn all<D: Device>(run: &Run<'_>, device: &D) {
    let namespace = attach(run, device).await;
    round_trips(run, &namespace).await;
    divided(run, &namespace).await;
    odd_pieces(run, &namespace).await;
    overlapping(run, &namespace).await;
    full_queue(run, &namespace).await;
    durable(run, &namespace).await;
    trimmed(run, &namespace).await;
    allocated(run, &namespace).await;
    zeroes(run, &namespace).await;
    compare_and_write(run, &namespace).await;
}

/// What was written is read, from any place, in any sizes of whole blocks.
async fn round_trips<N: Namespace>(run: &Run<'_>, namespace: &N) {
    let (block, size) = (block_bytes(namespace), namespace.size_bytes());
    let len = 16 * block;
    for offset in [0, block as u64, size - len as u64] {
        write(run, namespace, offset, len, offset + 1).await;
        check(run, namespace, offset, len, offset + 1).await;
    }
    write(run, namespace, block as u64, block, 9).await;
    check(run, namespace, 0, block, 1).await;
    check(run, namespace, block as u64, block, 9).await;
    check(run, namespace, 2 * block as u64, block, block as u64 + 1).await;
}

/// What is larger than the largest transfer, or crosses the optimal boundary, arrives whole.
async fn divided<N: Namespace>(run: &Run<'_>, namespace: &N) {
    let (block, info) = (block_bytes(namespace), namespace.info().clone());
    let most = (info.max_transfer_bytes as usize).min(2 << 20);
    for (offset, len) in
        [(0, most + block), (block, 2 * most + block), (3 * block, most), (7 * block, 2 * most)]
    {
        let offset = offset as u64;
        write(run, namespace, offset, len, 20 + offset).await;
        check(run, namespace, offset, len, 20 + offset).await;
        namespace.write_durable(offset, pattern(offset, len, 21 + offset)).await.expect("writes");
        check(run, namespace, offset, len, 21 + offset).await;
    }
    let boundary = u64::from(info.optimal_boundary_bytes);
    if boundary == 0 || 2 * boundary > super::NEEDED_BYTES {
        return;
    }
    let before = boundary - block as u64;
    for len in [2 * block, 5 * block, usize::try_from(boundary).expect("small") + 2 * block] {
        write(run, namespace, before, len, len as u64).await;
        check(run, namespace, before, len, len as u64).await;
    }
}

/// Buffers of any lengths, of any memory, whose sum is whole blocks.
async fn odd_pieces<N: Namespace>(run: &Run<'_>, namespace: &N) {
    let block = block_bytes(namespace);
    let most = (namespace.info().max_transfer_bytes as usize).min(1 << 20);
    let whole = [8 * block, most + 4 * block];
    for (number, len) in whole.into_iter().enumerate() {
        let layouts: [Vec<usize>; 5] = [
            vec![len],
            vec![1, len - 1],
            vec![len - block / 2 - 3, 0, 3, block / 2],
            vec![block; len / block],
            // Pieces that end inside of blocks, of pages and of transfers.
            (0..len / 256).map(|at| if at % 2 == 0 { 255 } else { 257 }).take(31).chain([len]).collect(),
        ];
        for (tag, layout) in (100 * (number as u64 + 1)..).zip(layouts) {
            let offset = 64 * block as u64;
            let mut left = len;
            let lens: Vec<usize> = layout
                .iter()
                .map(|&piece| {
                    let piece = piece.min(left);
                    left -= piece;
                    piece
                })
                .collect();
            let contents = pattern(offset, len, tag);
            let mut bufs: Vec<DmaBuf> = Vec::new();
            let mut rest = &contents[..];
            for (kind, piece) in lens.iter().enumerate() {
                let (part, after) = rest.split_at(*piece);
                let mut buf = memory(*piece, kind as u64);
                buf.copy_from_slice(part);
                bufs.push(buf);
                rest = after;
            }
            assert!(rest.is_empty());
            let bufs = match namespace.write_vectored(offset, bufs).await {
                Ok(bufs) => bufs,
                Err(error) => panic!("{}: {error}", run.name),
            };
            let back: Vec<u8> = bufs.iter().flat_map(|buf| buf.to_vec()).collect();
            assert!(back == contents[..], "{}: the buffers are as they were", run.name);
            check(run, namespace, offset, len, tag).await;
            let empty = lens.iter().rev().enumerate().map(|(kind, piece)| memory(*piece, kind as u64 + 1));
            let filled = match namespace.read_vectored(offset, empty.collect()).await {
                Ok(filled) => filled,
                Err(error) => panic!("{}: {error}", run.name),
            };
            let found: Vec<u8> = filled.iter().flat_map(|buf| buf.to_vec()).collect();
            assert_written(run, &found, offset, tag);
        }
    }
}

/// Writes that overlap and are in flight at the same time: each block is one of them.
async fn overlapping<N: Namespace>(run: &Run<'_>, namespace: &N) {
    let block = block_bytes(namespace);
    let whole = 24 * block;
    for round in 0..10 {
        let offset_of = move |number: u64| (number * 5 % 17) * block as u64;
        let tag_of = move |number: u64| 1000 * (round + 1) + number;
        write(run, namespace, 0, whole, tag_of(0)).await;
        let tasks: Vec<_> = (1..24u64)
            .map(|number| {
                let namespace = namespace.clone();
                rt::spawn(async move {
                    let buf = pattern(offset_of(number), 7 * block, tag_of(number));
                    namespace.write(offset_of(number), buf).await.map(drop)
                })
            })
            .collect();
        let reader = read(run, namespace, 0, whole).await;
        for task in tasks {
            task.await.expect("no panic").expect("writes");
        }
        let found = read(run, namespace, 0, whole).await;
        for (at, (during, after)) in reader.chunks(block).zip(found.chunks(block)).enumerate() {
            let offset = (at * block) as u64;
            let is_version = |found: &[u8]| {
                let mut expected = vec![0; block];
                (0..24u64).any(|number| {
                    let within =
                        offset.checked_sub(offset_of(number)).is_some_and(|at| at < 7 * block as u64);
                    fill(&mut expected, offset, tag_of(number));
                    (number == 0 || within) && found == expected
                })
            };
            assert!(is_version(after), "{}: block {at} is no version of it", run.name);
            assert!(is_version(during), "{}: block {at} was no version of it", run.name);
        }
    }
}

/// Many more requests than any queue takes: each is done once, in whatever order.
async fn full_queue<N: Namespace>(run: &Run<'_>, namespace: &N) {
    const REQUESTS: u64 = 512;
    let block = block_bytes(namespace) as u64;
    let len = block_bytes(namespace);
    let stride = block.min(super::NEEDED_BYTES / REQUESTS);
    let place = move |number: u64| (number * stride / block) * block;
    let writes: Vec<_> = (0..REQUESTS)
        .map(|number| {
            let namespace = namespace.clone();
            rt::spawn(async move {
                let offset = place(number);
                namespace.write(offset, pattern(offset, len, 7)).await.map(|buf| buf.len())
            })
        })
        .collect();
    let finished = async {
        for write in writes {
            assert_eq!(write.await.expect("no panic").expect("writes"), len);
        }
    };
    rt::timeout(super::PATIENCE, finished).await.expect("none is lost");
    let reads: Vec<_> = (0..REQUESTS)
        .map(|number| {
            let namespace = namespace.clone();
            rt::spawn(async move { namespace.read(place(number), memory(len, number)).await })
        })
        .collect();
    for (number, read) in (0..).zip(reads) {
        let read = rt::timeout(super::PATIENCE, read).await.expect("none is lost");
        assert_written(run, &read.expect("no panic").expect("reads"), place(number), 7);
    }
    let depth = |stats: &boson::block::NamespaceStats| stats.name == namespace.info().name;
    for stats in boson::block::stats().iter().filter(|stats| depth(stats)) {
        assert_eq!(stats.queue_depth, 0, "{}: nothing is left", run.name);
    }
}

/// Flushes and durable writes among others; what they promise is shown where the power can be cut.
async fn durable<N: Namespace>(run: &Run<'_>, namespace: &N) {
    let block = block_bytes(namespace);
    namespace.flush().await.expect("there is nothing to flush");
    let offset_of = move |number: u64| number * 4 * block as u64;
    let tasks: Vec<_> = (0..32u64)
        .map(|number| {
            let namespace = namespace.clone();
            rt::spawn(async move {
                let buf = pattern(offset_of(number), 4 * block, number);
                match number % 3 {
                    0 => drop(namespace.write_durable(offset_of(number), buf).await?),
                    1 => {
                        namespace.write(offset_of(number), buf).await?;
                        namespace.flush().await?;
                    }
                    _ => drop(namespace.write(offset_of(number), buf).await?),
                }
                Ok::<(), boson::Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic").expect("writes");
    }
    namespace.flush().await.expect("flushes");
    for number in 0..32 {
        check(run, namespace, offset_of(number), 4 * block, number).await;
    }
}

/// A trim leaves its neighbours alone, and zeros where the device says so; what is written
/// afterwards is there.
async fn trimmed<N: Namespace>(run: &Run<'_>, namespace: &N) {
    let (block, info) = (block_bytes(namespace), namespace.info().clone());
    let whole = (80 * block).max(1 << 20);
    for (start, len) in [(block, block), (3 * block, 64 * block), (block, whole - 2 * block)] {
        write(run, namespace, 0, whole, 31).await;
        let trimmed = namespace.trim(start as u64, len as u64).await;
        trimmed.unwrap_or_else(|error| panic!("{}: {error}", run.name));
        check(run, namespace, 0, start, 31).await;
        let after = start + len;
        check(run, namespace, after as u64, whole - after, 31).await;
        let found = read(run, namespace, start as u64, len).await;
        if info.zeros_after_trim {
            assert!(found.iter().all(|&byte| byte == 0), "{}: zeros after a trim", run.name);
        } else if !info.trim {
            assert_written(run, &found, start as u64, 31);
        }
        write(run, namespace, start as u64, len, 32).await;
        check(run, namespace, start as u64, len, 32).await;
    }
}

/// To allocate changes nothing that can be read, whether there is something or not, and writes are
/// there as ever.
async fn allocated<N: Namespace>(run: &Run<'_>, namespace: &N) {
    let (block, info) = (block_bytes(namespace), namespace.info().clone());
    let (start, len) = (8 * block, 64 * block);
    write(run, namespace, 0, 2 * start + len, 33).await;
    let trimmed = namespace.trim(start as u64, len as u64).await;
    trimmed.unwrap_or_else(|error| panic!("{}: {error}", run.name));
    for _ in 0..2 {
        let allocated = namespace.allocate(0, (start + len) as u64).await;
        allocated.unwrap_or_else(|error| panic!("{}: {error}", run.name));
        check(run, namespace, 0, start, 33).await;
        check(run, namespace, (start + len) as u64, start, 33).await;
        let found = read(run, namespace, start as u64, len).await;
        if info.zeros_after_trim {
            assert!(found.iter().all(|&byte| byte == 0), "{}: zeros after a trim", run.name);
        }
    }
    write(run, namespace, start as u64, len, 34).await;
    check(run, namespace, start as u64, len, 34).await;
}

async fn zeroes<N: Namespace>(run: &Run<'_>, namespace: &N) {
    let block = block_bytes(namespace);
    let whole = (3 * namespace.info().max_transfer_bytes as usize).min(6 << 20);
    for (start, len) in [(0, block), (block, 5 * block), (2 * block, whole - 3 * block)] {
        write(run, namespace, 0, whole, 41).await;
        let zeroed = namespace.write_zeroes(start as u64, len as u64).await;
        zeroed.unwrap_or_else(|error| panic!("{}: {error}", run.name));
        let found = read(run, namespace, start as u64, len).await;
        assert!(found.iter().all(|&byte| byte == 0), "{}: zeros were written", run.name);
        check(run, namespace, 0, start, 41).await;
        check(run, namespace, (start + len) as u64, whole - start - len, 41).await;
    }
}

/// Compares and writes as one step: many tasks that count in one block lose no count.
async fn compare_and_write<N: Namespace>(run: &Run<'_>, namespace: &N) {
    let most = namespace.info().max_compare_and_write_bytes as usize;
    if most == 0 {
        return run.not_run("compare and write: the device has none, and says so");
    }
    let block = block_bytes(namespace);
    let longest = most.min(64 << 10) / block * block;
    for (tag, len) in (50u64..).zip([block, longest]) {
        let offset = 5 * block as u64;
        write(run, namespace, offset, len, tag).await;
        let (expected, new) = (pattern(offset, len, tag), pattern(offset, len, tag + 100));
        let compared = namespace.compare_and_write(offset, expected, new).await;
        let (wrote, (expected, new)) = compared.unwrap_or_else(|error| panic!("{}: {error}", run.name));
        assert!(wrote, "{}: it was there", run.name);
        check(run, namespace, offset, len, tag + 100).await;
        let compared = namespace.compare_and_write(offset, expected, new).await;
        let (wrote, (expected, _)) = compared.unwrap_or_else(|error| panic!("{}: {error}", run.name));
        assert!(!wrote, "{}: something else was there", run.name);
        assert_written(run, &expected, offset, tag);
        check(run, namespace, offset, len, tag + 100).await;
    }
    let start = DmaBuf::zeroed(block);
    namespace.write(0, start).await.expect("writes");
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let namespace = namespace.clone();
            rt::spawn(async move {
                let mut counted = 0u64;
                while counted < 20 {
                    let now = namespace.read(0, DmaBuf::zeroed(block)).await.expect("reads");
                    let count = now[..8].try_into().map(u64::from_le_bytes).expect("eight bytes");
                    let mut next = DmaBuf::zeroed(block);
                    next[..8].copy_from_slice(&(count + 1).to_le_bytes());
                    let (wrote, _) = namespace.compare_and_write(0, now, next).await.expect("compares");
                    counted += u64::from(wrote);
                }
            })
        })
        .collect();
    for task in tasks {
        rt::timeout(super::PATIENCE, task).await.expect("progress").expect("no panic");
    }
    let count = read(run, namespace, 0, block).await;
    assert_eq!(count[..8], 160u64.to_le_bytes(), "{}: a count was lost", run.name);
}
