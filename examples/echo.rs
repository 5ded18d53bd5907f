//! An echo server: `cargo run --release --example echo`, then `nc 127.0.0.1 7000`.
//!
//! The environment chooses the network. The same program on the userspace stack, as root:
//! `BOSON_NET='tap:boson0?ip=10.9.0.1/24&host=10.9.0.2/24' echo 10.9.0.1:7000`, then `nc 10.9.0.1
//! 7000`.

use std::time::Duration;

use boson::net::{TcpListener, TcpStream};
use boson::rt;

/// How long to wait before accepting again when the process has no descriptor left: one comes back
/// when a connection ends.
const RETRY_AFTER: Duration = Duration::from_millis(100);

#[allow(dead_code, reason = "tests/alone/example_servers.rs includes this file for its server")]
fn main() -> boson::Result<()> {
    let address = std::env::args().nth(1);
    run(address.as_deref().unwrap_or("127.0.0.1:7000"))
}

#[allow(dead_code, reason = "as main")]
pub(crate) fn run(address: &str) -> boson::Result<()> {
    boson::run(async {
        let listener = TcpListener::bind(address).await?;
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
        // A read takes the buffer and gives it back: the kernel never works on memory that was
        // freed.
        let (len, filled) = stream.read(buf).await?;
        if len == 0 {
            return Ok(());
        }
        buf = stream.write_all(filled).await?;
    }
}
