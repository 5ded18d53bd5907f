//! What the programs ask of the operating system: CPUs, limits, clocks.

use std::time::Duration;

/// Pins the calling thread to `cpu`.
pub fn pin(cpu: usize) {
    // SAFETY: `cpu_set_t` is a plain array of bits, for which all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    assert!(cpu < libc::CPU_SETSIZE as usize, "CPU {cpu} is beyond what the set holds");
    // SAFETY: `cpu` is within the set, as asserted.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is initialised and its size is given; 0 is the calling thread.
    let result = unsafe { libc::sched_setaffinity(0, std::mem::size_of_val(&set), &set) };
    assert_eq!(result, 0, "CPU {cpu} is not to be had: {}", std::io::Error::last_os_error());
}

/// How many CPUs the process may use.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Raises the limits on descriptors and on locked memory (glommio locks its ring's) as far as the
/// process may.
pub fn raise_limits() {
    for resource in [libc::RLIMIT_NOFILE, libc::RLIMIT_MEMLOCK] {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is a valid place for the answer.
        unsafe { libc::getrlimit(resource, &mut limit) };
        if resource == libc::RLIMIT_MEMLOCK {
            let wanted = libc::rlimit { rlim_cur: 1 << 30, rlim_max: limit.rlim_max.max(1 << 30) };
            // SAFETY: `wanted` is an initialised limit. Without the privilege to raise it the old
            // one stays.
            unsafe { libc::setrlimit(resource, &wanted) };
        } else {
            limit.rlim_cur = limit.rlim_max;
            // SAFETY: `limit` is an initialised limit.
            unsafe { libc::setrlimit(resource, &limit) };
        }
    }
}

/// Ends this process by SIGALRM after `seconds`, and by SIGKILL when its parent dies.
pub fn bound_lifetime(seconds: u32) {
    // SAFETY: sets a timer; the default action of SIGALRM ends the process.
    unsafe { libc::alarm(seconds) };
    // SAFETY: `PR_SET_PDEATHSIG` takes a signal number.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// CPU time that process `pid` has used, all its threads together.
pub fn process_cpu_time(pid: u32) -> Duration {
    let mut id: libc::clockid_t = 0;
    // SAFETY: `id` is a valid place for the answer.
    let result = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &mut id) };
    assert_eq!(result, 0, "process {pid} is gone");
    clock(id)
}

fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer.
    let result = unsafe { libc::clock_gettime(id, &mut time) };
    assert_eq!(result, 0, "the clock exists: {}", std::io::Error::last_os_error());
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Memory of this process that is in RAM, in bytes.
pub fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").expect("/proc is mounted");
    let pages = status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("the second field of statm is the resident pages") * 4096
}
