//! Random operations, compared with memory that does the same.

use boson::block::{Device, MemoryDevice, MemoryOptions, Namespace};
use boson::mem::DmaBuf;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Run, attach, block_bytes, memory, pattern};

/// How many blocks the operations are on.
const BLOCKS: u64 = 192;
/// The longest operation, in bytes; at least one block.
const MOST_BYTES: u64 = 96 << 10;

/// One thing to do to a namespace.
#[derive(Clone, Debug)]
enum Operation {
    Read,
    ReadVectored(Vec<usize>),
    Write(u64),
    WriteVectored(u64, Vec<usize>),
    WriteDurable(u64),
    Flush,
    Trim,
    WriteZeroes,
    /// Whether what is expected is there, and the tag of what is written.
    CompareAndWrite(bool, u64),
}

impl Operation {
    fn random(random: &mut StdRng, len: usize) -> Self {
        let tag = random.random();
        match random.random_range(0..16) {
            0..4 => Self::Read,
            4 => Self::ReadVectored(odd_pieces(random, len)),
            5..9 => Self::Write(tag),
            9 => Self::WriteVectored(tag, odd_pieces(random, len)),
            10 => Self::WriteDurable(tag),
            11 => Self::Flush,
            12 => Self::Trim,
            13 => Self::WriteZeroes,
            _ => Self::CompareAndWrite(random.random(), tag),
        }
    }
}

fn odd_pieces(random: &mut StdRng, len: usize) -> Vec<usize> {
    let mut left = len;
    let mut pieces = Vec::new();
    while left > 0 {
        let piece = if pieces.len() == 8 { left } else { random.random_range(0..=left) };
        pieces.push(piece);
        left -= piece;
    }
    pieces
}

/// Runs random operations on the device and on memory: whatever is read is the same, and in the end
/// everything is.
pub(super) async fn random_operations<D: Device>(run: &Run<'_>, device: &D, operations: u32) {
    let namespace = attach(run, device).await;
    let block = block_bytes(&namespace);
    let options = MemoryOptions::new(super::NEEDED_BYTES).block_size_bytes(namespace.info().block_size_bytes);
    let oracle = MemoryDevice::open("the oracle", options).expect("possible").namespace();
    let blocks = BLOCKS.min(super::NEEDED_BYTES / block as u64);
    let whole = usize::try_from(blocks).expect("small") * block;
    namespace.write(0, DmaBuf::zeroed(whole)).await.expect("writes");
    let mut random = StdRng::seed_from_u64(run.seed);
    for number in 0..operations {
        let len = random.random_range(1..=(MOST_BYTES / block as u64).max(1));
        let offset = random.random_range(0..=blocks - len) * block as u64;
        let len = usize::try_from(len).expect("small") * block;
        let operation = Operation::random(&mut random, len);
        let info = namespace.info();
        if matches!(operation, Operation::CompareAndWrite(..))
            && len > info.max_compare_and_write_bytes as usize
        {
            continue;
        }
        let what = format!(
            "{}: seed {}: operation {number}, {operation:?}, of {len} bytes at {offset}",
            run.name, run.seed
        );
        let there = oracle.read(offset, DmaBuf::zeroed(len)).await.expect("inside");
        let real = match apply(&operation, &namespace, offset, there.to_vec()).await {
            Ok(real) => real,
            Err(error) => panic!("{what}: {error}"),
        };
        if matches!(operation, Operation::Trim) && !info.zeros_after_trim {
            if info.trim {
                // Whatever is there now.
                let now = namespace.read(offset, memory(len, 0)).await.expect("reads");
                oracle.write(offset, now).await.expect("inside");
            }
            continue;
        }
        let model = apply(&operation, &oracle, offset, there.to_vec()).await.expect("inside");
        assert!(real == model, "{what}: memory gives something else");
    }
    let real = namespace.read(0, memory(whole, 0)).await.expect("reads");
    let model = oracle.read(0, memory(whole, 1)).await.expect("reads");
    assert!(real[..] == model[..], "{}: seed {}: the end is another one", run.name, run.seed);
}

/// Does one operation where `there` is. Gives what was read, or the result of a comparison.
async fn apply(
    operation: &Operation,
    namespace: &impl Namespace,
    offset: u64,
    there: Vec<u8>,
) -> boson::Result<Vec<u8>> {
    let len = there.len();
    match operation {
        Operation::Read => Ok(namespace.read(offset, memory(len, offset)).await?.to_vec()),
        Operation::ReadVectored(pieces) => {
            let empty = pieces.iter().map(|piece| memory(*piece, *piece as u64)).collect();
            let filled = namespace.read_vectored(offset, empty).await?;
            Ok(filled.iter().flat_map(|buf| buf.to_vec()).collect())
        }
        Operation::Write(tag) => Ok(namespace.write(offset, pattern(offset, len, *tag)).await?.to_vec()),
        Operation::WriteVectored(tag, pieces) => {
            let whole = pattern(offset, len, *tag);
            let mut rest = &whole[..];
            let mut bufs = Vec::new();
            for piece in pieces {
                let (part, after) = rest.split_at(*piece);
                let mut buf = memory(*piece, *piece as u64);
                buf.copy_from_slice(part);
                bufs.push(buf);
                rest = after;
            }
            let bufs = namespace.write_vectored(offset, bufs).await?;
            Ok(bufs.iter().flat_map(|buf| buf.to_vec()).collect())
        }
        Operation::WriteDurable(tag) => {
            Ok(namespace.write_durable(offset, pattern(offset, len, *tag)).await?.to_vec())
        }
        Operation::Flush => namespace.flush().await.map(|()| Vec::new()),
        Operation::Trim => namespace.trim(offset, len as u64).await.map(|()| Vec::new()),
        Operation::WriteZeroes => namespace.write_zeroes(offset, len as u64).await.map(|()| Vec::new()),
        Operation::CompareAndWrite(matches, tag) => {
            let mut expected = memory(len, *tag);
            expected.copy_from_slice(&there);
            if !matches {
                let at = usize::try_from(*tag % len as u64).expect("small");
                expected[at] ^= 1;
            }
            let new = pattern(offset, len, *tag);
            let (wrote, _) = namespace.compare_and_write(offset, expected, new).await?;
            assert_eq!(wrote, *matches);
            Ok(vec![u8::from(wrote)])
        }
    }
}
