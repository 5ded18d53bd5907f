//! Buffers: a port's pool of mbufs, and mbufs that are owned for a moment.

use std::ffi::{CString, c_int};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use boson_dpdk_sys as sys;

use super::config::{BURST_U16, ETHERNET_HEADER_BYTES};
use crate::eal::{Eal, strerror};
use crate::error::{Error, ErrorKind, Result};

/// What each thread keeps of a pool for itself, at most one and a half times.
const POOL_CACHE_MBUFS: u32 = 256;

/// The largest pool.
pub const MAX_MBUFS: u32 = 1 << 20;

/// What an mbuf holds besides the IP packet: the Ethernet header, a VLAN tag and a frame check
/// sequence.
const FRAME_OVERHEAD_BYTES: usize = ETHERNET_HEADER_BYTES + 4 + 4;

/// `RTE_PKTMBUF_HEADROOM`, and the room that drivers expect behind it
/// (`RTE_MBUF_DEFAULT_DATAROOM`).
const HEADROOM_BYTES: usize = 128;
const DEFAULT_DATAROOM_BYTES: usize = 2_048;

/// The mbufs of one port.
pub(super) struct Pool {
    raw: NonNull<sys::rte_mempool>,
    mbufs: u32,
}

/// What a pool must hold.
pub(super) struct PoolSize {
    /// How many buffers.
    pub(super) mbufs: u32,
    /// The largest packet, in bytes.
    pub(super) mtu: usize,
    /// How many receive descriptors the buffers fill.
    pub(super) rx: u16,
    /// How many transmit descriptors they fill.
    pub(super) tx: u16,
}

impl Pool {
    /// A pool of `size` for the port `devargs`, in the memory of the NUMA node `socket` (-1 for
    /// any). It fills all descriptors and leaves some buffers in hand.
    pub(super) fn create(eal: Eal, devargs: &str, socket: c_int, size: &PoolSize) -> Result<Self> {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let invalid = |why: String| {
            Error::new(ErrorKind::InvalidInput, "open DPDK port").at(devargs.to_owned()).because(why)
        };
        let in_hand = 2 * u32::from(BURST_U16) + 2 * POOL_CACHE_MBUFS;
        let PoolSize { mbufs, mtu, rx, tx } = *size;
        let least = u32::from(rx) + u32::from(tx) + in_hand;
        if !(least..=MAX_MBUFS).contains(&mbufs) {
            return Err(invalid(format!(
                "{mbufs} buffers are asked for; with {rx} receive and {tx} transmit descriptors it takes \
                 {least} to {MAX_MBUFS}"
            )));
        }
        let dataroom = (mtu + FRAME_OVERHEAD_BYTES).next_multiple_of(64).max(DEFAULT_DATAROOM_BYTES);
        let dataroom = u16::try_from(dataroom + HEADROOM_BYTES)
            .map_err(|_| invalid(format!("its MTU of {mtu} bytes is more than a buffer can hold")))?;
        // A pool whose mbufs never all came back stays, so its name is never used again.
        let name =
            CString::new(format!("boson_{}", CREATED.fetch_add(1, Ordering::Relaxed))).unwrap_or_default();
        let (raw, reason) = eal.control(|| {
            // SAFETY: the EAL runs, as `eal` proves; `name` ends with NUL and is copied; the cache
            // is at most 512 and less than two thirds of the pool.
            let pool = unsafe {
                sys::rte_pktmbuf_pool_create(name.as_ptr(), mbufs, POOL_CACHE_MBUFS, 0, dataroom, socket)
            };
            // SAFETY: the function reads a variable of the calling thread.
            NonNull::new(pool).ok_or_else(|| unsafe { sys::boson_dpdk_errno() })
        });
        match raw {
            Ok(raw) => Ok(Self { raw, mbufs }),
            Err(code) => {
                let reason = if reason.is_empty() { strerror(code) } else { reason };
                let bytes = u64::from(mbufs) * (u64::from(dataroom) + 256);
                Err(Error::os(code, "open DPDK port").at(devargs.to_owned()).because(format!(
                    "{mbufs} buffers take {} MiB, which DPDK does not have: {reason}",
                    (bytes >> 20) + 1
                )))
            }
        }
    }

    /// For handing the pool to the driver.
    pub(super) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.raw.as_ptr()
    }

    /// An mbuf with `length` bytes for a frame, and the first of them. `None` if the pool is empty
    /// or one mbuf cannot hold that many. The caller owns the mbuf.
    pub(super) fn allocate(&self, length: u16) -> Option<(*mut sys::rte_mbuf, NonNull<u8>)> {
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
            // A driver that was closed kept frames (net_ring leaves them in its ring). Freeing the
            // pool under them would be worse than keeping it.
            tracing::debug!(
                "{} of {} buffers did not come back from DPDK",
                self.mbufs - available,
                self.mbufs
            );
            return;
        }
        // SAFETY: every mbuf is back, so nobody refers to the pool's memory, and this value is the
        // pool's only owner.
        unsafe { sys::rte_mempool_free(self.raw.as_ptr()) };
    }
}

/// Mbufs that go back to their pools when this is dropped.
pub(super) struct Mbufs<'a>(&'a mut [*mut sys::rte_mbuf]);

impl<'a> Mbufs<'a> {
    /// Takes over the mbufs in `mbufs`, at most 65,535.
    ///
    /// # Safety
    ///
    /// Every element is an mbuf that the caller owns, and gives up.
    pub(super) unsafe fn new(mbufs: &'a mut [*mut sys::rte_mbuf]) -> Self {
        Self(mbufs)
    }

    /// Gives the mbufs back to the caller, who owns them again.
    pub(super) fn release(mut self) {
        self.0 = &mut [];
    }
}

impl Drop for Mbufs<'_> {
    fn drop(&mut self) {
        if let Ok(count @ 1..) = u16::try_from(self.0.len()) {
            // SAFETY: the slice holds `count` mbufs that this value owns, as `new` demanded.
            unsafe { sys::boson_dpdk_free(self.0.as_mut_ptr(), count) };
        }
    }
}
