//! Redis: the protocol and the commands of `boson serve`.

pub mod extended;
pub mod glob;
pub mod number;
pub mod request;
