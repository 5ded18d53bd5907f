//! An echo server: `cargo run --release --example echo`, then `nc 127.0.0.1 7000`.

use std::net::SocketAddr;
use std::sync::Arc;

use boson::net::{Net, TcpListener, TcpStream};
use boson::rt::{self, Core, CoreConfig, MonotonicClock};

fn main() -> boson::Result<()> {
    // Time and randomness come in from outside; a real server draws its seed from the kernel.
    let core = Core::new(&CoreConfig::new(Arc::new(MonotonicClock::new()), [0; 32]))?;
    core.block_on(async {
        let listener = TcpListener::bind(&Net::kernel(), SocketAddr::from(([127, 0, 0, 1], 7000)))?;
        println!("listening on {}", listener.local_addr());
        loop {
            let (stream, peer) = listener.accept().await?;
            rt::spawn("echo", async move {
                if let Err(error) = echo(&stream).await {
                    eprintln!("{peer}: {error}");
                }
            });
        }
    })?
}

async fn echo(stream: &TcpStream) -> boson::Result<()> {
    let mut buf = Vec::with_capacity(4096);
    loop {
        buf.clear();
        // A read takes the buffer and gives it back: the kernel never works on memory that was freed.
        let (read, filled) = stream.read(buf).await;
        if read? == 0 {
            return Ok(());
        }
        let (written, back) = stream.write_all(filled).await;
        written?;
        buf = back;
    }
}
