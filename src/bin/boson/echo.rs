//! `boson echo`: answers every connection with what it sends.

use std::net::SocketAddr;
use std::sync::Arc;

use boson::net::{TcpListener, TcpStream};
use boson::rt::{self, Core, CoreThread};
use boson::{Error, Result};
use clap::Args;

use crate::inspect;
use crate::lasting;
use crate::listen::{ConnectionLimit, accept_each, listen_on};
use crate::options::ServerOptions;
use crate::start;

/// How much one connection reads at once.
const BUFFER_BYTES: usize = 16 << 10;

#[derive(Args, Debug)]
pub(crate) struct EchoOptions {
    #[command(flatten)]
    server: ServerOptions,
}

pub(crate) fn run(options: &EchoOptions) -> Result<()> {
    let signals = start::ending_signals()?;
    start::raise_descriptor_limit();
    let listen = options.server.listen_or(SocketAddr::from(([127, 0, 0, 1], 7000)));
    let mut configs = start::core_configs(options.server.cores.as_ref()).into_iter();
    let Some(first) = configs.next() else { return Ok(()) };
    let core = Core::new(&first)?;
    let limit = ConnectionLimit::new(options.server.max_connections);
    core.block_on(async {
        let net = start::open_net(&options.server)?;
        let (mut addresses, mut parts) = (Vec::new(), Vec::new());
        for address in listen {
            let listener = start::bind(&net, address, &options.server).await?;
            addresses.push(listener.local_addr());
            let accepting = accept(listener, Arc::clone(&limit));
            parts.push(lasting::task(rt::named("accept").spawn(async { Err(accepting.await) })));
        }
        let mut others = Vec::new();
        for (number, config) in configs.enumerate() {
            let other = CoreThread::start(format!("boson-{}", number + 1), &config)?;
            for &address in &addresses {
                let limit = Arc::clone(&limit);
                parts.push(
                    listen_on(&other, address, |listener| async { Err(accept(listener, limit).await) })
                        .await?,
                );
            }
            others.push(other);
        }
        let handles = std::iter::once(rt::handle()).chain(others.iter().map(|core| core.handle().clone()));
        let _inspector = inspect::start(options.server.inspect.as_deref(), "echo", handles.collect())?;
        start::announce(&format!(
            "boson echo {}: listening on {} | network {} | cores {}",
            env!("CARGO_PKG_VERSION"),
            start::join(&addresses),
            options.server.net,
            start::describe_cores(options.server.cores.as_ref()),
        ));
        lasting::until_the_end(&signals, std::future::pending(), [&mut parts]).await
    })
}

async fn accept(listener: TcpListener, limit: Arc<ConnectionLimit>) -> Error {
    accept_each(listener, move |stream, peer| {
        if let Some(place) = limit.take(peer) {
            drop(rt::named("connection").spawn(async move {
                echo(stream).await;
                drop(place);
            }));
        }
    })
    .await
}

async fn echo(stream: TcpStream) {
    let mut buf = Vec::with_capacity(BUFFER_BYTES);
    loop {
        buf.clear();
        // At the end of the stream, or after an error, there is nobody to answer.
        let Ok((1.., filled)) = stream.read(buf).await else { return };
        let Ok(back) = stream.write_all(filled).await else { return };
        buf = back;
    }
}
