//! Blocking I/O and synchronisation for coroutines, with the surface of `std`: what blocks here
//! lets the other tasks of the core run. Threaded code ports by changing its imports:
//!
//! ```
//! use boson::blocking::net::{TcpListener, TcpStream}; // std::net
//! use boson::blocking::sync::{Arc, Mutex}; // std::sync
//! use boson::thread; // std::thread
//! # use std::io::{Read, Write};
//!
//! # fn main() -> std::io::Result<()> {
//! let served = thread::run(|| -> std::io::Result<u32> {
//!     let listener = TcpListener::bind("127.0.0.1:0")?;
//!     let address = listener.local_addr()?;
//!     let served = Arc::new(Mutex::new(0));
//!     let count = Arc::clone(&served);
//!     let server = thread::spawn(move || -> std::io::Result<()> {
//!         let (mut stream, _) = listener.accept()?;
//!         let mut request = [0; 5];
//!         stream.read_exact(&mut request)?;
//!         *count.lock().unwrap() += 1;
//!         stream.write_all(&request)
//!     });
//!     let mut client = TcpStream::connect(address)?;
//!     client.write_all(b"hello")?;
//!     let mut reply = String::new();
//!     client.read_to_string(&mut reply)?;
//!     assert_eq!(reply, "hello");
//!     server.join().unwrap()?;
//!     Ok(*served.lock().unwrap())
//! })?;
//! # assert_eq!(served, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Cancelling
//!
//! What is called in a destructor of a coroutine that is being cancelled, and is not ready, fails
//! with an error that says so.

pub mod fs;
pub mod net;
mod offloaded;
pub mod os;
pub mod sync;
