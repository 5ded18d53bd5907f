//! The echo servers: one task per connection, a 4 KiB buffer each, `TCP_NODELAY`, on one core.

use std::net::SocketAddr;

use boson::rt::reactor::ReactorChoice;
use boson::rt::{CoreConfig, Idle};

use super::{BUFFER_BYTES, SERVER_CPU, SERVER_SECONDS};
use crate::machine;

/// The servers that [`serve`] knows, boson first.
pub const NAMES: [&str; 10] = [
    "boson",
    "boson-poll",
    "boson-sleep",
    "boson-epoll",
    "tokio",
    "monoio",
    "monoio-epoll",
    "glommio",
    "glommio-spin",
    "compio",
];

/// Runs the server `name` on its CPU until the process is killed; its address goes to the standard
/// output.
pub fn serve(name: &str) {
    machine::bound_lifetime(SERVER_SECONDS);
    machine::pin(SERVER_CPU);
    match name {
        "boson" => boson(CoreConfig::default()),
        "boson-poll" => boson(CoreConfig::default().idle(Idle::Poll)),
        "boson-sleep" => boson(CoreConfig::default().idle(Idle::Sleep)),
        "boson-epoll" => boson(CoreConfig::default().reactor(ReactorChoice::Epoll)),
        "tokio" => tokio(),
        "monoio" => {
            let builder = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().with_entries(4096);
            builder.build().expect("monoio starts").block_on(monoio());
        }
        "monoio-epoll" => {
            let builder = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new();
            builder.build().expect("monoio starts").block_on(monoio());
        }
        "glommio" => glommio(std::time::Duration::ZERO),
        "glommio-spin" => glommio(std::time::Duration::from_micros(50)),
        "compio" => {
            // As large as the others' rings, and with the hints that its documentation recommends
            // for one thread.
            let mut ring = compio::driver::ProactorBuilder::new();
            ring.capacity(4096).single_issuer(true).coop_taskrun(true).taskrun_flag(true);
            let mut builder = compio::runtime::RuntimeBuilder::new();
            builder.with_proactor(ring).build().expect("compio starts").block_on(compio());
        }
        _ => panic!("there is no server `{name}`"),
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn boson(config: CoreConfig) {
    use boson::net::{Net, TcpListener};
    let core = boson::rt::Core::new(&config.ring_entries(4096)).expect("io_uring is usable");
    let served: boson::Result<()> = core.block_on(async {
        let listener = TcpListener::bind_on(&Net::kernel(), loopback())?;
        println!("{}", listener.local_addr());
        loop {
            let (stream, _) = listener.accept().await?;
            boson::rt::named("echo").spawn(async move {
                let mut buf = Vec::with_capacity(BUFFER_BYTES);
                loop {
                    let Ok((1.., filled)) = stream.read(buf).await else { return };
                    let Ok(back) = stream.write_all(filled).await else { return };
                    buf = back;
                    buf.clear();
                }
            });
        }
    });
    served.expect("it listens");
}

fn tokio() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("tokio starts");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(loopback()).await.expect("it listens");
        println!("{}", listener.local_addr().expect("bound"));
        loop {
            let (mut stream, _) = listener.accept().await.expect("accept");
            stream.set_nodelay(true).expect("nodelay");
            tokio::task::spawn_local(async move {
                let mut buf = [0; BUFFER_BYTES];
                while let Ok(len @ 1..) = stream.read(&mut buf).await {
                    if stream.write_all(&buf[..len]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

async fn monoio() {
    use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
    let listener = monoio::net::TcpListener::bind(loopback()).expect("it listens");
    println!("{}", listener.local_addr().expect("bound"));
    loop {
        let (mut stream, _) = listener.accept().await.expect("accept");
        stream.set_nodelay(true).expect("nodelay");
        monoio::spawn(async move {
            let mut buf = Vec::with_capacity(BUFFER_BYTES);
            loop {
                let (read, filled) = stream.read(buf).await;
                if !matches!(read, Ok(1..)) {
                    return;
                }
                let (written, back) = stream.write_all(filled).await;
                if written.is_err() {
                    return;
                }
                buf = back;
                buf.clear();
            }
        });
    }
}

fn glommio(spin: std::time::Duration) {
    use futures_util::{AsyncReadExt, AsyncWriteExt};
    let executor = glommio::LocalExecutorBuilder::new(glommio::Placement::Fixed(SERVER_CPU))
        .spin_before_park(spin)
        .ring_depth(4096)
        .make()
        .expect("glommio starts");
    executor.run(async {
        let listener = glommio::net::TcpListener::bind(loopback()).expect("it listens");
        println!("{}", listener.local_addr().expect("bound"));
        loop {
            let mut stream = listener.accept().await.expect("accept");
            stream.set_nodelay(true).expect("nodelay");
            glommio::spawn_local(async move {
                let mut buf = [0; BUFFER_BYTES];
                while let Ok(len @ 1..) = stream.read(&mut buf).await {
                    if stream.write_all(&buf[..len]).await.is_err() {
                        return;
                    }
                }
            })
            .detach();
        }
    });
}

async fn compio() {
    use compio::io::{AsyncRead, AsyncWriteExt};
    let listener = compio::net::TcpListener::bind(loopback()).await.expect("it listens");
    println!("{}", listener.local_addr().expect("bound"));
    loop {
        let (mut stream, _) = listener.accept().await.expect("accept");
        stream.set_nodelay(true).expect("nodelay");
        compio::runtime::spawn(async move {
            let mut buf = Vec::with_capacity(BUFFER_BYTES);
            loop {
                let (read, filled) = stream.read(buf).await.into();
                if !matches!(read, Ok(1..)) {
                    return;
                }
                let (written, back) = stream.write_all(filled).await.into();
                if written.is_err() {
                    return;
                }
                buf = back;
                buf.clear();
            }
        })
        .detach();
    }
}
