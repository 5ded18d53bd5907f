//! An embedded store in a file: `cargo run --release --example store`, twice.

use boson::store::{Db, Durability, Options, WriteOptions};

fn main() -> boson::Result<()> {
    boson::run(run())
}

async fn run() -> boson::Result<()> {
    // The same program runs on `blk:/dev/nvme0n1` or `mem:1G`.
    let options = Options::default().durability(Durability::Sync);
    let db = Db::open_with("file:example.boson", options).await?;

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
            let apples = txn.get(&from, b"apples").map(<[u8]>::to_vec).unwrap_or_default();
            txn.delete(&from, b"apples");
            txn.put(&to, b"apples", &apples);
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
