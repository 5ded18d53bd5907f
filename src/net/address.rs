//! Network addresses, as `--net` and `BOSON_NET` hold them: which network to use, and which
//! addresses to have on it.
//!
//! | address | what |
//! |---|---|
//! | `kernel:` | the kernel's sockets |
//! | `tap:NAME?ip=10.9.0.1/24&gw=…&host=10.9.0.2/24&mac=…&mtu=…` | the userspace stack on a TAP interface |
//! | `dpdk:DEVARGS?ip=…&gw=…&mac=…&mtu=…` | the userspace stack on a DPDK port |
//!
//! `ip=`, `gw=` and `host=` may be given several times, for both versions of IP. Whatever is wrong
//! with an address is said in one sentence that names the part and what to write instead.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

#[cfg(test)]
mod tests;

/// A network, as `--net` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetAddress {
    /// `kernel:`
    Kernel,
    /// `tap:…`
    Tap(TapAddress),
    /// `dpdk:…`
    Dpdk(DpdkAddress),
}

/// The userspace stack on a TAP interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapAddress {
    /// The interface's name: 1 to 15 bytes.
    pub interface: String,
    /// The addresses of the kernel's end (`host=`).
    pub host: Vec<IpCidr>,
    /// This end.
    pub station: Station,
}

/// The userspace stack on a DPDK port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpdkAddress {
    /// What DPDK calls the device: a PCI address, or a virtual device with its arguments
    /// (`net_af_packet0,iface=v0`).
    pub device: String,
    /// This end.
    pub station: Station,
}

/// A host on an Ethernet: what an address says of the end that the userspace stack is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Station {
    /// `ip=`: at least one.
    pub addresses: Vec<IpCidr>,
    /// `gw=`: at most one for each version of IP, each on a network of `addresses`.
    pub gateways: Vec<IpAddr>,
    /// `mac=`: without it, the device's own or one made for it.
    pub mac: Option<[u8; 6]>,
    /// `mtu=`: the largest IP packet in bytes; without it, the device's.
    pub mtu: Option<usize>,
}

/// What a refusal recommends: the networks of this build.
const SCHEMES: &str = if HAS_DPDK { "kernel:, tap: or dpdk:" } else { "kernel: or tap:" };
const EXAMPLES: &str = if HAS_DPDK {
    "kernel:, tap:NAME?ip=10.9.0.1/24 or dpdk:DEVARGS?ip=10.9.0.1/24"
} else {
    "kernel: or tap:NAME?ip=10.9.0.1/24"
};
const HAS_DPDK: bool = cfg!(feature = "dpdk");
const MAX_ADDRESSES: usize = 8;
const MAX_INTERFACE_NAME_LEN: usize = 15;

fn refuse(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, "parse network address").because(reason.into())
}

/// The one refusal of what an address may say in a later version: `mem:`, `xdp:`, `ip=dhcp`, and
/// more queues than one.
fn does_not_exist(what: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Unsupported, "parse network address")
        .because(format!("{what} does not exist in this version; write {EXAMPLES}"))
}

/// The one refusal of `dpdk:` in a build without it.
pub(super) fn dpdk_is_not_built_in() -> Error {
    Error::new(ErrorKind::Unsupported, "open network").because(
        "DPDK is not built in; apt-get install libdpdk-dev libclang-dev pkg-config, then build with \
         --features dpdk",
    )
}

impl FromStr for NetAddress {
    type Err = Error;

    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) for what does not parse,
    /// [`Unsupported`](ErrorKind::Unsupported) for `mem:`, `xdp:`, `ip=dhcp` and `queues=` above 1,
    /// which no version has yet, and for `dpdk:` in a build without it.
    fn from_str(text: &str) -> Result<Self> {
        parse(text, HAS_DPDK).map_err(|error| error.at(text.to_owned()))
    }
}

fn parse(text: &str, has_dpdk: bool) -> Result<NetAddress> {
    let Some((scheme, rest)) = text.split_once(':') else {
        return Err(refuse(format!("it names no kind of network; write {SCHEMES} and what belongs to it")));
    };
    let (device, query) = rest.split_once('?').unwrap_or((rest, ""));
    match scheme {
        "mem" | "xdp" => Err(does_not_exist(format!("{scheme}:"))),
        "kernel" if !rest.is_empty() => Err(refuse("nothing may follow kernel:; write just kernel:")),
        "kernel" => Ok(NetAddress::Kernel),
        "tap" => {
            let interface = interface_name(scheme, device)?;
            let parameters = Parameters::parse(query, &["ip", "gw", "mac", "mtu", "host"])?;
            let host = parameters.host.clone();
            let station = parameters.station(scheme)?;
            if let Some(own) =
                host.iter().find(|own| station.addresses.iter().any(|ours| ours.address == own.address))
            {
                return Err(refuse(format!(
                    "host={own} is also an ip=; the two ends need different addresses"
                )));
            }
            Ok(NetAddress::Tap(TapAddress { interface, host, station }))
        }
        "dpdk" if !has_dpdk => Err(dpdk_is_not_built_in()),
        "dpdk" => {
            if device.is_empty() {
                let advice = "write a PCI address (dpdk:0000:03:00.0?ip=…) or a virtual device (dpdk:net_af_packet0,iface=v0?ip=…)";
                return Err(refuse(format!("no device follows dpdk:; {advice}")));
            }
            let station = Parameters::parse(query, &["ip", "gw", "mac", "mtu", "queues"])?.station(scheme)?;
            Ok(NetAddress::Dpdk(DpdkAddress { device: device.to_owned(), station }))
        }
        _ => Err(refuse(format!("there is no network of kind {scheme}:; write {SCHEMES}"))),
    }
}

fn interface_name(scheme: &str, name: &str) -> Result<String> {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte));
    if name.is_empty() || name.len() > MAX_INTERFACE_NAME_LEN || !is_plain || name == "." || name == ".." {
        return Err(refuse(format!(
            "{name:?} is not an interface name; write 1 to {MAX_INTERFACE_NAME_LEN} letters, digits, - or _ after {scheme}:, \
             such as {scheme}:boson0"
        )));
    }
    Ok(name.to_owned())
}

/// What follows the question mark.
#[derive(Default)]
struct Parameters {
    station: Station,
    host: Vec<IpCidr>,
}

impl Parameters {
    fn parse(query: &str, known: &[&str]) -> Result<Self> {
        let mut parameters = Self::default();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let Some((key, value)) = part.split_once('=') else {
                return Err(refuse(format!(
                    "{part:?} is not of the form key=value; write such as ip=10.9.0.1/24"
                )));
            };
            if !known.contains(&key) {
                // `queues=1` is accepted, and not worth writing.
                let advice: Vec<_> = known.iter().filter(|key| **key != "queues").copied().collect();
                return Err(refuse(format!(
                    "there is no parameter {key}= here; it takes {}=",
                    advice.join("=, ")
                )));
            }
            parameters.set(key, value)?;
        }
        Ok(parameters)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "ip" if value == "dhcp" => {
                return Err(does_not_exist("ip=dhcp"));
            }
            "ip" => push(&mut self.station.addresses, key, host_address(key, value)?)?,
            "host" => push(&mut self.host, key, host_address(key, value)?)?,
            "gw" => {
                let gateway: IpAddr = value.parse().map_err(|_| {
                    refuse(format!(
                        "gw={value} is not an IP address; write such as gw=10.9.0.254, without a prefix"
                    ))
                })?;
                if self.station.gateways.iter().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
                    return Err(refuse("gw= is given twice for one version of IP; write one for each"));
                }
                self.station.gateways.push(gateway);
            }
            "mac" => set_once(&mut self.station.mac, key, mac(value)?)?,
            "mtu" => set_once(&mut self.station.mtu, key, number(key, value, 576, 65_521)?)?,
            "queues" if value == "1" => {}
            "queues" => return Err(does_not_exist(format!("queues={value}"))),
            _ => unreachable!("`parse` lets only known keys through"),
        }
        Ok(())
    }

    fn station(self, scheme: &str) -> Result<Station> {
        let station = self.station;
        if station.addresses.is_empty() {
            return Err(refuse(format!("no address is given; add ip=, such as {scheme}:…?ip=10.9.0.1/24")));
        }
        let off_link = |gateway: &&IpAddr| !station.addresses.iter().any(|own| own.contains(**gateway));
        if let Some(gateway) = station.gateways.iter().find(off_link) {
            return Err(refuse(format!(
                "gw={gateway} is on no network of the given ip=; write an address within one"
            )));
        }
        let own = |gateway: &&IpAddr| station.addresses.iter().any(|own| own.address == **gateway);
        if let Some(gateway) = station.gateways.iter().find(own) {
            return Err(refuse(format!(
                "gw={gateway} is the same as an ip=; write the address of the router"
            )));
        }
        if station.mtu.is_some_and(|mtu| mtu < 1280)
            && station.addresses.iter().any(|own| own.address.is_ipv6())
        {
            return Err(refuse(
                "mtu= is below 1280, the least that IPv6 can do with; write mtu=1280 or more",
            ));
        }
        Ok(station)
    }
}

fn push(list: &mut Vec<IpCidr>, key: &str, own: IpCidr) -> Result<()> {
    if list.len() == MAX_ADDRESSES {
        return Err(refuse(format!(
            "more than {MAX_ADDRESSES} {key}= are given; write at most {MAX_ADDRESSES}"
        )));
    }
    if list.iter().any(|other| other.address == own.address) {
        return Err(refuse(format!("{key}={own} is given twice; write it once")));
    }
    list.push(own);
    Ok(())
}

fn set_once<T>(slot: &mut Option<T>, key: &str, value: T) -> Result<()> {
    if slot.replace(value).is_some() {
        return Err(refuse(format!("{key}= is given twice; write it once")));
    }
    Ok(())
}

fn number(key: &str, value: &str, least: usize, most: usize) -> Result<usize> {
    value.parse().ok().filter(|number| (least..=most).contains(number)).ok_or_else(|| {
        refuse(format!(
            "{key}={value} is not a number from {least} to {most}; write such as {key}={}",
            least.max(1)
        ))
    })
}

fn mac(value: &str) -> Result<[u8; 6]> {
    let wrong = || {
        refuse(format!(
            "mac={value} is not the Ethernet address of one station; write such as mac=02:00:00:00:00:01"
        ))
    };
    let mut mac = [0; 6];
    let mut parts = value.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    if parts.next().is_some() || mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(wrong());
    }
    Ok(mac)
}

fn host_address(key: &str, value: &str) -> Result<IpCidr> {
    let own: IpCidr = value.parse().map_err(|_| {
        refuse(format!(
            "{key}={value} is not an address with the length of its network's prefix; write such as {key}=10.9.0.1/24"
        ))
    })?;
    if !own.is_host() {
        return Err(refuse(format!(
            "{key}={value} is not the address of one host; write one that is neither a group's nor a broadcast address"
        )));
    }
    Ok(own)
}

/// An address of this host with the length of its network's prefix: `10.9.0.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpCidr {
    address: IpAddr,
    prefix_len: u8,
}

impl IpCidr {
    /// `address` in a network of `prefix_len` leading bits; `None` if the address does not have
    /// that many bits.
    pub fn new(address: IpAddr, prefix_len: u8) -> Option<Self> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (prefix_len <= bits).then_some(Self { address, prefix_len })
    }

    /// The host's address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The number of leading bits that the network's addresses share.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// Whether `other` is in the same network.
    pub fn contains(&self, other: IpAddr) -> bool {
        let host_bits = |bits: u32| bits.saturating_sub(u32::from(self.prefix_len));
        match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(host_bits(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(host_bits(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// The network's directed broadcast address, if it has one: IPv4 with a prefix of at most 30
    /// bits.
    pub fn broadcast(&self) -> Option<IpAddr> {
        match self.address {
            IpAddr::V4(own) if self.prefix_len <= 30 => {
                let host_mask = u32::MAX.checked_shr(u32::from(self.prefix_len)).unwrap_or(0);
                Some(Ipv4Addr::from_bits(own.to_bits() | host_mask).into())
            }
            _ => None,
        }
    }
}

impl IpCidr {
    /// Whether the address can be that of one host on an Ethernet.
    pub fn is_host(&self) -> bool {
        let is_unicast = match self.address {
            IpAddr::V4(v4) => {
                !v4.is_unspecified() && !v4.is_broadcast() && !v4.is_multicast() && !v4.is_loopback()
            }
            IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast() && !v6.is_loopback(),
        };
        is_unicast && self.broadcast() != Some(self.address)
    }
}

impl FromStr for IpCidr {
    type Err = Error;

    /// Parses `ADDRESS/PREFIX_LEN`.
    fn from_str(text: &str) -> Result<Self> {
        let parsed = text
            .split_once('/')
            .and_then(|(address, prefix_len)| IpCidr::new(address.parse().ok()?, prefix_len.parse().ok()?));
        parsed.ok_or_else(|| {
            refuse(format!("{text} is not an address with a prefix; write such as 10.9.0.1/24"))
        })
    }
}

impl fmt::Display for IpCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}
