//! What systems of the Unix family have, as in [`std::os::unix`].

pub mod fs;
pub mod net;
