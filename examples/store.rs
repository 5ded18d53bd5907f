//! An embedded store in a file: `cargo run --release --example store`, twice.

use boson::block::AnyNamespace;
use boson::rt::{Core, CoreConfig};
use boson::store::{Db, Durability, Options, RtEnv, WriteOptions};

fn main() -> boson::Result<()> {
    // Time and randomness come in from outside; a real program draws its seed and the store's
    // identity from the kernel.
    let core = Core::new(&CoreConfig::from_machine()?)?;
    core.block_on(run())
}

async fn run() -> boson::Result<()> {
    // The same program runs on `blk:/dev/nvme0n1` or `mem:1G`.
    let namespace = AnyNamespace::open(&"file:example.boson".parse()?).await?;
    let mut options = Options::new(*b"example identity");
    options.durability = Durability::Sync;
    let db = Db::open(RtEnv, namespace, options).await?;

    let visits = db.tree("visits")?;
    let count = visits.get(b"count").await?.map_or(0, |bytes| bytes.len()) + 1;
    // Acknowledged means durable here: `Sync` waits for the device.
    visits.put(b"count", &vec![b'x'; count]).await?;
    println!("run number {count}");

    // Several keys change together or not at all. This write need not be durable at once.
    let (from, to) = (db.tree("from")?, db.tree("to")?);
    from.put(b"apples", b"5").await?;
    let keys = [(&from, &b"apples"[..]), (&to, &b"apples"[..])];
    let moved = db
        .transact(&keys, WriteOptions::NONE, |txn| {
            let apples = txn.get(0).map(<[u8]>::to_vec).unwrap_or_default();
            txn.delete(0);
            txn.put(1, &apples);
            apples
        })
        .await?;
    println!("moved {} apples", String::from_utf8_lossy(&moved));

    let mut all = to.range(..);
    while let Some((key, value)) = all.next().await? {
        println!("{} = {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
    }
    db.close().await
}
