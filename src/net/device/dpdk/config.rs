//! How a port is set up.

/// How many frames go to or come from the driver in one call.
pub(super) const BURST: usize = 64;
pub(super) const BURST_U16: u16 = 64;

pub(super) const ETHERNET_HEADER_BYTES: usize = 14;

/// How a port is to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// The Ethernet address to use instead of the device's own.
    pub mac: Option<[u8; 6]>,
    /// The MTU to use instead of the device's own, in bytes.
    pub mtu: Option<u16>,
    /// Receive descriptors; the nearest number that the device accepts is used.
    pub rx_descriptors: u16,
    /// Transmit descriptors; the nearest number that the device accepts is used.
    pub tx_descriptors: u16,
    /// Frames in the port's pool, at most [`MAX_MBUFS`](super::MAX_MBUFS). Both queues full, and
    /// some in hand, must fit; about 2.4 KiB each at an MTU of 1500.
    pub mbufs: u32,
}

impl Default for PortConfig {
    fn default() -> Self {
        // A pool of 2^n - 1 uses its ring best (rte_pktmbuf_pool_create).
        Self { mac: None, mtu: None, rx_descriptors: 1_024, tx_descriptors: 1_024, mbufs: 8_191 }
    }
}
