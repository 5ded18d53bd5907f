//! Data pointers: physical region pages (Base 4.1.1) and scatter-gather lists (Base 4.1.2).
//!
//! A transfer's memory comes in pieces. PRPs can carry pieces that start anywhere within a page
//! (aligned to 4 bytes) only at the beginning, and end anywhere only at the end; everything between
//! is whole pages. SGLs carry any pieces, where a controller has them. What neither carries is
//! copied by the caller.

use super::super::queue::Segment;
use super::command::DATA_IS_SGL;
use super::dma::DmaRegion;

/// The bytes of a list page: one per command, preallocated.
pub(super) const LIST_BYTES: usize = 4096;
/// How many PRP entries a list page holds.
const LIST_PRPS: usize = LIST_BYTES / 8;
/// How many SGL descriptors a list page holds.
const LIST_DESCRIPTORS: usize = LIST_BYTES / 16;
/// SGL descriptor types, in the upper half of the last byte.
const DATA_BLOCK: u32 = 0x0 << 28;
const LAST_SEGMENT: u32 = 0x3 << 28;

/// The largest transfer that one list page carries, in bytes, whatever its alignment: all entries
/// of the page, the first of which may be partial and stands in the command.
pub(super) fn max_transfer_bytes(page_shift: u32) -> u32 {
    u32::try_from(LIST_PRPS << page_shift).unwrap_or(u32::MAX)
}

/// How the memory of a command is told to a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Method {
    /// The controller's page size as a power of two.
    pub(super) page_shift: u32,
    /// What it says about SGLs.
    pub(super) sgl: Option<SglSupport>,
}

/// What SGLs a controller takes (SGLS, Base 5.17.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SglSupport {
    /// Addresses and lengths are multiples of this many bytes: 1 or 4.
    pub(super) alignment: u32,
}

/// Why memory cannot be told to the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// The device reaches no such memory.
    Unreachable,
    /// The pieces are too odd, or too many.
    Odd,
}

/// A command's data pointer (dwords 6 to 9), and what dword 0 says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DataPointer {
    pub(super) words: [u64; 2],
    /// 0, or [`DATA_IS_SGL`].
    pub(super) flag: u32,
}

/// Of a command that moves no data.
pub(super) const NO_DATA: DataPointer = DataPointer { words: [0; 2], flag: 0 };

/// The data pointer to `segments`, with the page at `at` of `lists` for what does not fit into the
/// entry. `translate` gives the device's address of a piece.
pub(super) fn describe(
    method: Method,
    segments: &[Segment],
    mut translate: impl FnMut(&Segment) -> Option<u64>,
    lists: &DmaRegion,
    at: usize,
) -> Result<DataPointer, Unfit> {
    match physical_pages(method.page_shift, segments, &mut translate, lists, at) {
        Err(Unfit::Odd) => {}
        result => return result,
    }
    let Some(sgl) = method.sgl else { return Err(Unfit::Odd) };
    scatter_gather(sgl, segments, &mut translate, lists, at)
}

fn physical_pages(
    page_shift: u32,
    segments: &[Segment],
    translate: &mut impl FnMut(&Segment) -> Option<u64>,
    lists: &DmaRegion,
    at: usize,
) -> Result<DataPointer, Unfit> {
    let page = 1_u64 << page_shift;
    let mut first = None;
    // How many entries of the list are set, and the first of them.
    let mut listed = 0;
    let mut second = 0;
    // Whether the last page was left before its end: nothing may follow.
    let mut ended = false;
    for segment in segments {
        let mut address = translate(segment).ok_or(Unfit::Unreachable)?;
        let mut left = segment.len as u64;
        while left > 0 {
            let offset = address & (page - 1);
            let piece = (page - offset).min(left);
            if ended {
                return Err(Unfit::Odd);
            }
            if first.is_none() {
                if address & 3 != 0 {
                    return Err(Unfit::Odd);
                }
                first = Some(address);
            } else {
                if offset != 0 || listed == LIST_PRPS {
                    return Err(Unfit::Odd);
                }
                if listed == 0 {
                    second = address;
                }
                lists.write64(at + listed * 8, address);
                listed += 1;
            }
            ended = offset + piece != page;
            address += piece;
            left -= piece;
        }
    }
    let second = match listed {
        0 => 0,
        1 => second,
        _ => lists.device_address(at),
    };
    Ok(DataPointer { words: [first.unwrap_or(0), second], flag: 0 })
}

fn scatter_gather(
    sgl: SglSupport,
    segments: &[Segment],
    translate: &mut impl FnMut(&Segment) -> Option<u64>,
    lists: &DmaRegion,
    at: usize,
) -> Result<DataPointer, Unfit> {
    let mask = u64::from(sgl.alignment) - 1;
    let mut count = 0;
    let mut words = [0; 2];
    for segment in segments.iter().filter(|segment| segment.len > 0) {
        let address = translate(segment).ok_or(Unfit::Unreachable)?;
        let len = u32::try_from(segment.len).map_err(|_| Unfit::Odd)?;
        if (address | u64::from(len)) & mask != 0 || count == LIST_DESCRIPTORS {
            return Err(Unfit::Odd);
        }
        words = [address, u64::from(len) | u64::from(DATA_BLOCK) << 32];
        lists.write64(at + count * 16, words[0]);
        lists.write64(at + count * 16 + 8, words[1]);
        count += 1;
    }
    if count != 1 {
        words = [lists.device_address(at), (count * 16) as u64 | u64::from(LAST_SEGMENT) << 32];
    }
    Ok(DataPointer { words, flag: DATA_IS_SGL })
}
