//! Files, sockets and locks for coroutines.

mod fs;
mod net;
mod once;
mod sync;
mod unix_net;
