//! Attaching, configuring and detaching a port: the control plane.

use std::collections::BTreeSet;
use std::ffi::{CStr, c_int};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use boson_dpdk_sys as sys;

use super::config::PortConfig;
use super::devargs::Devargs;
use super::pool::{Pool, PoolSize};
use crate::eal::log;
use crate::eal::{Eal, strerror};
use crate::error::{Error, ErrorKind, Result};

/// The names of the ports that this process has open.
static OPEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A name in [`OPEN`].
struct Claim(String);

impl Claim {
    fn new(devargs: &Devargs) -> Result<Self> {
        let name = devargs.name().to_owned();
        if OPEN.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
            Ok(Self(name))
        } else {
            Err(Error::new(ErrorKind::InUse, "open DPDK port")
                .at(devargs.text().to_owned())
                .because("this process has the device open already"))
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        OPEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// A started port with its pool.
pub(super) struct Device {
    driver: String,
    mac: [u8; 6],
    mtu: usize,
    /// The index of the kernel's interface below a virtual device; 0 if there is none.
    interface: u32,
    // Dropped in this order: the driver gives its mbufs back before their pool is freed.
    port: Port,
    pool: Pool,
}

impl Device {
    pub(super) fn open(eal: Eal, devargs: &Devargs, config: &PortConfig) -> Result<Self> {
        let port = Port::attach(eal, devargs)?;
        eal.register_thread();
        let details = port.details()?;
        let (rx_descriptors, tx_descriptors) = port.configure(config)?;
        let mtu = port.use_mtu(config.mtu, details.if_index)?;
        let size = PoolSize { mbufs: config.mbufs, mtu, rx: rx_descriptors, tx: tx_descriptors };
        let pool = Pool::create(eal, port.devargs(), port.socket(), &size)?;
        // SAFETY: DPDK sets the driver's name of every port that it describes to a string that ends
        // with NUL, in the driver's own memory.
        let driver = unsafe { CStr::from_ptr(details.driver_name) }.to_string_lossy().into_owned();
        // From here on the pool goes after the port, also on failure.
        let mut device = Self { driver, mac: [0; 6], mtu, interface: details.if_index, port, pool };
        device.set_up_queues(rx_descriptors, tx_descriptors)?;
        device.port.call("start", |id| {
            // SAFETY: the port is configured and both of its queues are set up.
            unsafe { sys::rte_eth_dev_start(id) }
        })?;
        device.mac = device.port.use_mac(config.mac)?;
        Ok(device)
    }

    fn set_up_queues(&self, rx_descriptors: u16, tx_descriptors: u16) -> Result<()> {
        // -1, any socket, is the largest unsigned number for these two functions.
        let socket = self.port.socket().cast_unsigned();
        self.port.call("set up the receive queue", |id| {
            // SAFETY:
            // - the port is configured with one receive queue, and is not started;
            // - a null configuration means the driver's default;
            // - the pool outlives the port: `Device` has both, and drops the port first.
            unsafe {
                sys::rte_eth_rx_queue_setup(id, 0, rx_descriptors, socket, ptr::null(), self.pool.as_ptr())
            }
        })?;
        self.port.call("set up the transmit queue", |id| {
            // SAFETY: the port is configured with one transmit queue, and is not started; null
            // means the default.
            unsafe { sys::rte_eth_tx_queue_setup(id, 0, tx_descriptors, socket, ptr::null()) }
        })?;
        Ok(())
    }

    pub(super) fn id(&self) -> u16 {
        self.port.id
    }

    pub(super) fn devargs(&self) -> &str {
        self.port.devargs()
    }

    pub(super) fn driver(&self) -> &str {
        &self.driver
    }

    pub(super) fn mac(&self) -> [u8; 6] {
        self.mac
    }

    pub(super) fn mtu(&self) -> usize {
        self.mtu
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Whether the device is gone for good: unplugged, or its interface of the kernel deleted.
    /// Costs some system calls.
    pub(super) fn is_gone(&self) -> bool {
        if self.interface != 0 {
            // SAFETY: the function takes any number; for one that names no interface it returns an
            // error.
            let answer = unsafe { sys::boson_dpdk_interface_is_running(self.interface) };
            return answer == -libc::ENXIO || answer == -libc::ENODEV;
        }
        // SAFETY: the port is open as long as `self` is. A driver that cannot tell says that it is
        // there.
        unsafe { sys::rte_eth_dev_is_removed(self.port.id) == 1 }
    }

    pub(super) fn link_is_up(&self) -> Option<bool> {
        let answer = if self.interface == 0 {
            // SAFETY: the port is open as long as `self` is.
            unsafe { sys::boson_dpdk_link_is_up(self.port.id) }
        } else {
            // SAFETY: the function takes any number; for one that names no interface it returns an
            // error.
            unsafe { sys::boson_dpdk_interface_is_running(self.interface) }
        };
        match answer {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

/// A port that DPDK knows. Stopped, closed and unplugged when dropped.
struct Port {
    eal: Eal,
    id: u16,
    device: *mut sys::rte_device,
    devargs: String,
    /// Dropped after the port is closed.
    _claim: Claim,
}

impl Port {
    /// Plugs the device in, unless DPDK found it when it started.
    fn attach(eal: Eal, devargs: &Devargs) -> Result<Self> {
        let claim = Claim::new(devargs)?;
        devargs.check_presence()?;
        let name = devargs.name_for_c();
        let find = || {
            let mut id = 0;
            // SAFETY: `name` ends with NUL and `id` is a place for a port's number.
            let result = unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) };
            (result == 0).then_some(id)
        };
        let (found, reason) = eal.control(|| {
            if let Some(id) = find() {
                return Ok(id);
            }
            let text = devargs.text_for_c();
            // SAFETY: the EAL runs, as `eal` proves; nobody else is in the control plane; `text`
            // ends with NUL.
            let code = unsafe { sys::rte_dev_probe(text.as_ptr()) };
            find().ok_or(code)
        });
        let id = found.map_err(|code| attach_error(code, devargs, &reason))?;
        let mut port =
            Self { eal, id, device: ptr::null_mut(), devargs: devargs.text().to_owned(), _claim: claim };
        port.device = port.details()?.device;
        Ok(port)
    }

    /// Runs a call of the control plane on the port, and turns a negative result into an error with
    /// the driver's words.
    fn call(&self, operation: &'static str, call: impl FnOnce(u16) -> c_int) -> Result<c_int> {
        let (code, reason) = self.eal.control(|| call(self.id));
        if code >= 0 {
            return Ok(code);
        }
        let reason = if reason.is_empty() { strerror(code) } else { reason };
        Err(driver_error(code).at(self.devargs.clone()).because(format!("{operation}: {reason}")))
    }

    fn details(&self) -> Result<sys::rte_eth_dev_info> {
        let mut details = sys::rte_eth_dev_info::default();
        self.call("describe", |id| {
            // SAFETY: `details` is a place for a port's description.
            unsafe { sys::rte_eth_dev_info_get(id, &raw mut details) }
        })?;
        Ok(details)
    }

    /// Gives the port one queue each way. Returns the numbers of descriptors, receive and transmit,
    /// that the device accepts.
    fn configure(&self, config: &PortConfig) -> Result<(u16, u16)> {
        let settings = sys::rte_eth_conf::default();
        self.call("configure", |id| {
            // SAFETY: `settings` is a configuration, all zero: no RSS, no offload, no interrupt;
            // DPDK copies it.
            unsafe { sys::rte_eth_dev_configure(id, 1, 1, &raw const settings) }
        })?;
        let (mut rx, mut tx) = (config.rx_descriptors, config.tx_descriptors);
        self.call("set the numbers of descriptors", |id| {
            // SAFETY: `rx` and `tx` are places that hold the wanted numbers and get the possible
            // ones.
            unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &raw mut rx, &raw mut tx) }
        })?;
        Ok((rx, tx))
    }

    /// Gives the port the MTU `wanted`, in bytes, and returns the one it has. A device that cannot
    /// change it may have a larger one: then only our own frames keep to it.
    fn use_mtu(&self, wanted: Option<u16>, interface: u32) -> Result<usize> {
        let Some(wanted) = wanted else { return self.mtu(interface) };
        let set = self.call("set the MTU", |id| {
            // SAFETY: the function takes any number; the port is not started.
            unsafe { sys::rte_eth_dev_set_mtu(id, wanted) }
        });
        let (wanted, is) = (usize::from(wanted), self.mtu(interface)?);
        match set {
            Err(error) if wanted > is => Err(error),
            _ => Ok(is.min(wanted)),
        }
    }

    /// The port's MTU in bytes, or that of the kernel's interface behind it if that is less, which
    /// the drivers of virtual devices do not look at.
    fn mtu(&self, interface: u32) -> Result<usize> {
        let mut mtu = 0;
        self.call("read the MTU", |id| {
            // SAFETY: `mtu` is a place for the number.
            unsafe { sys::rte_eth_dev_get_mtu(id, &raw mut mtu) }
        })?;
        let mtu = usize::from(mtu);
        if interface == 0 {
            return Ok(mtu);
        }
        // SAFETY: the function takes any number; for one that names no interface it returns an
        // error.
        let interface_mtu = unsafe { sys::boson_dpdk_interface_mtu(interface) };
        Ok(usize::try_from(interface_mtu).map_or(mtu, |interface_mtu| mtu.min(interface_mtu)))
    }

    fn devargs(&self) -> &str {
        &self.devargs
    }

    /// The NUMA node of the device, or -1.
    fn socket(&self) -> c_int {
        // SAFETY: the function takes any port number.
        unsafe { sys::rte_eth_dev_socket_id(self.id) }
    }

    /// Gives the port the address `wanted`, and returns the one it has.
    fn use_mac(&self, wanted: Option<[u8; 6]>) -> Result<[u8; 6]> {
        let mut address = sys::rte_ether_addr::default();
        let Some(wanted) = wanted else {
            self.call("read the Ethernet address", |id| {
                // SAFETY: `address` is a place for an address.
                unsafe { sys::rte_eth_macaddr_get(id, &raw mut address) }
            })?;
            return Ok(address.addr_bytes);
        };
        if wanted[0] & 1 != 0 || wanted == [0; 6] {
            return Err(Error::new(ErrorKind::InvalidInput, "open DPDK port")
                .at(self.devargs.clone())
                .because("mac= takes a unicast Ethernet address"));
        }
        address.addr_bytes = wanted;
        let set = self.call("set the Ethernet address", |id| {
            // SAFETY: `address` holds an address, which DPDK copies.
            unsafe { sys::rte_eth_dev_default_mac_addr_set(id, &raw mut address) }
        });
        if set.is_err() {
            // A device with a fixed address still sees frames for another one when it takes them
            // all.
            self.call("set the Ethernet address", |id| {
                // SAFETY: the function takes any port number.
                unsafe { sys::rte_eth_promiscuous_enable(id) }
            })?;
        }
        Ok(wanted)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let (id, device) = (self.id, self.device);
        let (code, reason) = self.eal.control(|| {
            // SAFETY: the function takes any port number; a port that is not started stays as it
            // is.
            unsafe { sys::rte_eth_dev_stop(id) };
            // SAFETY: the port is stopped, and this value was the only one that used it.
            let code = unsafe { sys::rte_eth_dev_close(id) };
            if device.is_null() {
                return code;
            }
            // SAFETY: DPDK named `device` as the one below the port, and keeps it until this call
            // takes it away.
            unsafe { sys::rte_dev_remove(device) }
        });
        if code < 0 {
            let reason = if reason.is_empty() { strerror(code) } else { reason };
            tracing::warn!("close DPDK port {}: {reason}", self.devargs);
        }
    }
}

/// The error for a driver's negative result. Many drivers return -1 for everything, which is then
/// not `EPERM`.
fn driver_error(code: c_int) -> Error {
    if code == -1 {
        Error::new(ErrorKind::InvalidInput, "open DPDK port")
    } else {
        Error::os(code.saturating_neg(), "open DPDK port")
    }
}

/// The error for a device that could not be plugged in: `code` is the result of that, `reason` what
/// was logged.
fn attach_error(code: c_int, devargs: &Devargs, reason: &str) -> Error {
    let at = devargs.text().to_owned();
    if code == 0 {
        return Error::new(ErrorKind::InvalidInput, "open DPDK port")
            .at(at)
            .because("DPDK has the device, but it is not an Ethernet port of this name");
    }
    // The EAL repeats that it failed; the driver said why.
    let repetition = |line: &&str| {
        line.starts_with("EAL: Driver cannot attach") || line.starts_with("EAL: Failed to attach")
    };
    let causes: Vec<&str> = reason.split(log::SEPARATOR).filter(|line| !repetition(line)).collect();
    let reason = match (causes.is_empty(), reason.is_empty()) {
        (false, _) => causes.join(log::SEPARATOR),
        (true, false) => reason.to_owned(),
        (true, true) => strerror(code),
    };
    if let Some(right) = devargs.missing_right() {
        return Error::os(libc::EPERM, "open DPDK port").at(at).because(format!(
            "{reason}; it takes the right {right}: run as root, or once: setcap {right}+ep PROGRAM"
        ));
    }
    let advice = if devargs.is_pci() {
        "; the card must be bound to vfio-pci (dpdk-devbind.py --bind=vfio-pci) and listed in the configuration of the EAL"
    } else {
        ""
    };
    driver_error(code).at(at).because(format!("{reason}{advice}"))
}
