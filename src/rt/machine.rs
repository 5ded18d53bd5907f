//! The machine's time and randomness, for programs that ask for them by name.
//!
//! Nothing in the library reads them by itself: they come in through a
//! [`CoreConfig`](super::CoreConfig), and this is where one gets them from.

use std::sync::{Arc, OnceLock};

use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::{Error, Result};
use crate::time::{Clock, MonotonicClock};

/// 32 bytes from the kernel's generator (`getrandom(2)`), for whatever is seeded:
/// [`CoreConfig::seed`](super::CoreConfig::seed), or that of a network. Waits, early after the
/// machine has started, until the generator is ready.
///
/// # Errors
///
/// The kernel's code where the call is forbidden.
pub fn machine_seed() -> Result<[u8; 32]> {
    let mut seed = [0; 32];
    // Up to 256 bytes come whole or, interrupted by a signal while the generator is not ready, not
    // at all.
    rustix::io::retry_on_intr(|| getrandom(&mut seed, GetRandomFlags::empty()))
        .map_err(|errno| Error::os(errno.raw_os_error(), "read random bytes"))?;
    Ok(seed)
}

/// The clock of all configurations that are made from the machine.
pub(super) fn machine_clock() -> Arc<dyn Clock> {
    static CLOCK: OnceLock<Arc<MonotonicClock>> = OnceLock::new();
    Arc::clone(CLOCK.get_or_init(|| Arc::new(MonotonicClock::new()))) as Arc<dyn Clock>
}
