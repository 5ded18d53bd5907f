//! A seccomp filter (seccomp(2), Linux 3.17) that forbids io_uring and allows everything else.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Makes `io_uring_setup`, `io_uring_enter` and `io_uring_register` fail with `errno`, in the
/// calling thread and all threads and programs that it starts from now on. There is no way back.
/// Programs that gain privileges when they are started (setuid) do not gain them any more.
///
/// # Errors
///
/// In words, if the kernel does not take the filter.
///
/// # Panics
///
/// If `errno` is not a positive number below 4096.
pub fn forbid_io_uring(errno: i32) -> Result<(), String> {
    forbid(&[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register], errno)
}

/// The same for `io_uring_register` alone: a ring can be had, but nothing can be registered with
/// it.
///
/// # Errors
///
/// As for [`forbid_io_uring`].
///
/// # Panics
///
/// As for [`forbid_io_uring`].
pub fn forbid_registration(errno: i32) -> Result<(), String> {
    forbid(&[libc::SYS_io_uring_register], errno)
}

/// The same for an `io_uring_enter` that asks for no completions (without
/// `IORING_ENTER_GETEVENTS`): the kernel takes submissions only from a thread that also waits or
/// polls.
///
/// # Errors
///
/// As for [`forbid_io_uring`].
///
/// # Panics
///
/// As for [`forbid_io_uring`].
pub fn forbid_submitting_alone(errno: i32) -> Result<(), String> {
    const FLAGS: u8 = 3;
    const GETEVENTS: u64 = 1;
    let alone = SeccompCondition::new(FLAGS, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(GETEVENTS), 0);
    let rule = alone.and_then(|alone| SeccompRule::new(vec![alone]));
    let rule = rule.map_err(|error| format!("the condition is refused: {error}"))?;
    refuse(BTreeMap::from([(libc::SYS_io_uring_enter, vec![rule])]), errno)
}

fn forbid(calls: &[libc::c_long], errno: i32) -> Result<(), String> {
    // No conditions on the arguments.
    refuse(calls.iter().map(|call| (*call, vec![])).collect(), errno)
}

fn refuse(rules: BTreeMap<libc::c_long, Vec<SeccompRule>>, errno: i32) -> Result<(), String> {
    assert!((1..4096).contains(&errno), "{errno} is not an errno");
    let architecture = std::env::consts::ARCH
        .try_into()
        .map_err(|error| format!("no filter for this architecture: {error}"))?;
    let refusal = SeccompAction::Errno(errno.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, architecture)
        .map_err(|error| format!("the filter is refused: {error}"))?;
    let program: BpfProgram =
        filter.try_into().map_err(|error| format!("the filter does not compile: {error}"))?;
    seccompiler::apply_filter(&program).map_err(|error| format!("the kernel refuses the filter: {error}"))
}
