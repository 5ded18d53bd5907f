//! The store.
mod env;
pub use env::Env;
