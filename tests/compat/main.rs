//! The traits of futures, tokio and hyper.

#[path = "../support/mod.rs"]
mod support;

mod hyper;
mod io;
