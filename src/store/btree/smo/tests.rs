//! The models of the structure changes, and what they search.

mod arena;
mod audit;
mod crash;
mod crashes;
mod exhaustive;
mod flusher;
mod model;
mod one_visitor;
mod scenarios;
#[cfg(shuttle)]
mod shuttle_tests;
mod threads;
