//! How a port is set up.

use super::devargs::Devargs;
use crate::eal::EalConfig;
use crate::error::Result;

/// How many frames go to or come from the driver in one call.
pub(super) const BURST: usize = 64;
pub(super) const BURST_U16: u16 = 64;

pub(super) const ETHERNET_HEADER_BYTES: usize = 14;

/// How a port is to be opened.
///
/// ```
/// use boson::net::device::dpdk::PortConfig;
///
/// let config = PortConfig::default().mtu(9000).mbufs(16_383);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortConfig {
    pub(super) mac: Option<[u8; 6]>,
    pub(super) mtu: Option<u16>,
    pub(super) rx_descriptors: u16,
    pub(super) tx_descriptors: u16,
    pub(super) mbufs: u32,
}

impl Default for PortConfig {
    /// The device's own Ethernet address and MTU, 1,024 descriptors each way, 8,191 frames.
    fn default() -> Self {
        // A pool of 2^n - 1 uses its ring best (rte_pktmbuf_pool_create).
        Self { mac: None, mtu: None, rx_descriptors: 1_024, tx_descriptors: 1_024, mbufs: 8_191 }
    }
}

impl PortConfig {
    /// Sets the Ethernet address to use instead of the device's own.
    #[must_use]
    pub fn mac(mut self, mac: impl Into<Option<[u8; 6]>>) -> Self {
        self.mac = mac.into();
        self
    }

    /// Sets the MTU to use instead of the device's own, in bytes.
    #[must_use]
    pub fn mtu(mut self, mtu: impl Into<Option<u16>>) -> Self {
        self.mtu = mtu.into();
        self
    }

    /// Sets the number of receive descriptors; the nearest number that the device accepts is used.
    #[must_use]
    pub fn rx_descriptors(mut self, descriptors: u16) -> Self {
        self.rx_descriptors = descriptors;
        self
    }

    /// Sets the number of transmit descriptors; the nearest number that the device accepts is used.
    #[must_use]
    pub fn tx_descriptors(mut self, descriptors: u16) -> Self {
        self.tx_descriptors = descriptors;
        self
    }

    /// Sets the number of frames in the port's pool, at most [`MAX_MBUFS`](super::MAX_MBUFS). Both
    /// queues full, and some in hand, must fit; about 2.4 KiB each at an MTU of 1500.
    #[must_use]
    pub fn mbufs(mut self, mbufs: u32) -> Self {
        self.mbufs = mbufs;
        self
    }
}

impl EalConfig {
    /// What a process that opens the one device `devargs` needs.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if `devargs` is not a device in DPDK's
    /// notation.
    pub fn for_device(devargs: &str) -> Result<Self> {
        let is_pci = Devargs::parse(devargs)?.is_pci();
        Ok(Self::default().pci_devices(is_pci.then(|| devargs.to_owned())))
    }
}
