//! Cores, tasks, coroutines, timers: what `boson::rt` and `boson::thread` promise.

#[path = "../support/mod.rs"]
mod support;

mod basics;
mod core_thread;
mod coroutine;
mod coroutine_panics;
mod coroutine_yield;
mod edges;
mod inspect;
mod lifecycle;
mod misuse;
mod offload;
mod panicking_io;
mod panics;
mod scheduling;
mod task_dump;
mod task_group;
mod task_handles;
mod task_queues;
mod time;
mod waits_for;
