//! A server on the bytes of a namespace, in this process.

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use boson::block::{Device, MemoryDevice, MemoryOptions};
use boson::net::{Net, TcpListener};
use boson::redis::{self, Config};
use boson::rt::time::MonotonicClock;
use boson::rt::{Core, CoreConfig};
use boson::store::{Db, Options, RtEnv};

use crate::support::server::Client;

/// How much of an image is copied at once. What is all zeros is so already.
const CHUNK: usize = 64 << 10;

/// A server on an image; it ends when it is dropped.
pub(crate) struct ImageServer {
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl ImageServer {
    /// Opens the store in `image`, or says why it does not open.
    pub(crate) fn open(image: Vec<u8>, block: u32) -> Result<Self, String> {
        let (opened, result) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let core = Core::new(&CoreConfig::default().seed([0; 32])).expect("a core");
            core.block_on(async move {
                let namespace = device(&image, block).attach().await.expect("memory");
                drop(image);
                let db = match Db::open_on(RtEnv, namespace, Options::default()).await {
                    Ok(db) => db,
                    Err(error) => return opened.send(Err(error.to_string())).expect("somebody waits"),
                };
                let server =
                    redis::Server::new(RtEnv, db, Arc::new(MonotonicClock::new()), Config::default())
                        .expect("room for the databases");
                let listener = TcpListener::bind_on(&Net::kernel(), SocketAddr::from(([127, 0, 0, 1], 0)));
                let listener = listener.expect("a free port");
                opened.send(Ok(listener.local_addr())).expect("somebody waits");
                redis::serve(&server, &listener).await.expect("the kernel's network is not lost");
            });
        });
        let address = result.recv().expect("no panic")?;
        Ok(Self { address, thread: Some(thread) })
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address).expect("it listens")
    }
}

impl Drop for ImageServer {
    fn drop(&mut self) {
        if let Ok(mut client) = Client::connect(self.address) {
            let _ = client.call(&[b"SHUTDOWN"]);
        }
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the server panicked");
    }
}

fn device(image: &[u8], block: u32) -> MemoryDevice {
    let options = MemoryOptions::new(image.len() as u64).block_size_bytes(block).atomic_write_bytes(block);
    let device = MemoryDevice::open("image", options).expect("sizes of a namespace");
    let zeros = vec![0; CHUNK];
    for (chunk, offset) in image.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
        if chunk != &zeros[..chunk.len()] {
            device.overwrite(offset, chunk);
        }
    }
    device
}
