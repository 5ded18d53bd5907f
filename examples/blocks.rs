//! Reads blocks from whatever address is on the command line, once in an async task and once in a
//! coroutine, on the same core:
//!
//! ```sh
//! cargo run --example blocks -- file:/etc/services
//! ```
//!
//! `mem:64M`, `blk:/dev/nvme0n1` and every other address of `boson serve --store` work unchanged.

use boson::block::{AnyDevice, AnyNamespace, Device, Namespace, NamespaceAddress};
use boson::{Result, rt, thread};

/// Sums up the bytes of the first blocks, which the device reads into the core's arena.
async fn sum(namespace: AnyNamespace, blocks: u64) -> Result<u64> {
    let block = u64::from(namespace.info().block_size_bytes);
    let mut buf = rt::arena().alloc(namespace.info().block_size_bytes as usize);
    let mut sum = 0;
    for offset in (0..blocks).map(|number| number * block) {
        buf = namespace.read(offset, buf).await?;
        sum += buf.iter().map(|&byte| u64::from(byte)).sum::<u64>();
    }
    Ok(sum)
}

async fn run(address: NamespaceAddress) -> Result<()> {
    // Opened once for the process; every core attaches.
    let device = AnyDevice::open(&address).await?;
    let namespace = device.attach().await?;
    let blocks = 16.min(namespace.size_bytes() / u64::from(namespace.info().block_size_bytes));
    println!("{}: {} bytes", device.info().name, namespace.size_bytes());

    let task = rt::spawn(sum(namespace.clone(), blocks));
    let coroutine = thread::spawn(move || boson::wait(sum(namespace, blocks)));
    let from_task = task.await.expect("the task does not panic")?;
    let from_coroutine = coroutine.await.expect("the coroutine does not panic")?;
    println!("{blocks} blocks sum up to {from_task} in a task and {from_coroutine} in a coroutine");
    Ok(())
}

fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "mem:1M".to_owned());
    boson::run(run(address.parse()?))
}
