//! The network of a core: what sockets use that name none.
//!
//! A core has one network. A program sets it with [`Net::set_current`]; otherwise the core opens,
//! on first use, the one that the environment names:
//!
//! | variable | what | default |
//! |---|---|---|
//! | `BOSON_NET` | a [network address](super::address) | `kernel:` |
//! | `BOSON_EAL` | arguments for DPDK's environment, separated by white space | none |
//!
//! Every core can open `kernel:`. Any other network has one queue pair and belongs to the core that
//! opens it first, until that core ends.
//!
//! A simulated core does not read the environment, which is not a part of its seed.

use std::env;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::address::NetAddress;
use super::{Net, NetConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::is_simulated;
use crate::rt::CoreLocal;

const NET_VARIABLE: &str = "BOSON_NET";
const EAL_VARIABLE: &str = "BOSON_EAL";

static NETWORK: CoreLocal<Network> = CoreLocal::new();

/// The network of a core.
struct Network {
    net: Net,
    /// Held while a core of this process has the network of the environment, if that has one queue
    /// pair.
    _queue_pair: Option<QueuePair>,
}

impl Net {
    /// The network of this core: the one that [`Net::set_current`] set, otherwise the one that the
    /// environment variable `BOSON_NET` names, such as
    /// `tap:boson0?ip=10.9.0.1/24&host=10.9.0.2/24`, otherwise the kernel's. It is opened once and
    /// ends with the core. `BOSON_EAL` holds arguments for DPDK's environment.
    ///
    /// # Errors
    ///
    /// [`InUse`](ErrorKind::InUse) if another core of this process opened the network of the
    /// environment, unless it is the kernel's; otherwise what parsing the address and [`Net::open`]
    /// return. The error names the variable.
    ///
    /// # Panics
    ///
    /// Outside a core.
    #[track_caller]
    pub fn current() -> Result<Self> {
        if let Some(network) = NETWORK.get() {
            return Ok(network.net.clone());
        }
        let network = Rc::new(from_environment()?);
        NETWORK.set(Rc::clone(&network));
        Ok(network.net.clone())
    }

    /// Makes this the network of this core, for sockets that are made from now on. The core keeps
    /// it open until the core ends or gets another one.
    ///
    /// # Panics
    ///
    /// Outside a core.
    #[track_caller]
    pub fn set_current(&self) {
        NETWORK.set(Rc::new(Network { net: self.clone(), _queue_pair: None }));
    }
}

/// The right to open the network of the environment when it has one queue pair. One core of a
/// process has it at a time.
struct QueuePair;

static QUEUE_PAIR_IS_TAKEN: AtomicBool = AtomicBool::new(false);

impl QueuePair {
    fn take() -> Result<Self> {
        // Acquire and release: the next core finds the device closed.
        if QUEUE_PAIR_IS_TAKEN.swap(true, Ordering::Acquire) {
            return Err(Error::new(ErrorKind::InUse, "open network").because(
                "another core of this process has it, and it has one queue pair: use one core or kernel:",
            ));
        }
        Ok(Self)
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        QUEUE_PAIR_IS_TAKEN.store(false, Ordering::Release);
    }
}

fn from_environment() -> Result<Network> {
    let value = if is_simulated() { None } else { env::var_os(NET_VARIABLE) };
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(Network { net: Net::kernel(), _queue_pair: None });
    };
    let text = value.to_string_lossy();
    open(&text).map_err(|error| {
        Error::new(error.kind(), "open the network that BOSON_NET names")
            .at(text.into_owned())
            .because(error.to_string())
            .outcome_is(error.outcome())
    })
}

fn open(text: &str) -> Result<Network> {
    let address: NetAddress = text.parse()?;
    let queue_pair = if address == NetAddress::Kernel { None } else { Some(QueuePair::take()?) };
    let eal = env::var_os(EAL_VARIABLE).unwrap_or_default();
    let config = NetConfig::default().eal_arguments(eal.to_string_lossy());
    Ok(Network { net: Net::open(&address, &config)?, _queue_pair: queue_pair })
}
