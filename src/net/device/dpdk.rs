//! DPDK: frames go between this process and the network card without the kernel.
//!
//! [`Eal`] starts DPDK's environment once per process; [`DpdkPort`] opens one port, a card or a
//! virtual device, and is a [`PacketDevice`](super::PacketDevice). What a port may be called is
//! what DPDK calls it:
//!
//! | `devargs` | what |
//! |---|---|
//! | `0000:03:00.0` | a card bound to `vfio-pci` (`dpdk-devbind.py -b vfio-pci 0000:03:00.0`) |
//! | `net_af_packet0,iface=v0` | an interface of the kernel, through a packet socket; needs `CAP_NET_RAW` |
//! | `net_af_xdp0,iface=v0` | the same through AF_XDP; needs `CAP_NET_ADMIN` and `CAP_BPF` |
//! | `net_tap0,iface=boson0` | a TAP interface that DPDK creates |
//! | `net_memif0,…` | shared memory with another process |
//! | `net_ring0` | a loop: what is sent comes back |
//! | `net_null0` | a source of empty frames and a sink |
//!
//! # Memory
//!
//! Frames live in hugepages where at least [`EAL_MEMORY_MIB`] MiB of them are free, else in normal
//! pages, with a warning: that is enough for virtual devices, but a card needs hugepages. No file
//! is left behind, and any number of processes may use DPDK.
//!
//! # A device that is removed
//!
//! No driver reports it when frames are asked for. So after about a second without a frame the port
//! looks: whether the kernel still has the interface that a virtual device stands on, and for a
//! card, what the driver says (`rte_eth_dev_is_removed`). Then the port fails, and every connection
//! with it. Drivers that cannot tell, and a link that is merely down, are silent.
//!
//! # A veth pair
//!
//! `net_af_packet` on one end of a veth pair sees frames as the kernel's other end hands them over:
//! with transmit checksum offload, which veth has by default, their TCP and UDP checksums are not
//! filled in, and the stack refuses them. Turn it off at the kernel's end; that turns off
//! segmentation offload with it, so that no frame is longer than the MTU:
//!
//! ```text
//! ethtool -K v1 tx off
//! ```
//!
//! The kernel's own stack still sees every frame that arrives at `v0`. Give `v0` no address, and
//! turn off IPv6 on it (`sysctl net.ipv6.conf.v0.disable_ipv6=1`), so that only boson answers.

mod attach;
mod config;
mod devargs;
mod pool;
mod port;

pub use crate::eal::{EAL_MEMORY_MIB, Eal, EalConfig};
pub use config::PortConfig;
pub use pool::MAX_MBUFS;
pub use port::DpdkPort;
