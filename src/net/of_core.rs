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
//! The variables are read once per process. A simulated core does not read the environment, which
//! is not a part of its seed.

use std::env;
use std::ffi::OsString;
use std::rc::Rc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::address::NetAddress;
use super::{Net, NetConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::is_simulated;
use crate::rt::CoreLocal;

const NET_VARIABLE: &str = "BOSON_NET";
const EAL_VARIABLE: &str = "BOSON_EAL";

static NETWORK: CoreLocal<Net> = CoreLocal::new();

/// The variables, read by the first core that asks and before any core opens a network: drivers
/// that DPDK loads change the environment while other cores run.
static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| Environment {
    net: env::var_os(NET_VARIABLE).unwrap_or_default(),
    eal: env::var_os(EAL_VARIABLE).unwrap_or_default(),
});

struct Environment {
    net: OsString,
    eal: OsString,
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
        if let Some(net) = NETWORK.get() {
            return Ok((*net).clone());
        }
        let net = from_environment()?;
        net.set_current();
        Ok(net)
    }

    /// Makes this the network of this core, for sockets that are made from now on. The core keeps
    /// it open until the core ends or gets another one.
    ///
    /// # Panics
    ///
    /// Outside a core.
    #[track_caller]
    pub fn set_current(&self) {
        NETWORK.set(Rc::new(self.clone()));
    }
}

/// The right to open the network of the environment when it has one queue pair. One core of a
/// process has it at a time, and keeps it until the device is closed.
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

fn from_environment() -> Result<Net> {
    if is_simulated() || ENVIRONMENT.net.is_empty() {
        return Ok(Net::kernel());
    }
    let text = ENVIRONMENT.net.to_string_lossy();
    open(&text).map_err(|error| {
        Error::new(error.kind(), "open the network that BOSON_NET names")
            .at(text.into_owned())
            .because(error.to_string())
            .outcome_is(error.outcome())
    })
}

fn open(text: &str) -> Result<Net> {
    let address: NetAddress = text.parse()?;
    let config = NetConfig::default().eal_arguments(ENVIRONMENT.eal.to_string_lossy());
    if address == NetAddress::Kernel {
        return Net::open(&address, &config);
    }
    let queue_pair = QueuePair::take()?;
    let net = Net::open(&address, &config)?;
    keep_with(&net, queue_pair);
    Ok(net)
}

/// Keeps the right for as long as the network's device is open.
fn keep_with(net: &Net, queue_pair: QueuePair) {
    if let Some(stack) = net.stack() {
        stack.keep_right(queue_pair);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::net::device::{DeviceInfo, DeviceStats, MemoryDevice, PacketDevice};
    use crate::net::stack::StackConfig;
    use crate::rt::poller::Park;

    /// A device that notes whether the right was still taken when it was closed.
    struct ClosingNote {
        device: MemoryDevice,
        was_taken: Rc<Cell<bool>>,
    }

    impl PacketDevice for ClosingNote {
        fn info(&self) -> &DeviceInfo {
            self.device.info()
        }

        fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&mut [u8])) -> Result<usize> {
            self.device.receive(budget, sink)
        }

        fn transmit(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool {
            self.device.transmit(len, fill)
        }

        fn flush(&mut self) {
            self.device.flush();
        }

        fn park(&mut self) -> Park {
            self.device.park()
        }

        fn stats(&self) -> DeviceStats {
            self.device.stats()
        }
    }

    impl Drop for ClosingNote {
        fn drop(&mut self) {
            self.was_taken.set(QUEUE_PAIR_IS_TAKEN.load(Ordering::Acquire));
        }
    }

    #[test]
    fn the_right_to_open_the_network_is_free_when_its_device_is_closed_and_not_before() {
        let was_taken = Rc::new(Cell::new(false));
        crate::run(async {
            let (device, _) = MemoryDevice::pair([[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]], 1500, 1);
            let device = Box::new(ClosingNote { device, was_taken: Rc::clone(&was_taken) });
            let address = "10.9.0.1/24".parse().expect("an address");
            let net = Net::on_device(device, StackConfig::default().addresses([address]).seed([0; 32]))
                .expect("a stack");
            keep_with(&net, QueuePair::take().expect("nobody has it"));
            net.set_current();
        });
        assert!(was_taken.get());
        QueuePair::take().expect("the core that had it has ended");
    }
}
