//! One port with one receive and one transmit queue.

use std::collections::BTreeSet;
use std::ffi::{CStr, c_int};
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use boson_dpdk_sys as sys;

use super::devargs::Devargs;
use super::eal::{Eal, strerror};
use super::idle::Idle;
use crate::error::{Error, ErrorKind, Result};
use crate::net::device::{DeviceInfo, DeviceStats, PacketDevice};
use crate::rt::Park;

/// How many frames go to or come from the driver in one call.
const BURST: usize = 64;
const BURST_U16: u16 = 64;

/// What each thread keeps of a pool for itself, at most one and a half times.
const POOL_CACHE_MBUFS: u32 = 256;

/// The largest pool.
pub const MAX_MBUFS: u32 = 1 << 20;

const ETHERNET_HEADER_BYTES: usize = 14;

/// What an mbuf holds besides the IP packet: the Ethernet header, a VLAN tag and a frame check sequence.
const FRAME_OVERHEAD_BYTES: usize = ETHERNET_HEADER_BYTES + 4 + 4;

/// `RTE_PKTMBUF_HEADROOM`, and the room that drivers expect behind it (`RTE_MBUF_DEFAULT_DATAROOM`).
const HEADROOM_BYTES: usize = 128;
const DEFAULT_DATAROOM_BYTES: usize = 2_048;

/// How a port is to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// The Ethernet address to use instead of the device's own.
    pub mac: Option<[u8; 6]>,
    /// Receive descriptors; the nearest number that the device accepts is used.
    pub rx_descriptors: u16,
    /// Transmit descriptors; the nearest number that the device accepts is used.
    pub tx_descriptors: u16,
    /// Frames in the port's pool, at most [`MAX_MBUFS`]. Both queues full, and some in hand, must fit; about 2.4 KiB each at an MTU of 1500.
    pub mbufs: u32,
}

impl Default for PortConfig {
    fn default() -> Self {
        // A pool of 2^n - 1 uses its ring best (rte_pktmbuf_pool_create).
        Self { mac: None, rx_descriptors: 1_024, tx_descriptors: 1_024, mbufs: 8_191 }
    }
}

/// An open DPDK port. It belongs to the thread that opened it.
pub struct DpdkPort {
    info: DeviceInfo,
    driver: String,
    /// The index of the kernel's interface below a virtual device; 0 if there is none.
    interface: u32,
    counters: DeviceStats,
    idle: Idle,
    /// The burst that is being received; only `receive` uses them.
    rx_mbufs: Box<[*mut sys::rte_mbuf; BURST]>,
    rx_frames: Box<[sys::boson_dpdk_frame; BURST]>,
    /// Frames that `transmit` queued and `flush` sends, with their lengths in bytes: the first `tx_queued` of each.
    tx_mbufs: Box<[*mut sys::rte_mbuf; BURST]>,
    tx_lengths: Box<[u16; BURST]>,
    tx_queued: usize,
    // Closed in this order: the device gives its mbufs back before their pool is freed.
    port: Port,
    pool: Pool,
}

impl DpdkPort {
    /// Opens the device `devargs` (see the [module](super)), starts it, and gives it a pool of buffers.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidInput`]: the name or a number in `config` is not usable.
    /// - [`ErrorKind::NotFound`]: the PCI device, or the kernel's interface that a virtual device stands on, is absent.
    /// - [`ErrorKind::InUse`]: this process has opened it already.
    /// - [`ErrorKind::Os`] and others: what DPDK's driver reports, in its words.
    pub fn open(eal: Eal, devargs: &str, config: &PortConfig) -> Result<Self> {
        let devargs = Devargs::parse(devargs)?;
        let port = Port::attach(eal, &devargs)?;
        eal.register_thread();

        let details = port.details()?;
        let (rx_descriptors, tx_descriptors) = port.configure(config)?;
        let mtu = port.mtu(details.if_index)?;
        let pool = Pool::create(&port, config, mtu, rx_descriptors, tx_descriptors)?;
        port.set_up_queues(&pool, rx_descriptors, tx_descriptors)?;
        port.call("start", |id| {
            // SAFETY: the port is configured and both of its queues are set up.
            unsafe { sys::rte_eth_dev_start(id) }
        })?;
        let mac = port.use_mac(config.mac)?;

        // SAFETY: DPDK sets the driver's name of every port that it describes to a string that ends with NUL, in the
        // driver's own memory.
        let driver = unsafe { CStr::from_ptr(details.driver_name) }.to_string_lossy().into_owned();
        let open = Self {
            info: DeviceInfo {
                name: devargs.text().to_owned(),
                mac,
                mtu,
                // What the device could do (`rx_offload_capa`, `tx_offload_capa`) is not turned on.
                checksum_offload_tx: false,
                checksum_offload_rx: false,
            },
            driver,
            interface: details.if_index,
            counters: DeviceStats::default(),
            idle: Idle::new(),
            rx_mbufs: Box::new([ptr::null_mut(); BURST]),
            rx_frames: Box::new([sys::boson_dpdk_frame::default(); BURST]),
            tx_mbufs: Box::new([ptr::null_mut(); BURST]),
            tx_lengths: Box::new([0; BURST]),
            tx_queued: 0,
            port,
            pool,
        };
        if open.link_is_up() == Some(false) {
            tracing::warn!("the link of {} is down", open.info.name);
        }
        Ok(open)
    }

    /// The driver's name, such as `net_af_packet`.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// Whether the link is up; `None` if the device does not say. Of an interface of the kernel the kernel is asked, because
    /// `net_af_packet` always says that it is up.
    pub fn link_is_up(&self) -> Option<bool> {
        let answer = if self.interface == 0 {
            // SAFETY: the port is open as long as `self` is.
            unsafe { sys::boson_dpdk_link_is_up(self.port.id) }
        } else {
            // SAFETY: the function takes any number; for one that names no interface it returns an error.
            unsafe { sys::boson_dpdk_interface_is_running(self.interface) }
        };
        match answer {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// One burst of at most `capacity` frames. Returns how many went to `sink`, and how many came from the driver.
    fn receive_burst(&mut self, capacity: usize, sink: &mut dyn FnMut(&mut [u8])) -> (usize, usize) {
        let capacity = u16::try_from(capacity).unwrap_or(u16::MAX).min(BURST_U16);
        // SAFETY:
        // - the port is started, has a queue 0, and only this thread uses it: `DpdkPort` is neither `Send` nor `Sync`;
        // - both arrays have room for `BURST` elements, and `capacity` is at most that.
        let count = unsafe {
            sys::boson_dpdk_receive(
                self.port.id,
                0,
                self.rx_mbufs.as_mut_ptr(),
                self.rx_frames.as_mut_ptr(),
                capacity,
            )
        };
        // Frees the burst also when `sink` panics.
        let burst = Mbufs(&mut self.rx_mbufs[..usize::from(count)]);
        let mut handed = 0;
        for frame in &self.rx_frames[..burst.0.len()] {
            if frame.length == 0 {
                self.counters.rx_errors += 1;
                continue;
            }
            // A frame's length comes from a 16-bit field of the mbuf.
            let length = usize::try_from(frame.length).unwrap_or(0);
            // SAFETY:
            // - the shim set `data` and `length` to the data of an mbuf of this burst, which holds so many bytes in one
            //   piece and is not freed before `burst` is dropped, after the loop;
            // - the driver wrote those bytes, or the kernel zeroed their pages: they are initialised;
            // - the driver gave the mbuf away, and the slice of the frame before ended with its iteration: nothing else
            //   refers to the bytes.
            let bytes = unsafe { std::slice::from_raw_parts_mut(frame.data, length) };
            self.counters.rx_frames += 1;
            self.counters.rx_bytes += u64::from(frame.length);
            handed += 1;
            sink(bytes);
        }
        (handed, usize::from(count))
    }
}

impl PacketDevice for DpdkPort {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Never fails: a poll mode driver does not report the loss of its device here.
    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&mut [u8])) -> Result<usize> {
        let mut total = 0;
        while total < budget {
            let wanted = (budget - total).min(BURST);
            let (handed, count) = self.receive_burst(wanted, sink);
            total += handed;
            if count < wanted {
                break;
            }
        }
        if total > 0 {
            self.idle.busy();
        }
        Ok(total)
    }

    /// Returns false if the pool is empty or `len` is not the length of a frame, and counts the frame as dropped.
    fn transmit(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        if self.tx_queued == BURST {
            self.flush();
        }
        let length = u16::try_from(len).unwrap_or(u16::MAX);
        let fits = len > 0 && len <= self.info.mtu + ETHERNET_HEADER_BYTES;
        let Some((mut mbuf, data)) = fits.then(|| self.pool.allocate(length)).flatten() else {
            self.counters.tx_dropped += 1;
            return false;
        };
        // Gives the mbuf back also when `fill` panics.
        let owned = Mbufs(std::slice::from_mut(&mut mbuf));
        // SAFETY:
        // - the pool appended `length`, which is `len` as `fits` says, bytes at `data` to an mbuf that `owned` holds
        //   during the call;
        // - the kernel zeroed the pages of the pool before the first use: they are initialised;
        // - the mbuf was just allocated: nothing else refers to its bytes.
        fill(unsafe { std::slice::from_raw_parts_mut(data.as_ptr(), len) });
        self.tx_mbufs[self.tx_queued] = owned.release();
        self.tx_lengths[self.tx_queued] = length;
        self.tx_queued += 1;
        true
    }

    fn flush(&mut self) {
        let queued = std::mem::take(&mut self.tx_queued);
        if queued == 0 {
            return;
        }
        self.idle.busy();
        let (mbufs, lengths) = (&mut self.tx_mbufs[..queued], &self.tx_lengths[..queued]);
        let count = u16::try_from(queued).unwrap_or(BURST_U16);
        // SAFETY:
        // - the port is started, has a queue 0, and only this thread uses it: `DpdkPort` is neither `Send` nor `Sync`;
        // - `mbufs` holds `count` mbufs that `transmit` allocated; those that the driver takes are not used any more.
        let sent = unsafe { sys::boson_dpdk_transmit(self.port.id, 0, mbufs.as_mut_ptr(), count) };
        let sent = sent.min(count);
        let taken = usize::from(sent);
        self.counters.tx_frames += u64::from(sent);
        self.counters.tx_bytes += lengths[..taken].iter().map(|&length| u64::from(length)).sum::<u64>();
        // The rest did not fit into the device's queue. Losing it is what a full switch would do; TCP sends it again.
        self.counters.tx_dropped += u64::from(count - sent);
        drop(Mbufs(&mut mbufs[taken..]));
    }

    /// No poll mode driver of a virtual device can wake a core, so: spin for some turns after the last frame, then nap,
    /// at first for 50 µs, at last for 2 ms.
    fn park(&mut self) -> Park {
        self.idle.park()
    }

    fn stats(&self) -> DeviceStats {
        let mut stats = self.counters;
        let mut device = sys::rte_eth_stats::default();
        // SAFETY: the port is open as long as `self` is, and `device` is a place for its statistics.
        if unsafe { sys::rte_eth_stats_get(self.port.id, &raw mut device) } == 0 {
            stats.rx_errors += device.imissed + device.ierrors + device.rx_nombuf;
        }
        stats
    }
}

impl Drop for DpdkPort {
    fn drop(&mut self) {
        drop(Mbufs(&mut self.tx_mbufs[..self.tx_queued]));
    }
}

impl fmt::Debug for DpdkPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DpdkPort")
            .field("info", &self.info)
            .field("driver", &self.driver)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Mbufs that go back to their pool when this is dropped.
struct Mbufs<'a>(&'a mut [*mut sys::rte_mbuf]);

impl Mbufs<'_> {
    /// Takes the only mbuf out.
    fn release(mut self) -> *mut sys::rte_mbuf {
        let mbuf = self.0[0];
        self.0 = &mut [];
        mbuf
    }
}

impl Drop for Mbufs<'_> {
    fn drop(&mut self) {
        if let Ok(count @ 1..) = u16::try_from(self.0.len()) {
            // SAFETY: the slice holds `count` mbufs, allocated by this module or received from a driver; whoever made
            // this value gave up its other uses of them.
            unsafe { sys::boson_dpdk_free(self.0.as_mut_ptr(), count) };
        }
    }
}

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
            // SAFETY: the EAL runs, as `eal` proves; nobody else is in the control plane; `text` ends with NUL.
            let code = unsafe { sys::rte_dev_probe(text.as_ptr()) };
            find().ok_or(code)
        });
        let id = found.map_err(|code| attach_error(code, devargs, reason))?;
        let mut port =
            Self { eal, id, device: ptr::null_mut(), devargs: devargs.text().to_owned(), _claim: claim };
        port.device = port.details()?.device;
        Ok(port)
    }

    /// Runs a call of the control plane on the port, and turns a negative result into an error with the driver's words.
    fn call(&self, operation: &'static str, call: impl FnOnce(u16) -> c_int) -> Result<c_int> {
        let (code, reason) = self.eal.control(|| call(self.id));
        if code >= 0 {
            return Ok(code);
        }
        let reason = if reason.is_empty() { strerror(code) } else { reason };
        Err(Error::os(code.saturating_neg(), "open DPDK port")
            .at(self.devargs.clone())
            .because(format!("{operation}: {reason}")))
    }

    fn details(&self) -> Result<sys::rte_eth_dev_info> {
        let mut details = sys::rte_eth_dev_info::default();
        self.call("describe", |id| {
            // SAFETY: `details` is a place for a port's description.
            unsafe { sys::rte_eth_dev_info_get(id, &raw mut details) }
        })?;
        Ok(details)
    }

    /// Gives the port one queue each way. Returns the numbers of descriptors, receive and transmit, that the device accepts.
    fn configure(&self, config: &PortConfig) -> Result<(u16, u16)> {
        let settings = sys::rte_eth_conf::default();
        self.call("configure", |id| {
            // SAFETY: `settings` is a configuration, all zero: no RSS, no offload, no interrupt; DPDK copies it.
            unsafe { sys::rte_eth_dev_configure(id, 1, 1, &raw const settings) }
        })?;
        let (mut rx, mut tx) = (config.rx_descriptors, config.tx_descriptors);
        self.call("set the numbers of descriptors", |id| {
            // SAFETY: `rx` and `tx` are places that hold the wanted numbers and get the possible ones.
            unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &raw mut rx, &raw mut tx) }
        })?;
        Ok((rx, tx))
    }

    /// The MTU in bytes: the port's, or that of the kernel's interface behind it if that is less, which the drivers of
    /// virtual devices do not look at.
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
        // SAFETY: the function takes any number; for one that names no interface it returns an error.
        let interface_mtu = unsafe { sys::boson_dpdk_interface_mtu(interface) };
        Ok(usize::try_from(interface_mtu).map_or(mtu, |interface_mtu| mtu.min(interface_mtu)))
    }

    fn socket(&self) -> c_int {
        // SAFETY: the function takes any port number.
        unsafe { sys::rte_eth_dev_socket_id(self.id) }
    }

    fn set_up_queues(&self, pool: &Pool, rx_descriptors: u16, tx_descriptors: u16) -> Result<()> {
        // -1, any socket, is the largest unsigned number for these two functions.
        let socket = self.socket().cast_unsigned();
        self.call("set up the receive queue", |id| {
            // SAFETY:
            // - the port is configured with one receive queue, and is not started;
            // - a null configuration means the driver's default;
            // - the pool outlives the port: `DpdkPort` drops the port first, and so does `open` when it fails.
            unsafe {
                sys::rte_eth_rx_queue_setup(id, 0, rx_descriptors, socket, ptr::null(), pool.raw.as_ptr())
            }
        })?;
        self.call("set up the transmit queue", |id| {
            // SAFETY: the port is configured with one transmit queue, and is not started; null means the default.
            unsafe { sys::rte_eth_tx_queue_setup(id, 0, tx_descriptors, socket, ptr::null()) }
        })?;
        Ok(())
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
            // A device with a fixed address still sees frames for another one when it takes them all.
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
            // SAFETY: the function takes any port number; a port that is not started stays as it is.
            unsafe { sys::rte_eth_dev_stop(id) };
            // SAFETY: the port is stopped, and this value was the only one that used it.
            let code = unsafe { sys::rte_eth_dev_close(id) };
            if device.is_null() {
                return code;
            }
            // SAFETY: DPDK named `device` as the one below the port, and keeps it until this call takes it away.
            unsafe { sys::rte_dev_remove(device) }
        });
        if code < 0 {
            let reason = if reason.is_empty() { strerror(code) } else { reason };
            tracing::warn!("close DPDK port {}: {reason}", self.devargs);
        }
    }
}

fn attach_error(code: c_int, devargs: &Devargs, reason: String) -> Error {
    const PERMISSION: &str = "Operation not permitted";
    let at = devargs.text().to_owned();
    if code == 0 {
        return Error::new(ErrorKind::InvalidInput, "open DPDK port")
            .at(at)
            .because("DPDK has the device, but it is not an Ethernet port of this name");
    }
    if code == -libc::EPERM && reason.contains(PERMISSION) || code == -libc::EACCES {
        return Error::os(code.saturating_neg(), "open DPDK port").at(at).because(format!(
            "{reason}; run as root, or give the program the right with setcap cap_net_raw,cap_net_admin+ep"
        ));
    }
    let reason = if reason.is_empty() { strerror(code) } else { reason };
    let advice = if devargs.is_pci() {
        "; the card must be bound to vfio-pci (dpdk-devbind.py --bind=vfio-pci) and listed in the configuration of the EAL"
    } else {
        ""
    };
    // Drivers of virtual devices return -1, which is not EPERM, for everything.
    let error = if code == -1 {
        Error::new(ErrorKind::InvalidInput, "open DPDK port")
    } else {
        Error::os(code.saturating_neg(), "open DPDK port")
    };
    error.at(at).because(format!("{reason}{advice}"))
}

/// The mbufs of one port.
struct Pool {
    raw: NonNull<sys::rte_mempool>,
    mbufs: u32,
}

impl Pool {
    fn create(port: &Port, config: &PortConfig, mtu: usize, rx: u16, tx: u16) -> Result<Self> {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let invalid = |why: String| {
            Error::new(ErrorKind::InvalidInput, "open DPDK port").at(port.devargs.clone()).because(why)
        };
        let in_hand = 2 * u32::from(BURST_U16) + 2 * POOL_CACHE_MBUFS;
        let least = u32::from(rx) + u32::from(tx) + in_hand;
        if !(least..=MAX_MBUFS).contains(&config.mbufs) {
            return Err(invalid(format!(
                "{} buffers are asked for; with {rx} receive and {tx} transmit descriptors it takes {least} to {MAX_MBUFS}",
                config.mbufs
            )));
        }
        let dataroom = (mtu + FRAME_OVERHEAD_BYTES).next_multiple_of(64).max(DEFAULT_DATAROOM_BYTES);
        let dataroom = u16::try_from(dataroom + HEADROOM_BYTES)
            .map_err(|_| invalid(format!("its MTU of {mtu} bytes is more than a buffer can hold")))?;
        // A pool whose mbufs never all came back stays, so its name is never used again.
        let name = std::ffi::CString::new(format!("boson_{}", CREATED.fetch_add(1, Ordering::Relaxed)))
            .unwrap_or_default();
        let (raw, reason) = port.eal.control(|| {
            // SAFETY: the EAL runs, as the port proves; `name` ends with NUL and is copied; the cache is at most 512 and
            // less than two thirds of the pool.
            let pool = unsafe {
                sys::rte_pktmbuf_pool_create(
                    name.as_ptr(),
                    config.mbufs,
                    POOL_CACHE_MBUFS,
                    0,
                    dataroom,
                    port.socket(),
                )
            };
            // SAFETY: the function reads a variable of the calling thread.
            NonNull::new(pool).ok_or_else(|| unsafe { sys::boson_dpdk_errno() })
        });
        match raw {
            Ok(raw) => Ok(Self { raw, mbufs: config.mbufs }),
            Err(code) => {
                let reason = if reason.is_empty() { strerror(code) } else { reason };
                let bytes = u64::from(config.mbufs) * (u64::from(dataroom) + 256);
                Err(Error::os(code, "open DPDK port").at(port.devargs.clone()).because(format!(
                    "{} buffers take {} MiB, which DPDK does not have: {reason}",
                    config.mbufs,
                    (bytes >> 20) + 1
                )))
            }
        }
    }

    /// An mbuf with room for a frame of `length` bytes, and its first byte.
    fn allocate(&self, length: u16) -> Option<(*mut sys::rte_mbuf, NonNull<u8>)> {
        let mut data = ptr::null_mut();
        // SAFETY: the pool is not freed while `self` is alive, and `data` is a place for a pointer.
        let mbuf = unsafe { sys::boson_dpdk_allocate(self.raw.as_ptr(), length, &raw mut data) };
        (!mbuf.is_null()).then_some(mbuf).zip(NonNull::new(data))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the pool is not freed yet.
        let available = unsafe { sys::rte_mempool_avail_count(self.raw.as_ptr()) };
        if available != self.mbufs {
            // A driver that was closed kept frames (net_ring leaves them in its ring). Freeing the pool under them would be
            // worse than keeping it.
            tracing::debug!(
                "{} of {} buffers did not come back from DPDK",
                self.mbufs - available,
                self.mbufs
            );
            return;
        }
        // SAFETY: every mbuf is back, so nobody refers to the pool's memory, and this value is the pool's only owner.
        unsafe { sys::rte_mempool_free(self.raw.as_ptr()) };
    }
}
