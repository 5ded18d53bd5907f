//! One port with one receive and one transmit queue.

use std::fmt;
use std::ptr;
use std::time::Duration;

use boson_dpdk_sys as sys;

use super::attach::Device;
use super::config::{BURST, BURST_U16, ETHERNET_HEADER_BYTES, PortConfig};
use super::devargs::Devargs;
use super::pool::Mbufs;
use crate::eal::Eal;
use crate::eal::idle::Idle;
use crate::error::{Error, Result};
use crate::net::device::{DeviceInfo, DeviceStats, PacketDevice};
use crate::rt::poller::Park;

/// After so long without a frame it is looked whether the device is still there.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// What a turn without a frame counts for. Most take less or little more; a device reads no clock.
const EMPTY_TURN: Duration = Duration::from_micros(1);

/// An open DPDK port. It belongs to the thread that opened it.
pub struct DpdkPort {
    info: DeviceInfo,
    counters: DeviceStats,
    idle: Idle,
    /// How long, about, no frame has come since the device was last seen.
    silence: Duration,
    /// The burst that is being received; only `receive` uses them.
    rx_mbufs: Box<[*mut sys::rte_mbuf; BURST]>,
    rx_frames: Box<[sys::boson_dpdk_frame; BURST]>,
    /// Frames that `transmit` queued and `flush` sends, with their lengths in bytes: the first
    /// `tx_queued` of each.
    tx_mbufs: Box<[*mut sys::rte_mbuf; BURST]>,
    tx_lengths: Box<[u16; BURST]>,
    tx_queued: usize,
    device: Device,
}

impl DpdkPort {
    /// Opens the device `devargs` (see the [module](super)), starts it, and gives it a pool of
    /// buffers.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput): the name or a number in
    ///   `config` is not usable.
    /// - [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): the PCI device, or the kernel's
    ///   interface that a virtual device stands on, is absent.
    /// - [`ErrorKind::InUse`](crate::ErrorKind::InUse): this process has opened it already.
    /// - [`ErrorKind::Os`](crate::ErrorKind::Os) and others: what DPDK's driver reports, in its
    ///   words.
    pub fn open(eal: Eal, devargs: &str, config: &PortConfig) -> Result<Self> {
        let device = Device::open(eal, &Devargs::parse(devargs)?, config)?;
        let open = Self {
            info: DeviceInfo {
                name: device.devargs().to_owned(),
                mac: device.mac(),
                mtu: device.mtu(),
                // What the device could do (`rx_offload_capa`, `tx_offload_capa`) is not turned on.
                checksum_offload_tx: false,
                checksum_offload_rx: false,
            },
            counters: DeviceStats::default(),
            idle: Idle::new(),
            silence: Duration::ZERO,
            rx_mbufs: Box::new([ptr::null_mut(); BURST]),
            rx_frames: Box::new([sys::boson_dpdk_frame::default(); BURST]),
            tx_mbufs: Box::new([ptr::null_mut(); BURST]),
            tx_lengths: Box::new([0; BURST]),
            tx_queued: 0,
            device,
        };
        if open.link_is_up() == Some(false) {
            tracing::warn!("the link of {} is down", open.info.name);
        }
        Ok(open)
    }

    /// The driver's name, such as `net_af_packet`.
    pub fn driver(&self) -> &str {
        self.device.driver()
    }

    /// Whether the link is up; `None` if the device does not say. Of an interface of the kernel the
    /// kernel is asked, because `net_af_packet` always says that it is up.
    pub fn link_is_up(&self) -> Option<bool> {
        self.device.link_is_up()
    }

    /// One burst of at most `capacity` frames. Returns how many went to `sink`, and how many came
    /// from the driver.
    fn receive_burst(&mut self, capacity: usize, sink: &mut dyn FnMut(&mut [u8])) -> (usize, usize) {
        let capacity = u16::try_from(capacity).unwrap_or(u16::MAX).min(BURST_U16);
        // SAFETY:
        // - the port is started, has a queue 0, and only this thread uses it: `DpdkPort` is neither
        //   `Send` nor `Sync`;
        // - both arrays have room for `BURST` elements, and `capacity` is at most that.
        let count = unsafe {
            sys::boson_dpdk_receive(
                self.device.id(),
                0,
                self.rx_mbufs.as_mut_ptr(),
                self.rx_frames.as_mut_ptr(),
                capacity,
            )
        };
        let count = usize::from(count.min(capacity));
        // SAFETY: the driver put `count` mbufs there and gave them to us. The burst is freed also
        // when `sink` panics.
        let burst = unsafe { Mbufs::new(&mut self.rx_mbufs[..count]) };
        let mut handed = 0;
        for frame in &self.rx_frames[..count] {
            if frame.length == 0 {
                self.counters.rx_errors += 1;
                continue;
            }
            // A frame's length comes from a 16-bit field of the mbuf.
            let length = usize::try_from(frame.length).unwrap_or(0);
            // SAFETY:
            // - the shim set `data` and `length` to the data of an mbuf of this burst, which holds
            //   that many bytes in one piece and is not freed before `burst` is dropped, after the
            //   loop;
            // - the driver wrote those bytes, or the kernel zeroed their pages: they are
            //   initialised;
            // - the driver gave the mbuf away, and the slice of the frame before ended with its
            //   iteration: nothing else refers to the bytes.
            let bytes = unsafe { std::slice::from_raw_parts_mut(frame.data, length) };
            self.counters.rx_frames += 1;
            self.counters.rx_bytes += u64::from(frame.length);
            handed += 1;
            sink(bytes);
        }
        drop(burst);
        (handed, count)
    }
}

impl PacketDevice for DpdkPort {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// A poll mode driver does not report the loss of its device here. While no frame comes, it is
    /// asked about every second whether it has one; of an interface of the kernel's the kernel is
    /// asked.
    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&mut [u8])) -> Result<usize> {
        let (mut handed, mut taken) = (0, 0);
        // Frames that are refused count against the budget, so that a flood of them ends the call,
        // too.
        while taken < budget {
            let wanted = (budget - taken).min(BURST);
            let (good, count) = self.receive_burst(wanted, sink);
            handed += good;
            taken += count;
            if count < wanted {
                break;
            }
        }
        if handed > 0 {
            self.idle.busy();
            self.silence = Duration::ZERO;
        } else {
            self.silence += EMPTY_TURN;
            if self.silence >= LOOK_AFTER {
                self.silence = Duration::ZERO;
                if self.device.is_gone() {
                    return Err(Error::os(libc::ENODEV, "receive")
                        .at(self.info.name.clone())
                        .because("the device was removed"));
                }
            }
        }
        Ok(handed)
    }

    /// Returns false if the pool is empty or `len` is not the length of a frame, and counts the
    /// frame as dropped.
    fn transmit(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        if self.tx_queued == BURST {
            self.flush();
        }
        let length = u16::try_from(len).unwrap_or(u16::MAX);
        let fits = len > 0 && len <= self.info.mtu + ETHERNET_HEADER_BYTES;
        let Some((mut mbuf, data)) = fits.then(|| self.device.pool().allocate(length)).flatten() else {
            self.counters.tx_dropped += 1;
            return false;
        };
        // SAFETY: the pool just gave us the mbuf. It goes back also when `fill` panics.
        let owned = unsafe { Mbufs::new(std::slice::from_mut(&mut mbuf)) };
        // SAFETY:
        // - the pool appended `length`, which is `len` as `fits` says, bytes at `data` to an mbuf
        //   that `owned` holds during the call;
        // - the kernel zeroed the pages of the pool before the first use: they are initialised;
        // - the mbuf was just allocated: nothing else refers to its bytes.
        fill(unsafe { std::slice::from_raw_parts_mut(data.as_ptr(), len) });
        owned.release();
        self.tx_mbufs[self.tx_queued] = mbuf;
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
        // - the port is started, has a queue 0, and only this thread uses it: `DpdkPort` is neither
        //   `Send` nor `Sync`;
        // - `mbufs` holds `count` mbufs that `transmit` allocated; those that the driver takes are
        //   not used any more.
        let sent = unsafe { sys::boson_dpdk_transmit(self.device.id(), 0, mbufs.as_mut_ptr(), count) };
        let sent = sent.min(count);
        let taken = usize::from(sent);
        self.counters.tx_frames += u64::from(sent);
        self.counters.tx_bytes += lengths[..taken].iter().map(|&length| u64::from(length)).sum::<u64>();
        // The rest did not fit into the device's queue. Losing it is what a full switch would do;
        // TCP sends it again.
        self.counters.tx_dropped += u64::from(count - sent);
        // SAFETY: `transmit` allocated them, and the driver left them to us.
        drop(unsafe { Mbufs::new(&mut mbufs[taken..]) });
    }

    /// No poll mode driver of a virtual device can wake a core. So the core spins for some turns
    /// after the last frame and then naps, at first for 50 µs, at last for 2 ms.
    fn park(&mut self) -> Park {
        let park = self.idle.park();
        if let Park::Nap(nap) = &park {
            self.silence += *nap;
        }
        park
    }

    fn stats(&self) -> DeviceStats {
        let mut stats = self.counters;
        let mut device = sys::rte_eth_stats::default();
        // SAFETY: the port is open as long as `self` is, and `device` is a place for its
        // statistics.
        if unsafe { sys::rte_eth_stats_get(self.device.id(), &raw mut device) } == 0 {
            for count in [device.imissed, device.ierrors, device.rx_nombuf] {
                stats.rx_errors = stats.rx_errors.saturating_add(count);
            }
        }
        stats
    }
}

impl Drop for DpdkPort {
    fn drop(&mut self) {
        // SAFETY: `transmit` allocated them, and `flush` never gave them to the driver.
        drop(unsafe { Mbufs::new(&mut self.tx_mbufs[..self.tx_queued]) });
    }
}

impl fmt::Debug for DpdkPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DpdkPort")
            .field("info", &self.info)
            .field("driver", &self.driver())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
