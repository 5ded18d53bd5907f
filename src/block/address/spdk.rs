//! Addresses of SPDK's devices.

use std::fmt;
use std::net::SocketAddr;

use super::{shown_fua, split_fua};
use crate::pci_address::PciAddress;

/// A namespace through SPDK, as `spdk:` names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SpdkAddress {
    /// `spdk:pcie/BDF/NSID`: a namespace of a controller on the bus.
    Pcie {
        /// The PCI address with its domain, such as `0000:04:00.0`.
        address: String,
        /// The namespace, from 1.
        nsid: u32,
        /// Whether writes may be forced to the medium; false for `?fua=off`.
        fua: bool,
    },
    /// `spdk:tcp/IP:PORT/NQN/NSID`: a namespace of a subsystem of an NVMe over TCP target.
    Tcp {
        /// Where the target listens.
        address: SocketAddr,
        /// The subsystem's qualified name.
        nqn: String,
        /// The namespace, from 1.
        nsid: u32,
        /// Whether writes may be forced to the medium; false for `?fua=off`.
        fua: bool,
    },
    /// `spdk:bdev/NAME`: a block device that SPDK's configuration makes. None of its writes are
    /// forced.
    Bdev {
        /// Its name in the configuration.
        name: String,
    },
}

/// What a refusal recommends.
pub(super) const FORMS: &str = "spdk:pcie/BDF/NSID, spdk:tcp/IP:PORT/NQN/NSID or spdk:bdev/NAME";

/// An NQN has at most 223 bytes (NVMe Base 2.0c, 4.5).
const MAX_NQN_BYTES: usize = 223;

impl SpdkAddress {
    /// Parses what follows `spdk:`; `Err` says what is wrong.
    pub(super) fn parse(rest: &str) -> Result<Self, String> {
        let (kind, rest) = rest.split_once('/').ok_or_else(|| format!("after spdk: comes {FORMS}"))?;
        match kind {
            "pcie" => {
                let (address, nsid) =
                    rest.split_once('/').ok_or("after spdk:pcie/ comes BDF/NSID such as 0000:04:00.0/1")?;
                let address: PciAddress = address
                    .parse()
                    .map_err(|_| format!("`{address}` is no PCI address such as 0000:04:00.0"))?;
                let (nsid, fua) = split_fua("spdk:pcie/", nsid)?;
                Ok(Self::Pcie { address: address.to_string(), nsid: namespace(nsid)?, fua })
            }
            "tcp" => {
                let mut parts = rest.splitn(2, '/');
                let address = parts.next().unwrap_or_default();
                let address = address
                    .parse()
                    .map_err(|_| format!("`{address}` is no address of a target such as 10.0.0.5:4420"))?;
                let (nqn, nsid) = parts.next().and_then(|rest| rest.rsplit_once('/')).ok_or(
                    "after the target's address come the subsystem's NQN and the namespace: /NQN/NSID",
                )?;
                let is_name = nqn.len() <= MAX_NQN_BYTES
                    && nqn.starts_with("nqn.")
                    && !nqn.contains(|c: char| c.is_whitespace() || c.is_control());
                if !is_name {
                    return Err(format!("`{nqn}` is no NQN such as nqn.2016-06.io.spdk:cnode1"));
                }
                let (nsid, fua) = split_fua("spdk:tcp/", nsid)?;
                Ok(Self::Tcp { address, nqn: nqn.to_owned(), nsid: namespace(nsid)?, fua })
            }
            "bdev" if !rest.is_empty() && !rest.contains(char::is_control) => {
                Ok(Self::Bdev { name: rest.to_owned() })
            }
            "bdev" => Err("after spdk:bdev/ comes the name of a device in SPDK's configuration".to_owned()),
            _ => Err(format!("SPDK has no transport {kind} here; write {FORMS}")),
        }
    }
}

fn namespace(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(nsid @ 1..=0xffff_fffe) => Ok(nsid),
        _ => Err(format!("`{text}` is no namespace: they are numbered from 1")),
    }
}

impl fmt::Display for SpdkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pcie { address, nsid, fua } => {
                write!(f, "spdk:pcie/{address}/{nsid}{}", shown_fua(*fua))
            }
            Self::Tcp { address, nqn, nsid, fua } => {
                write!(f, "spdk:tcp/{address}/{nqn}/{nsid}{}", shown_fua(*fua))
            }
            Self::Bdev { name } => write!(f, "spdk:bdev/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SpdkAddress;

    #[test]
    fn what_parses_displays_as_it_was_written() {
        for text in [
            "pcie/0000:04:00.0/1",
            "tcp/127.0.0.1:4420/nqn.2016-06.io.spdk:cnode1/2",
            "tcp/[::1]:4420/nqn.2014-08.org.nvmexpress:uuid:a/b/7",
            "pcie/0000:04:00.0/1?fua=off",
            "tcp/127.0.0.1:4420/nqn.2016-06.io.spdk:cnode1/2?fua=off",
            "bdev/Nvme0n1",
            "bdev/lvs/lvol0",
        ] {
            let address = SpdkAddress::parse(text).expect(text);
            assert_eq!(address.to_string(), format!("spdk:{text}"));
        }
        let short = SpdkAddress::parse("pcie/AF:1f.7/3").expect("without the domain");
        assert_eq!(short.to_string(), "spdk:pcie/0000:af:1f.7/3");
    }

    #[test]
    fn what_does_not_parse_says_what_to_write() {
        for (text, part) in [
            ("", "after spdk: comes"),
            ("rdma/x", "no transport rdma"),
            ("pcie/0000:04:00.0", "comes BDF/NSID"),
            ("pcie/04:00.8/1", "no PCI address"),
            ("pcie/04:00.0/0", "numbered from 1"),
            ("pcie/04:00.0/4294967295", "numbered from 1"),
            ("tcp/localhost:1/nqn.x/1", "no address of a target"),
            ("tcp/127.0.0.1:4420", "come the subsystem's NQN"),
            ("tcp/127.0.0.1:4420/cnode1/1", "no NQN"),
            ("tcp/127.0.0.1:4420/nqn.a b/1", "no NQN"),
            ("pcie/04:00.0/1?fua=0", "fua= is on or off, not `0`"),
            ("tcp/127.0.0.1:4420/nqn.a/1?x=1", "`x=1` is no option; spdk:tcp/ knows fua=off"),
            ("bdev/", "the name of a device"),
        ] {
            let error = SpdkAddress::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
