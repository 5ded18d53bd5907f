//! Kernel sockets: one suite, with all that this kernel's io_uring has, and as older kernels serve
//! them.

#![expect(clippy::duplicate_mod, reason = "one suite runs on several sets of features")]

mod all_features;
mod linux_5_15;
mod without_deferred_task_work;
mod without_multishot_receive;
