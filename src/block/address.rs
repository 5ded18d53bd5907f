//! Addresses of namespaces, as the command line and configurations give them.

mod spdk;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::pci_address::PciAddress;

pub use spdk::SpdkAddress;

/// Where a namespace is. Parsed from, and displayed as, `mem:SIZE`, `file:PATH?size=SIZE`,
/// `blk:/dev/NAME`, `ng:/dev/ngXnY`, `nvme:BDF/NSID`, or `spdk:` and what [`SpdkAddress`] lists.
///
/// `?fua=off` behind one of the last four says that the device is not to be trusted with writes
/// that are forced to the medium (forced unit access): a [`write_durable`] is then a write and a
/// flush. Some drives and emulators acknowledge a forced write before it is durable.
///
/// [`write_durable`]: super::Namespace::write_durable
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NamespaceAddress {
    /// Memory of this process, of this many bytes; gone when it ends.
    Memory {
        /// The size in bytes.
        size_bytes: u64,
    },
    /// A file. Grows as needed without a size.
    File {
        /// Where it is; made if it does not exist.
        path: PathBuf,
        /// Its fixed size in bytes.
        size_bytes: Option<u64>,
    },
    /// A block device.
    Block {
        /// The device's node.
        path: PathBuf,
        /// Whether writes may be forced to the medium; false for `?fua=off`.
        fua: bool,
    },
    /// An NVMe namespace by the kernel's driver, without the block layer.
    NvmeGeneric {
        /// The namespace's generic device, such as `/dev/ng0n1`.
        path: PathBuf,
        /// Whether writes may be forced to the medium; false for `?fua=off`.
        fua: bool,
    },
    /// A namespace of an NVMe controller that this process drives.
    Nvme {
        /// The controller's PCI address, such as `0000:04:00.0`.
        controller: String,
        /// The namespace's number.
        namespace: u32,
        /// Whether writes may be forced to the medium; false for `?fua=off`.
        fua: bool,
    },
    /// A device of SPDK.
    Spdk(SpdkAddress),
}

/// What a refusal recommends.
const FORMS: &str = if HAS_SPDK {
    "mem:SIZE, file:PATH, blk:/dev/NAME, ng:/dev/ng0n1, nvme:BDF/NSID or spdk:pcie/BDF/NSID"
} else {
    "mem:SIZE, file:PATH, blk:/dev/NAME, ng:/dev/ng0n1 or nvme:BDF/NSID"
};
const HAS_SPDK: bool = cfg!(feature = "spdk");

fn invalid(address: &str, detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, "parse namespace address")
        .at(format!("`{address}`"))
        .because(detail.into())
}

impl FromStr for NamespaceAddress {
    type Err = Error;

    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) for what does not parse and
    /// [`Unsupported`](ErrorKind::Unsupported) for `spdk:` in a build without it, each with one
    /// sentence that says what to write instead.
    fn from_str(address: &str) -> Result<Self> {
        let Some((scheme, rest)) = address.split_once(':') else {
            return Err(invalid(address, format!("it names no kind of namespace; write {FORMS}")));
        };
        match scheme {
            "mem" => {
                let size_bytes = parse_size(rest)
                    .ok_or_else(|| invalid(address, "after mem: comes a size such as 64M or 2G"))?;
                Ok(Self::Memory { size_bytes })
            }
            "file" => parse_file(address, rest),
            "blk" if rest.starts_with('/') => {
                let (path, fua) = split_fua("blk:", rest).map_err(|why| invalid(address, why))?;
                Ok(Self::Block { path: path.into(), fua })
            }
            "blk" => {
                Err(invalid(address, "after blk: comes the path of a block device such as /dev/nvme0n1"))
            }
            "nvme" => parse_nvme(address, rest),
            "ng" if rest.starts_with('/') => {
                let (path, fua) = split_fua("ng:", rest).map_err(|why| invalid(address, why))?;
                Ok(Self::NvmeGeneric { path: path.into(), fua })
            }
            "ng" => Err(invalid(
                address,
                "after ng: comes the path of an NVMe namespace's generic device such as /dev/ng0n1",
            )),
            "spdk" => {
                let spdk = SpdkAddress::parse(rest).map_err(|why| invalid(address, why))?;
                if HAS_SPDK {
                    Ok(Self::Spdk(spdk))
                } else {
                    Err(spdk_is_not_built_in().at(format!("`{address}`")))
                }
            }
            _ => Err(invalid(address, format!("there is no namespace of kind {scheme}:; write {FORMS}"))),
        }
    }
}

fn parse_nvme(address: &str, rest: &str) -> Result<NamespaceAddress> {
    let form = "after nvme: comes the PCI address of a controller and the number of a namespace, such as \
                0000:04:00.0/1; `boson device list` shows them";
    let (controller, number) = rest.split_once('/').ok_or_else(|| invalid(address, form))?;
    let (number, fua) = split_fua("nvme:", number).map_err(|why| invalid(address, why))?;
    let namespace = number.parse().ok().filter(|&number| number > 0);
    match (controller.parse::<PciAddress>(), namespace) {
        (Ok(controller), Some(namespace)) => {
            Ok(NamespaceAddress::Nvme { controller: controller.to_string(), namespace, fua })
        }
        _ => Err(invalid(address, form)),
    }
}

/// The one refusal of `spdk:` in a build without it.
pub(super) fn spdk_is_not_built_in() -> Error {
    Error::new(ErrorKind::Unsupported, "open namespace").because(
        "SPDK is not built in: docs/spdk.md says how to get it, then build with --features spdk; or write \
         blk:/dev/NAME for a raw device",
    )
}

fn parse_file(address: &str, rest: &str) -> Result<NamespaceAddress> {
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    if path.is_empty() {
        return Err(invalid(address, "after file: comes a path"));
    }
    let mut size_bytes = None;
    for option in query.into_iter().flat_map(|query| query.split('&')) {
        match option.split_once('=') {
            Some(("size", size)) => {
                let size = parse_size(size).ok_or_else(|| {
                    invalid(address, format!("`{size}` is no size; write one such as 64M or 2G"))
                })?;
                size_bytes = Some(size);
            }
            _ => return Err(invalid(address, format!("`{option}` is no option; file: knows size=SIZE"))),
        }
    }
    Ok(NamespaceAddress::File { path: path.into(), size_bytes })
}

/// Takes the options of a device off the end of its address, and says whether writes to it may be
/// forced to the medium. `Err` says what is wrong.
fn split_fua<'a>(scheme: &str, rest: &'a str) -> Result<(&'a str, bool), String> {
    let Some((device, query)) = rest.split_once('?') else { return Ok((rest, true)) };
    let mut fua = true;
    for option in query.split('&') {
        match option.split_once('=') {
            Some(("fua", "on")) => fua = true,
            Some(("fua", "off")) => fua = false,
            Some(("fua", value)) => return Err(format!("fua= is on or off, not `{value}`")),
            _ => return Err(format!("`{option}` is no option; {scheme} knows fua=off")),
        }
    }
    Ok((device, fua))
}

/// What an address shows of its options: those that are not as usual.
fn shown_fua(fua: bool) -> &'static str {
    if fua { "" } else { "?fua=off" }
}

/// Parses a number of bytes with an optional binary suffix: `4096`, `64K`, `16M`, `2G`, `1T`, also
/// with `B` or `iB` after it.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, suffix) = text.split_at(digits);
    let shift = match suffix {
        "" | "B" => 0,
        "K" | "k" | "KB" | "kB" | "KiB" | "kiB" => 10,
        "M" | "m" | "MB" | "mB" | "MiB" | "miB" => 20,
        "G" | "g" | "GB" | "gB" | "GiB" | "giB" => 30,
        "T" | "t" | "TB" | "tB" | "TiB" | "tiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

impl fmt::Display for NamespaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { size_bytes } => write!(f, "mem:{size_bytes}"),
            Self::File { path, size_bytes: None } => write!(f, "file:{}", path.display()),
            Self::File { path, size_bytes: Some(size) } => write!(f, "file:{}?size={size}", path.display()),
            Self::Block { path, fua } => write!(f, "blk:{}{}", path.display(), shown_fua(*fua)),
            Self::Nvme { controller, namespace, fua } => {
                write!(f, "nvme:{controller}/{namespace}{}", shown_fua(*fua))
            }
            Self::NvmeGeneric { path, fua } => write!(f, "ng:{}{}", path.display(), shown_fua(*fua)),
            Self::Spdk(spdk) => spdk.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_display() {
        for (text, shown) in [
            ("mem:64M", "mem:67108864"),
            ("file:boson.data", "file:boson.data"),
            ("file:/a/b:c?size=2G", "file:/a/b:c?size=2147483648"),
            ("blk:/dev/loop0", "blk:/dev/loop0"),
            ("nvme:0000:04:00.0/1", "nvme:0000:04:00.0/1"),
            ("nvme:E1:00.0/1", "nvme:0000:e1:00.0/1"),
            ("nvme:0000:C4:00.0/12", "nvme:0000:c4:00.0/12"),
            ("ng:/dev/ng0n1", "ng:/dev/ng0n1"),
            ("blk:/dev/loop0?fua=off", "blk:/dev/loop0?fua=off"),
            ("nvme:04:00.0/1?fua=off", "nvme:0000:04:00.0/1?fua=off"),
            ("ng:/dev/ng0n1?fua=off", "ng:/dev/ng0n1?fua=off"),
            ("ng:/dev/ng0n1?fua=on", "ng:/dev/ng0n1"),
        ] {
            let address: NamespaceAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse::<NamespaceAddress>().expect(shown), address);
        }
    }

    #[test]
    fn bad_addresses_say_what_to_write() {
        for (text, part) in [
            ("boson.data", "file:PATH"),
            ("mem:", "a size such as"),
            ("mem:12X", "a size such as"),
            ("mem:1iB", "a size such as"),
            ("mem:1KBB", "a size such as"),
            ("mem:1KiBiB", "a size such as"),
            ("mem:99999999999T", "a size such as"),
            ("file:", "comes a path"),
            ("file:x?size=big", "`big` is no size"),
            ("file:x?direct=1", "`direct=1` is no option"),
            ("blk:sda", "the path of a block device"),
            ("ng:nvme0", "generic device such as /dev/ng0n1"),
            ("nvme:0000:04:00.0", "the number of a namespace"),
            ("nvme:0000:04:00.0/0", "the number of a namespace"),
            ("nvme:04:00/1", "the PCI address of a controller"),
            ("nvme:0000.04.00:0/1", "the PCI address of a controller"),
            ("nvme:0000:04:00.0/1/2", "the number of a namespace"),
            ("blk:/dev/loop0?fua=no", "fua= is on or off, not `no`"),
            ("ng:/dev/ng0n1?fua", "`fua` is no option; ng: knows fua=off"),
            ("nvme:0000:04:00.0/1?size=1G", "`size=1G` is no option; nvme: knows fua=off"),
            ("nvme:0000:04:00.0/1?", "`` is no option"),
            ("spdk:pcie/04:00.0/1?fua=", "fua= is on or off"),
            ("file:x?fua=off", "`fua=off` is no option; file: knows size=SIZE"),
            ("spdk:pcie/x/1", "no PCI address"),
            ("disk:/dev/sda", "no namespace of kind disk:"),
        ] {
            let error = text.parse::<NamespaceAddress>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn no_refusal_recommends_an_address_that_is_refused() {
        for text in ["boson.data", "disk:/dev/sda"] {
            let refusal = text.parse::<NamespaceAddress>().expect_err(text).to_string();
            let (_, advice) = refusal.split_once("; write ").expect("it says what to write");
            let advice = advice.replace("SIZE", "1G").replace("BDF/NSID", "0000:04:00.0/1");
            let forms = advice.split([' ', ',']).filter(|word| word.contains(':'));
            for address in forms.clone() {
                address.parse::<NamespaceAddress>().unwrap_or_else(|error| panic!("{refusal}: {error}"));
            }
            assert!(forms.count() > 0, "{refusal}");
        }
    }
}
