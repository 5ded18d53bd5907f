//! What a port is called, and why it cannot be found.

use std::ffi::CString;
use std::fs;

use crate::error::{Error, ErrorKind, Result};
use crate::pci_address::PciAddress;

/// `RTE_DEV_NAME_MAX_LEN`, of which one byte is the terminator.
const MAX_NAME_BYTES: usize = 63;

/// What a driver of the kernel's interfaces may not be without (capabilities(7)).
struct Right {
    driver: &'static str,
    name: &'static str,
    bit: u32,
}

const RIGHTS: [Right; 4] = [
    Right { driver: "net_af_packet", name: "cap_net_raw", bit: 13 },
    Right { driver: "eth_af_packet", name: "cap_net_raw", bit: 13 },
    Right { driver: "net_af_xdp", name: "cap_net_admin", bit: 12 },
    Right { driver: "net_tap", name: "cap_net_admin", bit: 12 },
];

/// A device in DPDK's notation: a name, and after a comma the driver's arguments.
#[derive(Debug)]
pub(super) struct Devargs {
    text: String,
    name: String,
    is_pci: bool,
}

impl Devargs {
    /// Takes `0000:03:00.0`, `03:00.0` or a virtual device's name, each with or without arguments.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let invalid = |why: &str| {
            Error::new(ErrorKind::InvalidInput, "open DPDK port").at(text.to_owned()).because(why.to_owned())
        };
        let (name, arguments) = match text.split_once(',') {
            Some((name, arguments)) => (name, Some(arguments)),
            None => (text, None),
        };
        if text.contains('\0') {
            return Err(invalid("a NUL byte cannot be part of a device's name"));
        }
        let address = name.parse::<PciAddress>().ok().map(|address| address.to_string());
        let is_pci = address.is_some();
        let name = address.unwrap_or_else(|| name.to_owned());
        if name.is_empty() {
            return Err(invalid(
                "name a PCI address (0000:03:00.0) or a virtual device (net_af_packet0,iface=eth0)",
            ));
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(invalid("a device's name has at most 63 bytes"));
        }
        let text = match arguments {
            Some(arguments) => format!("{name},{arguments}"),
            None => name.clone(),
        };
        Ok(Self { text, name, is_pci })
    }

    /// The whole text, with the PCI domain written out.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The name that DPDK gives the port.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_pci(&self) -> bool {
        self.is_pci
    }

    pub(super) fn text_for_c(&self) -> CString {
        CString::new(self.text.as_str()).unwrap_or_default()
    }

    pub(super) fn name_for_c(&self) -> CString {
        CString::new(self.name.as_str()).unwrap_or_default()
    }

    /// The error for a device that is not there or not ours to use, if that is so: better words
    /// than the driver's, and before it tries.
    pub(super) fn check_presence(&self) -> Result<()> {
        let absent = |why: String| {
            Err(Error::new(ErrorKind::NotFound, "open DPDK port").at(self.text.clone()).because(why))
        };
        if self.is_pci {
            if !fs::exists(format!("/sys/bus/pci/devices/{}", self.name)).unwrap_or(true) {
                return absent(format!("there is no such PCI device; {}", describe_cards(&network_cards())));
            }
        } else if let Some(interface) = self.kernel_interface() {
            let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
            let names = interface_names(&table);
            if !names.is_empty() && !names.contains(&interface) {
                return absent(format!(
                    "this network namespace has no interface {interface}; it has {}",
                    names.join(", ")
                ));
            }
        }
        Ok(())
    }

    /// The capability that the driver needs and the calling thread lacks, if it is known to.
    pub(super) fn missing_right(&self) -> Option<&'static str> {
        let needed = RIGHTS.iter().find(|right| self.name.starts_with(right.driver))?;
        let status = fs::read_to_string("/proc/thread-self/status").ok()?;
        let effective = effective_capabilities(&status)?;
        (effective & (1 << needed.bit) == 0).then_some(needed.name)
    }

    /// The interface of the kernel that the device stands on; it must exist before.
    fn kernel_interface(&self) -> Option<&str> {
        let drivers = ["net_af_packet", "eth_af_packet", "net_af_xdp"];
        if !drivers.iter().any(|driver| self.name.starts_with(driver)) {
            return None;
        }
        self.text.split(',').find_map(|argument| argument.strip_prefix("iface="))
    }
}

/// The line `CapEff` of `/proc/PID/status`.
fn effective_capabilities(status: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

/// The interfaces in `/proc/net/dev`: two lines of headings, then `NAME: counters`.
fn interface_names(table: &str) -> Vec<&str> {
    table.lines().skip(2).filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect()
}

/// The PCI devices of class 2 (network controllers) with the driver that each is bound to.
fn network_cards() -> Vec<(String, Option<String>)> {
    let Ok(devices) = fs::read_dir("/sys/bus/pci/devices") else { return Vec::new() };
    let mut cards: Vec<_> = devices
        .flatten()
        .filter(|device| {
            fs::read_to_string(device.path().join("class")).is_ok_and(|class| class.starts_with("0x02"))
        })
        .map(|device| {
            let driver = fs::read_link(device.path().join("driver"))
                .ok()
                .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
            (device.file_name().to_string_lossy().into_owned(), driver)
        })
        .collect();
    cards.sort();
    cards
}

fn describe_cards(cards: &[(String, Option<String>)]) -> String {
    if cards.is_empty() {
        return "this machine has no network card on a PCI bus".to_owned();
    }
    let list: Vec<_> = cards
        .iter()
        .map(|(address, driver)| format!("{address} (driver {})", driver.as_deref().unwrap_or("none")))
        .collect();
    format!("network cards here: {}", list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pci_address_gets_its_domain_and_keeps_its_arguments() {
        for (text, name, whole) in [
            ("03:00.0", "0000:03:00.0", "0000:03:00.0"),
            ("0000:AF:1f.7,dv_flow_en=0", "0000:af:1f.7", "0000:af:1f.7,dv_flow_en=0"),
        ] {
            let devargs = Devargs::parse(text).expect("valid");
            assert!(devargs.is_pci());
            assert_eq!((devargs.name(), devargs.text()), (name, whole));
        }
    }

    #[test]
    fn everything_else_is_a_virtual_device() {
        for text in
            ["net_ring0", "net_af_packet0,iface=v0", "03:00.8", "1:2:3:4.0", "net_pcap0,iface=a.b:00.0"]
        {
            assert!(!Devargs::parse(text).expect("valid").is_pci(), "{text}");
        }
    }

    #[test]
    fn names_that_dpdk_would_cut_or_misread_are_refused() {
        for text in ["", ",iface=v0", "net_ring\0", &"x".repeat(64)] {
            assert_eq!(
                Devargs::parse(text).expect_err("refused").kind(),
                ErrorKind::InvalidInput,
                "{text:?}"
            );
        }
    }

    #[test]
    fn an_absent_device_is_named_with_what_is_there_instead() {
        let error = Devargs::parse("net_af_packet0,iface=nosuch0")
            .expect("valid")
            .check_presence()
            .expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let text = error.to_string();
        assert!(text.contains("no interface nosuch0; it has") && text.contains("lo"), "{text}");

        let error = Devargs::parse("ffff:ff:1f.7").expect("valid").check_presence().expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("no such PCI device"), "{error}");
    }

    #[test]
    fn capabilities_are_read_from_the_threads_status() {
        let status = "Name:\tboson\nCapPrm:\t0\nCapEff:\t0000000000002000\nCapBnd:\t000001ffffffffff\n";
        assert_eq!(effective_capabilities(status), Some(1 << 13));
        assert_eq!(effective_capabilities("Name:\tboson\n"), None);
        assert_eq!(Devargs::parse("net_ring0").expect("valid").missing_right(), None);
    }

    #[test]
    fn cards_are_listed_with_their_drivers() {
        let cards =
            [("0000:03:00.0".to_owned(), Some("ixgbe".to_owned())), ("0000:04:00.0".to_owned(), None)];
        assert_eq!(
            describe_cards(&cards),
            "network cards here: 0000:03:00.0 (driver ixgbe), 0000:04:00.0 (driver none)"
        );
    }
}
