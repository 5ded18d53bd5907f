//! Namespaces: one suite over every kind.

#[path = "../support/mod.rs"]
mod support;

mod conformance;
mod kernel;
mod namespace;
