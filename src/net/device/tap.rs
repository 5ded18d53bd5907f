//! A TAP interface: the kernel at the other end of a wire that needs no hardware.
//!
//! What the userspace stack sends, the kernel receives on the interface, and the reverse; local
//! programs, network namespaces and (with routing) other hosts can talk to the stack through it.
//! One system call per frame.

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket};

use super::{DeviceInfo, DeviceStats, PacketDevice};
use crate::error::{Error, ErrorKind, Result};
use crate::net::address::{IpCidr, TapAddress};
use crate::rt::poller::Park;

const ETHERNET_HEADER_LEN: usize = 14;
/// A frame may carry a VLAN tag in addition; it is received whole, and the stack ignores it.
const VLAN_TAG_LEN: usize = 4;
const CLONE_DEVICE: &str = "/dev/net/tun";
const MAX_NAME_LEN: usize = libc::IFNAMSIZ - 1;

/// Which interface to open, and how it is set up.
///
/// ```
/// use boson::net::device::TapConfig;
///
/// let kernel_end = "10.9.0.2/24".parse().expect("an address and a prefix");
/// let config = TapConfig::default().name("boson1").host([kernel_end]).mtu(9000);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TapConfig {
    pub(crate) name: String,
    pub(crate) host: Vec<IpCidr>,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) mtu: usize,
}

/// The MTU of an Ethernet without jumbo frames, in bytes.
const DEFAULT_MTU: usize = 1500;

impl Default for TapConfig {
    /// The interface `boson0` with an MTU of 1500 bytes and no more addresses than it has.
    fn default() -> Self {
        Self { name: "boson0".to_owned(), host: Vec::new(), mac: None, mtu: DEFAULT_MTU }
    }
}

impl TapConfig {
    /// Sets the interface's name, 1 to 15 bytes; `boson0` by default. The interface is made if it
    /// does not exist, and then goes away with the device.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the addresses of the kernel's end, beside those that it has already.
    #[must_use]
    pub fn host(mut self, addresses: impl IntoIterator<Item = IpCidr>) -> Self {
        self.host = addresses.into_iter().collect();
        self
    }

    /// Sets the stack's Ethernet address. By default it is the kernel's with its last bit flipped.
    #[must_use]
    pub fn mac(mut self, mac: impl Into<Option<[u8; 6]>>) -> Self {
        self.mac = mac.into();
        self
    }

    /// Sets the size of the largest IP packet, in bytes, from 576 to 65,521; 1500 by default.
    #[must_use]
    pub fn mtu(mut self, mtu: usize) -> Self {
        self.mtu = mtu;
        self
    }
}

impl From<&TapAddress> for TapConfig {
    /// What a `tap:` address asks for; without `mtu=`, an MTU of 1500 bytes.
    fn from(address: &TapAddress) -> Self {
        Self::default()
            .name(&address.interface)
            .host(address.host.iter().copied())
            .mac(address.station.mac)
            .mtu(address.station.mtu.unwrap_or(DEFAULT_MTU))
    }
}

/// A TAP interface, opened.
#[derive(Debug)]
pub struct TapDevice {
    file: File,
    info: DeviceInfo,
    incoming: Box<[u8]>,
    /// The frame being written, and whether the kernel has yet to take it.
    outgoing: Vec<u8>,
    outgoing_waits: bool,
    stats: DeviceStats,
}

impl TapDevice {
    /// Opens the interface, gives the kernel's end its addresses and brings it up.
    ///
    /// # Errors
    ///
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) without the privilege (`CAP_NET_ADMIN`),
    /// [`NotFound`](ErrorKind::NotFound) without `/dev/net/tun`, [`InUse`](ErrorKind::InUse) if
    /// another process has the interface, [`InvalidInput`](ErrorKind::InvalidInput) for a name or
    /// an MTU that no interface can have.
    pub fn open(config: &TapConfig) -> Result<Self> {
        let place = || format!("tap:{}", config.name);
        check(config).map_err(|error| error.at(place()))?;
        let file = open_clone_device().map_err(|error| error.at(place()))?;
        let mut request = Request::new(&config.name);
        request.set_flags(TAP_FLAGS);
        request.call(file.as_raw_fd(), libc::TUNSETIFF).map_err(|code| explain(code, &config.name))?;
        let control = Control::new(&config.name)?;
        let kernel_mac = control.mac()?;
        control.set_mtu(config.mtu)?;
        for &own in &config.host {
            control.add_address(own)?;
        }
        control.bring_up()?;
        let mac = config.mac.unwrap_or_else(|| neighbor_of(kernel_mac));
        if mac == kernel_mac {
            let reason =
                "the stack's mac must differ from that of the kernel's end; leave it out to have one chosen";
            return Err(Error::new(ErrorKind::InvalidInput, "open").at(place()).because(reason));
        }
        Ok(Self {
            file,
            info: DeviceInfo {
                name: place(),
                mac,
                mtu: config.mtu,
                checksum_offload_tx: false,
                checksum_offload_rx: false,
            },
            incoming: vec![0; config.mtu + ETHERNET_HEADER_LEN + VLAN_TAG_LEN].into_boxed_slice(),
            outgoing: Vec::with_capacity(config.mtu + ETHERNET_HEADER_LEN),
            outgoing_waits: false,
            stats: DeviceStats::default(),
        })
    }

    /// Gives the frame in `outgoing` to the kernel; whether it is gone, sent or lost.
    fn send(&mut self) -> bool {
        match self.file.write(&self.outgoing) {
            Ok(_) => {
                self.stats.tx_frames += 1;
                self.stats.tx_bytes += self.outgoing.len() as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.outgoing_waits = true;
                return false;
            }
            // The interface is down, say: as lost as on a pulled cable.
            Err(_) => self.stats.tx_dropped += 1,
        }
        self.outgoing_waits = false;
        true
    }
}

impl PacketDevice for TapDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&mut [u8])) -> Result<usize> {
        let mut received = 0;
        while received < budget {
            let len = match self.file.read(&mut self.incoming) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io(error, "receive").at(self.info.name.clone())),
            };
            received += 1;
            self.stats.rx_frames += 1;
            self.stats.rx_bytes += len as u64;
            sink(&mut self.incoming[..len]);
        }
        Ok(received)
    }

    fn transmit(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        if self.outgoing_waits && !self.send() {
            return false;
        }
        self.outgoing.clear();
        self.outgoing.resize(len, 0);
        fill(&mut self.outgoing);
        self.send();
        true
    }

    fn flush(&mut self) {
        if self.outgoing_waits {
            self.send();
        }
    }

    fn park(&mut self) -> Park {
        if self.outgoing_waits {
            Park::Nap(Duration::from_micros(100))
        } else {
            Park::Wake(self.file.as_raw_fd())
        }
    }

    fn stats(&self) -> DeviceStats {
        self.stats
    }
}

fn check(config: &TapConfig) -> Result<()> {
    let refuse = |reason: String| Err(Error::new(ErrorKind::InvalidInput, "open").because(reason));
    let name = &config.name;
    let is_plain = name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte));
    if name.is_empty() || name.len() > MAX_NAME_LEN || !is_plain || name == "." || name == ".." {
        return refuse(format!(
            "{name:?} is not an interface name; write 1 to {MAX_NAME_LEN} letters, digits, - or _, such as boson0"
        ));
    }
    if !(576..=65_521).contains(&config.mtu) {
        return refuse(format!("an MTU of {} is not within 576 and 65521", config.mtu));
    }
    Ok(())
}

fn open_clone_device() -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(CLONE_DEVICE)
        .map_err(|error| {
            let reason = match error.kind() {
                io::ErrorKind::NotFound => {
                    "there is no /dev/net/tun; load the module with: modprobe tun (in a container: start it with \
                     --device /dev/net/tun)"
                }
                io::ErrorKind::PermissionDenied => {
                    "/dev/net/tun may not be opened; run as root, or: sudo chmod 666 /dev/net/tun"
                }
                _ => return Error::io(error, "open"),
            };
            Error::io(error, "open").because(reason)
        })
}

/// Why TUNSETIFF failed, in a sentence.
fn explain(code: i32, name: &str) -> Error {
    let error = Error::os(code, "open").at(format!("tap:{name}"));
    match code {
        libc::EPERM => error.because(format!(
            "making a TAP interface needs CAP_NET_ADMIN; run as root, or once: \
             sudo ip tuntap add dev {name} mode tap user $USER && sudo ip link set dev {name} up"
        )),
        libc::EBUSY => {
            error.because(format!("the interface {name} is in use by another process; choose another name"))
        }
        libc::EINVAL => error
            .because(format!("the interface {name} exists and is not a TAP interface; choose another name")),
        _ => error,
    }
}

/// An address unlike `mac`: its last bit flipped, marked as locally administered and unicast.
fn neighbor_of(mut mac: [u8; 6]) -> [u8; 6] {
    mac[5] ^= 1;
    mac[0] = (mac[0] | 2) & !1;
    mac
}

#[expect(clippy::cast_possible_truncation, reason = "both flags lie in the low 15 bits")]
const TAP_FLAGS: i16 = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;

/// An interface request of the kernel (`struct ifreq`).
struct Request(libc::ifreq);

impl Request {
    fn new(name: &str) -> Self {
        // SAFETY: `ifreq` is a plain C structure of integers, arrays and one pointer, for all of
        // which zero is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (slot, byte) in request.ifr_name.iter_mut().take(MAX_NAME_LEN).zip(name.bytes()) {
            *slot = libc::c_char::from_ne_bytes([byte]);
        }
        Self(request)
    }

    fn set_flags(&mut self, flags: i16) {
        self.0.ifr_ifru.ifru_flags = flags;
    }

    /// Performs the request on `fd`, or gives the `errno` code.
    fn call(&mut self, fd: c_int, request: libc::Ioctl) -> Result<(), i32> {
        let argument: *mut libc::ifreq = &mut self.0;
        // SAFETY: every request this module passes (TUNSETIFF and SIOC[GS]IF*) reads and writes one
        // `ifreq` at the pointer, which is a live, exclusively borrowed one; no field in it that is
        // set points anywhere.
        let result = unsafe { libc::ioctl(fd, request, argument) };
        if result == 0 { Ok(()) } else { Err(last_code()) }
    }
}

fn last_code() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// The kernel's view of the interface, set up through a socket that is good for nothing else.
struct Control {
    socket: OwnedFd,
    name: String,
}

impl Control {
    fn new(name: &str) -> Result<Self> {
        let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)
            .map_err(|errno| Error::os(errno.raw_os_error(), "open").at(format!("tap:{name}")))?;
        Ok(Self { socket, name: name.to_owned() })
    }

    fn call(&self, request: &mut Request, number: libc::Ioctl, what: &str) -> Result<()> {
        request.call(self.socket.as_raw_fd(), number).map_err(|code| self.refused(code, what))
    }

    fn refused(&self, code: i32, what: &str) -> Error {
        let message = io::Error::from_raw_os_error(code);
        Error::os(code, "set up").at(format!("tap:{}", self.name)).because(format!("{what}: {message}"))
    }

    /// `error` with the advice to run `command` once, if a privilege is missing.
    fn advise(error: Error, command: &str) -> Error {
        if error.code() != Some(libc::EPERM) {
            return error;
        }
        error.because(format!("it needs CAP_NET_ADMIN: run as root, or once: sudo {command}"))
    }

    fn mac(&self) -> Result<[u8; 6]> {
        let mut request = Request::new(&self.name);
        self.call(&mut request, libc::SIOCGIFHWADDR, "asking for its Ethernet address")?;
        // SAFETY: a successful SIOCGIFHWADDR fills in this member of the union; all its bytes were
        // initialised before, too.
        let address = unsafe { request.0.ifr_ifru.ifru_hwaddr };
        let mut mac = [0; 6];
        for (byte, &raw) in mac.iter_mut().zip(&address.sa_data) {
            [*byte] = raw.to_ne_bytes();
        }
        Ok(mac)
    }

    /// Sets the MTU, unless it is right: an interface that was made for us needs no privilege then.
    fn set_mtu(&self, mtu: usize) -> Result<()> {
        let wanted = c_int::try_from(mtu).expect("check() bounds the MTU");
        let mut request = Request::new(&self.name);
        self.call(&mut request, libc::SIOCGIFMTU, "asking for its MTU")?;
        // SAFETY: a successful SIOCGIFMTU fills in this member of the union; all its bytes were
        // initialised before, too.
        if unsafe { request.0.ifr_ifru.ifru_mtu } == wanted {
            return Ok(());
        }
        request.0.ifr_ifru.ifru_mtu = wanted;
        self.call(&mut request, libc::SIOCSIFMTU, &format!("setting its MTU to {mtu}"))
            .map_err(|error| Self::advise(error, &format!("ip link set dev {} mtu {mtu}", self.name)))
    }

    /// Brings the interface up, unless it is.
    fn bring_up(&self) -> Result<()> {
        let mut request = Request::new(&self.name);
        self.call(&mut request, libc::SIOCGIFFLAGS, "asking for its flags")?;
        // SAFETY: a successful SIOCGIFFLAGS fills in this member of the union; all its bytes were
        // initialised before, too.
        let flags = unsafe { request.0.ifr_ifru.ifru_flags };
        if flags & IS_UP != 0 {
            return Ok(());
        }
        request.set_flags(flags | UP_FLAGS);
        self.call(&mut request, libc::SIOCSIFFLAGS, "bringing it up")
            .map_err(|error| Self::advise(error, &format!("ip link set dev {} up", self.name)))
    }

    /// Gives the kernel's end one more address, unless it has it.
    fn add_address(&self, own: IpCidr) -> Result<()> {
        let what = format!("giving its kernel end the address {own}");
        let refused = |errno: rustix::io::Errno| self.refused(errno.raw_os_error(), &what);
        let index = rustix::net::netdevice::name_to_index(&self.socket, &self.name).map_err(refused)?;
        // Without a protocol it is NETLINK_ROUTE.
        let kernel = socket(AddressFamily::NETLINK, SocketType::RAW, None).map_err(refused)?;
        send(&kernel, &new_address(index, own), SendFlags::empty()).map_err(refused)?;
        // A header, the negative code, and the header of the request.
        let mut answer = [0; 256];
        let (len, _) = recv(&kernel, &mut answer, RecvFlags::empty()).map_err(refused)?;
        let code = answer[..len].get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
        match code.map_or(libc::EPROTO, i32::saturating_neg) {
            0 | libc::EEXIST => Ok(()),
            // The maker of the interface gave it the address, too.
            libc::EPERM if UdpSocket::bind((own.address(), 0)).is_ok() => Ok(()),
            code => Err(Self::advise(
                self.refused(code, &what),
                &format!("ip address add {own} dev {}", self.name),
            )),
        }
    }
}

/// The message that asks the kernel (rtnetlink(7)) for one more address `own` on the interface of
/// that index. The older SIOCSIFADDR replaces the IPv4 address that is there.
fn new_address(index: u32, own: IpCidr) -> Vec<u8> {
    const FLAGS: c_int = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    // Nobody else is on this wire, so the kernel need not look for duplicates, which would keep an
    // IPv6 address unusable for a second.
    const NO_DUPLICATES: u8 = 2;
    let (family, octets) = match own.address() {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    };
    let small = |number: c_int| u16::try_from(number).expect("the kernel's constants here are small");
    let mut body = vec![small(family).to_le_bytes()[0], own.prefix_len(), NO_DUPLICATES, 0];
    body.extend(index.to_ne_bytes());
    for attribute in [libc::IFA_LOCAL, libc::IFA_ADDRESS] {
        let len = u16::try_from(4 + octets.len()).expect("at most 20");
        body.extend(len.to_ne_bytes());
        body.extend(attribute.to_ne_bytes());
        body.extend(&octets);
    }
    let len = u32::try_from(16 + body.len()).expect("at most 64");
    let mut message = len.to_ne_bytes().to_vec();
    message.extend(libc::RTM_NEWADDR.to_ne_bytes());
    message.extend(small(FLAGS).to_ne_bytes());
    // A running number and the sender, both of which the kernel fills in or ignores.
    message.extend([0; 8]);
    message.extend(body);
    message
}

#[expect(clippy::cast_possible_truncation, reason = "both flags lie in the low 15 bits")]
const UP_FLAGS: i16 = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
#[expect(clippy::cast_possible_truncation, reason = "it is the lowest bit")]
const IS_UP: i16 = libc::IFF_UP as i16;

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, mtu: usize) -> TapConfig {
        TapConfig::default().name(name).mtu(mtu)
    }

    #[test]
    fn names_and_mtus_that_no_interface_can_have_are_refused_before_anything_is_opened() {
        for name in ["", "a/b", "sixteen-bytes-xx", "tap 0", "tap%d", ".."] {
            let error = TapDevice::open(&config(name, 1500)).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}");
        }
        for mtu in [0, 575, 65_522] {
            assert_eq!(TapDevice::open(&config("t", mtu)).expect_err("mtu").kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn the_stack_gets_another_unicast_local_address_than_the_kernel() {
        for mac in [[0x52, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 0], [0xff; 6]] {
            let other = neighbor_of(mac);
            assert_ne!(other, mac);
            assert_eq!(other[0] & 3, 2);
        }
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        assert!(explain(libc::EPERM, "b0").to_string().contains("run as root"));
        assert!(explain(libc::EBUSY, "b0").to_string().contains("choose another name"));
        assert_eq!(explain(libc::EBUSY, "b0").kind(), ErrorKind::InUse);
    }
}
