//! Kernel sockets as older kernels serve them: the same suite with features of the io_uring taken away.

#![expect(clippy::duplicate_mod, reason = "one suite runs on several sets of features")]

#[path = "uring_features/linux_5_15.rs"]
mod linux_5_15;
#[path = "uring_features/without_deferred_task_work.rs"]
mod without_deferred_task_work;
#[path = "uring_features/without_multishot_receive.rs"]
mod without_multishot_receive;
