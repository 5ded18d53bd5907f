//! The seam to a network card: a [`PacketDevice`] receives and transmits bursts of Ethernet frames.

#[cfg(feature = "dpdk")]
pub mod dpdk;
mod fault;
mod memory;
mod tap;

pub use fault::{Fault, FaultConfig, FaultStats};
pub use memory::MemoryDevice;
pub use tap::{TapConfig, TapDevice};

use crate::error::Result;
use crate::rt::poller::Park;

/// What a device can do. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The address it was opened by, for messages.
    pub name: String,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// The largest IP packet it carries: a frame without its 14 bytes of Ethernet header.
    pub mtu: usize,
    /// Whether it fills in the IPv4, TCP and UDP checksums of transmitted frames.
    pub checksum_offload_tx: bool,
    /// Whether it verified the checksums of received frames and drops wrong ones.
    pub checksum_offload_rx: bool,
}

/// What a device counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// Frames handed to the stack.
    pub rx_frames: u64,
    /// Bytes of those frames, Ethernet header included.
    pub rx_bytes: u64,
    /// Frames given to the device.
    pub tx_frames: u64,
    /// Bytes of those frames, Ethernet header included.
    pub tx_bytes: u64,
    /// Frames that were not sent because the device's queue was full or failed; TCP sends them
    /// again.
    pub tx_dropped: u64,
    /// Frames that the device itself says it lost or refused on receive.
    pub rx_errors: u64,
}

/// One receive queue and one transmit queue of an Ethernet device, owned by one core. It never
/// blocks.
pub trait PacketDevice {
    /// Capabilities; constant while the device is open.
    fn info(&self) -> &DeviceInfo;

    /// Hands at most `budget` received frames to `sink`, in the order of arrival, and returns how
    /// many that were. A frame starts with its Ethernet header, has no frame check sequence, and is
    /// valid only during the call.
    ///
    /// # Errors
    ///
    /// The device failed (it was unplugged, say) and will not work again.
    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&mut [u8])) -> Result<usize>;

    /// Lets `fill` write one frame of exactly `len` bytes (at most `mtu + 14`) into the device's
    /// transmit buffer and queues it. Returns false, without calling `fill`, if the queue is full;
    /// the frame is then lost or offered again by the protocol above.
    fn transmit(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool;

    /// Pushes what was queued by `transmit` out to the wire. Called once per burst.
    fn flush(&mut self);

    /// How a core may wait for the next frame.
    fn park(&mut self) -> Park;

    /// Counters.
    fn stats(&self) -> DeviceStats;
}
