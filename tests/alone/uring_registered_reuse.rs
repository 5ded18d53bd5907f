//! A place in the io_uring's table of files that another file gets: what was queued for the first
//! one must not reach the second.

use crate::support::parts::PartsAll;
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use boson::block::{KernelNamespace, Namespace};
use boson::mem::DmaBuf;
use boson::rt::{self, Core, CoreConfig};

const BLOCK_BYTES: usize = 4096;

/// A file that goes with this value.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("boson-reuse-{name}-{}", std::process::id())))
    }

    async fn open(&self) -> KernelNamespace {
        KernelNamespace::open_file(&self.0, Some(BLOCK_BYTES as u64)).await.expect("open")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_write_that_was_given_up_never_reaches_the_file_that_is_opened_next() {
    own_process!();
    let core = Core::new(&CoreConfig::default().seed([4; 32])).expect("a core");
    let (first, second) = (File::new("first"), File::new("second"));
    let found = core.block_on(async {
        let given_up = first.open().await;
        {
            let mut buf = DmaBuf::zeroed(BLOCK_BYTES);
            buf.fill(0xab);
            let mut write = pin!(given_up.write(0, buf));
            // Queued; the kernel hears of it when the core turns to its ring.
            assert!(write.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        drop(given_up);
        let next = second.open().await;
        rt::sleep(Duration::from_millis(20)).await;
        let (read, buf) = next.read(0, DmaBuf::zeroed(BLOCK_BYTES)).await.parts_all();
        read.expect("read");
        buf[0]
    });
    assert_eq!(found, 0, "the write went to another file");
}
