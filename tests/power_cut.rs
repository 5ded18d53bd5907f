//! What a namespace acknowledged as durable is there after a power cut.
//!
//! `scripts/guest` runs [`before`] in a virtual machine, kills that while the test writes, starts
//! it again with the same devices and runs [`after`], to which it says what was acknowledged last.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::Duration;

use boson::block::{AnyNamespace, Namespace, NamespaceAddress};
use boson::mem::DmaBuf;
use boson::rt::{self, Core, CoreConfig};

const PATIENCE: Duration = Duration::from_secs(60);
/// This many bytes of this are old, new or mixed if the power goes while they are written.
const BLOCK: usize = 4096;
/// What a device writes as a whole.
const PIECE: usize = 512;
/// A generation is this many blocks, written at once and flushed.
const BLOCKS: u64 = 16;
/// How many generations there is room for; a later one overwrites the one this many before it.
const ROOM: u64 = 64;
/// After this many generations the power may go.
const ENOUGH: u64 = 200;
/// How many generations may have been written, or flushed, that were not acknowledged yet.
const UNDER_WAY: u64 = 2;

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("scripts/guest sets {name}"))
}

fn run<F: Future>(future: F) -> F::Output {
    let core = Core::new(&CoreConfig::default().seed([13; 32])).expect("a core");
    core.block_on(rt::timeout(PATIENCE, future)).expect("in time")
}

async fn open() -> AnyNamespace {
    let address: NamespaceAddress = variable("BOSON_GUEST_POWER_CUT").parse().expect("an address");
    AnyNamespace::open(&address).await.expect("open")
}

/// Where block `number` of a generation is, in bytes.
fn offset(generation: u64, number: u64) -> u64 {
    (generation % ROOM * BLOCKS + number) * BLOCK as u64
}

/// What is in a piece, all of which says where and when it was written.
fn piece(generation: u64, offset: u64) -> Vec<u8> {
    let words = (0..PIECE as u64 / 8).map(|word| {
        ((generation << 32) + offset / PIECE as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15 + 2 * word)
    });
    words.flat_map(u64::to_le_bytes).collect()
}

fn block(generation: u64, offset: u64) -> DmaBuf {
    let mut buf = DmaBuf::zeroed(BLOCK);
    for (number, bytes) in buf.chunks_mut(PIECE).enumerate() {
        bytes.copy_from_slice(&piece(generation, offset + (number * PIECE) as u64));
    }
    buf
}

/// Writes a generation and makes it durable.
async fn write(namespace: &AnyNamespace, generation: u64) {
    let writers: Vec<_> = (0..BLOCKS)
        .map(|number| {
            let namespace = namespace.clone();
            rt::named("writer").spawn(async move {
                let at = offset(generation, number);
                namespace.write(at, block(generation, at)).await.expect("write");
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no panic");
    }
    namespace.flush().await.expect("flush");
}

#[test]
#[ignore = "takes a machine that may lose its power: scripts/guest"]
fn before() {
    let mut console: File = OpenOptions::new().write(true).open("/dev/console").expect("the console");
    run(async {
        let namespace = open().await;
        for generation in 1.. {
            write(&namespace, generation).await;
            writeln!(console, "\nHOST acknowledged {generation} .").expect("the console");
            if generation == ENOUGH {
                writeln!(console, "\nHOST power_cut").expect("the console");
            }
        }
    });
}

#[test]
#[ignore = "takes a machine that lost its power: scripts/guest"]
fn after() {
    let acknowledged: u64 = variable("BOSON_GUEST_ACKNOWLEDGED").parse().expect("a number");
    assert!(acknowledged >= ENOUGH, "{acknowledged} generations");
    run(async {
        let namespace = open().await;
        let mut not_acknowledged = 0;
        for generation in acknowledged - ROOM + 1..=acknowledged {
            let at = offset(generation, 0);
            let len = BLOCK * usize::try_from(BLOCKS).expect("few");
            let buf = namespace.read(at, DmaBuf::zeroed(len)).await.expect("read");
            for (bytes, at) in buf.chunks(PIECE).zip((at..).step_by(PIECE)) {
                let later = generation + ROOM;
                let newer = later <= acknowledged + UNDER_WAY && bytes == piece(later, at);
                not_acknowledged += u64::from(newer);
                assert!(
                    newer || bytes == piece(generation, at),
                    "generation {generation} of {acknowledged} is not at {at}: {:?}",
                    &bytes[..16]
                );
            }
        }
        println!("{not_acknowledged} pieces of {acknowledged} generations and later are newer");
    });
}
