use std::path::Path;
use std::ptr::NonNull;

use super::super::queue::{Command, CommandKind, Segment};
use super::command::{self, Data};
use super::*;
use crate::error::Outcome;

fn command(kind: CommandKind, offset: u64, len: u64) -> Command<'static> {
    Command { kind, offset, len, memory: &[], expected: &[] }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[test]
fn a_command_is_laid_out_as_the_driver_reads_it() {
    let data = Data { address: 0x1122_3344_5566_7788, len: 8192 };
    let write = command(CommandKind::Write { durable: true }, 5 << 44, 8192);
    let bytes = command::encode(&write, 7, 12, data).expect("possible");
    assert_eq!((bytes[0], word(&bytes, 4)), (0x01, 7), "opcode and namespace");
    assert_eq!(u64::from_ne_bytes(bytes[24..32].try_into().expect("eight bytes")), data.address);
    assert_eq!(word(&bytes, 36), 8192, "the length of the memory");
    // Block 5 << 32; two blocks are written as one; FUA is bit 30.
    assert_eq!((word(&bytes, 40), word(&bytes, 44), word(&bytes, 48)), (0, 5, 1 | 1 << 30));
    assert!(bytes[52..].iter().all(|&byte| byte == 0));
    let read = command(CommandKind::Read, 4096, 4096);
    let bytes = command::encode(&read, 1, 9, data).expect("possible");
    assert_eq!((bytes[0], word(&bytes, 40), word(&bytes, 48)), (0x02, 8, 7));
}

#[test]
fn a_trim_has_its_range_in_memory_and_is_a_deallocation() {
    let trim = command(CommandKind::Trim, 1 << 20, 32 << 20);
    let range = command::range(&trim, 12);
    assert_eq!(range[..8], [0, 0, 0, 0, 0, 0x20, 0, 0], "8192 blocks");
    assert_eq!(range[8..], 256u64.to_le_bytes(), "from block 256 on");
    let bytes = command::encode(&trim, 1, 12, Data::default()).expect("possible");
    assert_eq!((bytes[0], word(&bytes, 40), word(&bytes, 44)), (0x09, 0, 4));
    assert!(command::encode(&command(CommandKind::CompareAndWrite, 0, 512), 1, 9, Data::default()).is_none());
}

#[test]
fn results_are_statuses_in_words_or_codes_of_the_kernel() {
    command::result(0).expect("success");
    let media = command::result(0x4281).expect_err("a status");
    assert_eq!(media.kind, ErrorKind::Corrupt);
    assert!(media.detail.contains("Unrecovered Read Error"), "{}", media.detail);
    assert!(!media.retry && media.code.is_none());
    assert!(command::result(0x0021).expect_err("a status").retry, "the command was interrupted");
    let range = command::result(0x4080).expect_err("a status");
    assert_eq!((range.kind, range.outcome), (ErrorKind::InvalidInput, Outcome::NotStarted));
    let gone = command::result(-libc::ENODEV).expect_err("a code");
    assert_eq!((gone.code, gone.retry), (Some(libc::ENODEV), false));
}

#[test]
fn the_block_device_of_a_namespace_is_found_by_its_name() {
    let found = |path| open::block_device_of(Path::new(path));
    assert_eq!(found("/dev/ng0n1").as_deref(), Some(Path::new("/dev/nvme0n1")));
    assert_eq!(found("/dev/ng12n34").as_deref(), Some(Path::new("/dev/nvme12n34")));
    for path in
        ["/dev/null", "/dev/nvme0n1", "/dev/ng0", "/dev/ngn1", "/dev/ng0n", "/dev/ng0n1p1", "/dev/ng0c0n1"]
    {
        assert_eq!(found(path), None, "{path}");
    }
}

#[test]
fn pieces_fit_if_only_the_first_begins_and_only_the_last_ends_within_a_page() {
    let segment = |address: usize, len| Segment {
        ptr: NonNull::new(std::ptr::without_provenance_mut(address)).expect("not null"),
        len,
    };
    let fits = |pieces: &[(usize, usize)]| {
        let pieces: Vec<Segment> = pieces.iter().map(|(address, len)| segment(*address, *len)).collect();
        port::fits(&pieces)
    };
    assert!(fits(&[(4096, 100)]) && fits(&[(4100, 100)]));
    assert!(!fits(&[(4098, 512)]), "not aligned to a dword");
    assert!(fits(&[(4096 + 512, 3584), (16384, 8192), (65536, 512)]));
    assert!(!fits(&[(4096, 512), (16384, 512)]), "the first ends within a page");
    assert!(!fits(&[(4096, 4096), (16384 + 512, 512)]), "the second begins within one");
    assert!(fits(&[(4096, 4096); 256]) && !fits(&[(4096, 4096); 257]));
}

#[test]
fn kernels_are_told_apart_by_major_and_minor_version() {
    assert_eq!(super::version("6.1.0-57-amd64\n"), Some((6, 1)));
    assert_eq!(super::version("6.18\n"), Some((6, 18)));
    assert!(super::version("6.12.1") >= Some(super::POLLING_SINCE));
    assert_eq!(super::version("unknown"), None);
}
