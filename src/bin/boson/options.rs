//! Flags that several commands share.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use boson::net::address::NetAddress;
use clap::Args;

/// Where and how a server listens.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServerOptions {
    /// Listen here; may be given several times.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Vec<SocketAddr>,
    /// The network: `kernel:`, `tap:NAME?ip=10.9.0.1/24&host=10.9.0.2/24` or
    /// `dpdk:DEVARGS?ip=10.9.0.1/24&gw=10.9.0.2`.
    #[arg(long, value_name = "URL", default_value = "kernel:")]
    pub(crate) net: Spelled<NetAddress>,
    /// Run on these CPUs, one core each, such as `0` or `0,2-3`. Without it one core that is not
    /// pinned.
    #[arg(long, value_name = "LIST")]
    pub(crate) cores: Option<CoreList>,
    /// Refuse more connections than this.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) max_connections: usize,
    /// Answer `boson top` on this Unix socket; `none` for not at all. Without it on one in
    /// $XDG_RUNTIME_DIR/boson (or /run/boson for root), where `boson top` looks.
    #[arg(long, value_name = "PATH")]
    pub(crate) inspect: Option<PathBuf>,
    /// Arguments for DPDK's environment, such as `-m 256 --no-huge`.
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub(crate) eal: Option<String>,
    /// Read settings from this TOML file; its keys are these flags. Flags win.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl ServerOptions {
    /// Where to listen: what was given, or else `default`.
    pub(crate) fn listen_or(&self, default: SocketAddr) -> Vec<SocketAddr> {
        if self.listen.is_empty() { vec![default] } else { self.listen.clone() }
    }
}

/// A parsed argument that is shown the way it was written.
#[derive(Clone, Debug)]
pub(crate) struct Spelled<T> {
    text: String,
    pub(crate) value: T,
}

impl<T: FromStr> FromStr for Spelled<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        Ok(Self { text: text.to_owned(), value: text.parse()? })
    }
}

impl<T> fmt::Display for Spelled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// CPUs by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CoreList(pub(crate) Vec<usize>);

impl FromStr for CoreList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const MAX_CPUS: usize = 1024;
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else {
                return Err(format!("`{part}` is neither a CPU's number nor a range such as 2-3"));
            };
            if first > last || last >= MAX_CPUS {
                return Err(format!("`{part}` is no range of CPUs below {MAX_CPUS}"));
            }
            cpus.extend(first..=last);
        }
        let mut seen = cpus.clone();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() < cpus.len() {
            return Err("a CPU is named twice".to_owned());
        }
        Ok(Self(cpus))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists_parse() {
        assert_eq!("0".parse(), Ok(CoreList(vec![0])));
        assert_eq!("4,0-2".parse(), Ok(CoreList(vec![4, 0, 1, 2])));
        for bad in ["", "a", "3-1", "1,", "0-99999999", "1,0-2"] {
            assert!(bad.parse::<CoreList>().is_err(), "{bad}");
        }
    }
}
