//! boson: a kernel-bypass I/O framework.
//!
//! One scheduler per core polls everything the core owns: a userspace TCP stack on a packet device,
//! an io_uring, NVMe queue pairs, timers, and messages from other cores. It is for storage nodes
//! and network servers that answer many small requests from fast devices: such a device completes
//! an operation in the time that a thread switch takes. The same application code runs over the
//! kernel's sockets and files on a laptop and over a NIC and a raw device on a storage node; the
//! address decides which.
//!
//! In reading order:
//!
//! - [`error`]: one error for all layers, with its code, operation, place and outcome.
//! - [`mem`]: buffers that devices read and write. I/O takes a buffer by value and gives it back.
//! - [`rt`]: cores, tasks, timers, pollers.
//! - [`sync`]: locks and channels, between threads and, cheaper, within a core.
//! - [`observe`]: what cores and tasks do; `boson top` shows it for a running process.
//! - [`thread`]: stackful coroutines with the surface of `std::thread`; [`wait`] lets them await
//!   any future.
//! - [`net`]: TCP over the kernel, a TAP interface or DPDK, with the same types; UDP, Unix sockets
//!   and pipes through the kernel only.
//! - [`blocking`]: files, sockets and locks for coroutines, with the surface of `std`.
//! - [`block`]: block devices: files and devices of the kernel, NVMe controllers, memory.
//! - [`store`]: a B-tree with a log on a namespace.
//! - [`compat`]: the traits of `futures`, tokio and hyper on boson's sockets.
//! - [`redis`]: the protocol and commands of `boson serve`.
//! - `eal`: DPDK's environment (features `dpdk` and `spdk`).
//! - [`sim`]: cores on virtual time in a seeded order, and a disk, for tests that replay.
//!
//! # Example
//!
//! A server and its client on one core, without any hardware:
//!
//! ```
//! use boson::net::{TcpListener, TcpStream};
//! use boson::rt;
//!
//! let reply = boson::run(async {
//!     let listener = TcpListener::bind("127.0.0.1:0").await?;
//!     let client = TcpStream::connect(listener.local_addr()).await?;
//!     let (server, _) = listener.accept().await?;
//!     rt::spawn(async move {
//!         let (_, bytes) = server.read(Vec::with_capacity(64)).await?;
//!         server.write_all(bytes).await?;
//!         Ok::<(), boson::Error>(())
//!     });
//!     client.write_all(&b"hello"[..]).await?;
//!     let (_, reply) = client.read(Vec::with_capacity(64)).await?;
//!     Ok::<_, boson::Error>(reply)
//! })?;
//! assert_eq!(reply, b"hello");
//! # Ok::<(), boson::Error>(())
//! ```

pub mod block;
pub mod blocking;
#[cfg(any(feature = "futures", feature = "hyper", feature = "tokio"))]
pub mod compat;
#[cfg(any(feature = "dpdk", feature = "spdk"))]
pub mod eal;
pub mod error;
mod fork;
mod kernel;
pub mod mem;
pub mod net;
pub mod observe;
mod pci_address;
mod reactor;
// Models are of the parts below the store.
#[cfg(not(any(loom, shuttle)))]
pub mod redis;
pub mod rt;
pub mod sim;
pub mod store;
pub mod sync;
pub mod thread;
mod time;
mod user_code;

pub use error::{BufError, BufResult, Error, ErrorKind, Outcome, Result};
pub use rt::{run, wait};

// The programs in the README are compiled and run as its reader would.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
