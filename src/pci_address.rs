//! Addresses of PCI functions: NVMe controllers, network cards, and what DPDK and SPDK are told of
//! them.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind};

/// Where a function is on the PCI buses of the machine: `0000:04:00.0` is domain, bus, device and
/// function, in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// Devices on a bus, and functions of a device.
const MAX_DEVICE: u8 = 31;
const MAX_FUNCTION: u8 = 7;

/// `digits` hexadecimal digits, or as many as there are from `least` on.
fn hex(text: &str, least: usize, most: usize) -> Option<u32> {
    let well_formed = (least..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    well_formed.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

fn parse(text: &str) -> Option<PciAddress> {
    let (rest, function) = text.split_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    // A machine with one domain is often written without it.
    let (domain, bus) = rest.split_once(':').unwrap_or(("0000", rest));
    let byte = |text, most| u8::try_from(hex(text, 1, most)?).ok();
    Some(PciAddress {
        // Linux writes domains of more digits for controllers behind a volume manager.
        domain: hex(domain, 1, 8)?,
        bus: byte(bus, 2)?,
        device: byte(device, 2).filter(|device| *device <= MAX_DEVICE)?,
        function: byte(function, 1).filter(|function| *function <= MAX_FUNCTION)?,
    })
}

impl FromStr for PciAddress {
    type Err = Error;

    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) for what is no address.
    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "parse PCI address")
                .at(format!("`{}`", text.escape_debug()))
                .because(
                    "a PCI address looks like 0000:04:00.0; `boson device list` shows those of this machine",
                )
        })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_display() {
        for (text, shown) in [
            ("0000:04:00.0", "0000:04:00.0"),
            ("04:00.0", "0000:04:00.0"),
            ("10000:E1:1f.7", "10000:e1:1f.7"),
        ] {
            let address: PciAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse::<PciAddress>().expect(shown), address);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        for text in [
            "",
            ".",
            ":.",
            "04:00",
            "0000:04:00.8",
            "0000:04:20.0",
            "0000:104:00.0",
            "0000:04:00.0 ",
            "+000:04:00.0",
            "0000:0g:00.0",
            "0000:04:00.0.0",
            "a:b:c:d.0",
            "/dev/nvme0",
            "ü:ü:ü.ü",
            "123456789:04:00.0",
        ] {
            let error = text.parse::<PciAddress>().expect_err(text).to_string();
            assert!(error.contains("0000:04:00.0; "), "{text}: {error}");
        }
    }
}
