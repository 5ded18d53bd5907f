//! What several test programs share.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod conformance;
pub(crate) mod hooked_waker;
pub(crate) mod hugepages;
#[cfg(feature = "cli")]
pub(crate) mod killed_server;
pub(crate) mod not_run;
#[macro_use]
pub(crate) mod own_process;
pub(crate) mod parts;
pub(crate) mod redis_peer;
#[cfg(feature = "cli")]
pub(crate) mod server;
#[cfg(feature = "cli")]
pub(crate) mod steps;
pub(crate) mod watched_buffer;

use boson::mem::{IoBuf, IoBufMut};
