//! An echo server: `cargo run --release --example echo`, then `nc 127.0.0.1 7000`.

use std::net::SocketAddr;
use std::time::Duration;

use boson::net::{Net, TcpListener, TcpStream};
use boson::rt::{self, Core, CoreConfig};

/// How long to wait before accepting again when the process has no descriptor left: one comes back when a connection ends.
const RETRY_AFTER: Duration = Duration::from_millis(100);

#[allow(dead_code, reason = "tests/alone/example_servers.rs includes this file for its server")]
fn main() -> boson::Result<()> {
    // Time and randomness come in from outside; these are the machine's.
    let core = Core::new(&CoreConfig::from_machine()?)?;
    core.block_on(async {
        let listener = TcpListener::bind(&Net::kernel(), SocketAddr::from(([127, 0, 0, 1], 7000)))?;
        println!("listening on {}", listener.local_addr());
        serve(listener).await;
        Ok(())
    })
}

pub(crate) async fn serve(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => drop(rt::named("echo").spawn(async move {
                if let Err(error) = echo(&stream).await {
                    eprintln!("{peer}: {error}");
                }
            })),
            Err(error) => {
                eprintln!("accepting failed, trying again: {error}");
                rt::sleep(RETRY_AFTER).await;
            }
        }
    }
}

async fn echo(stream: &TcpStream) -> boson::Result<()> {
    let mut buf = Vec::with_capacity(4096);
    loop {
        buf.clear();
        // A read takes the buffer and gives it back: the kernel never works on memory that was freed.
        let (len, filled) = stream.read(buf).await?;
        if len == 0 {
            return Ok(());
        }
        buf = stream.write_all(filled).await?;
    }
}
