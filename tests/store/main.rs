//! The store: a model, failures, space. Crashes are with the store itself, which they break on
//! purpose (`src/store/engine/tests/crash.rs`).

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod basic;
mod blocking;
mod cores;
mod failures;
mod full;
mod interface;
mod model;
mod on_core;
mod space;
mod speed;
