//! The store: a model, crashes, failures, space.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod basic;
mod crash;
mod failures;
mod full;
mod model;
mod on_core;
mod space;
mod speed;
