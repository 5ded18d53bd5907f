//! What the log had when the store was opened, while it goes over into the trees.

use super::*;
use crate::rt;

/// The process dies with this world.
fn a_life<R: 'static>(disk: &Disk, life: impl AsyncFnOnce(Disk) -> R + 'static) -> R {
    let world = World::new(7);
    let core = world.core("core");
    let result = core.block_on(life(disk.attach_again()));
    disk.kill();
    core.crash();
    result
}

/// The leaf has a newer write by the time the old record comes to it, and the start of the log was
/// looked for in between.
#[test]
fn the_log_keeps_a_drained_record_until_its_page_is_durable() {
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    let old = a_life(&disk, async |disk| {
        let store = reopen(&disk).await;
        put(&store, b"apple", b"5").await;
        store.checkpoint().await.expect("a checkpoint");
        let old = put(&store, b"pear", b"7").await;
        store.wait(old).await.expect("it is durable");
        old
    });
    a_life(&disk, async move |disk| {
        let store = reopen(&disk).await;
        let new = put(&store, b"apple", b"6").await;
        assert!(new > old && !store.shared.overlay.is_drained(), "nothing was awaited so far");
        store.wait(new).await.expect("it is durable");
        assert!(store.log_start_number() <= old);
        while !store.shared.overlay.is_drained() {
            rt::yield_now().await;
        }
        assert!(store.log_start_number() <= old, "the page with the record is nowhere but in memory");
        store.checkpoint().await.expect("a checkpoint");
        assert!(store.log_start_number() > new, "it is durable");
    });
}
