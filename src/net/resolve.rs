//! How what a program writes becomes socket addresses. Only host names are looked up.

use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, ToSocketAddrs as StdToSocketAddrs,
};

use crate::error::{Error, ErrorKind, Result};
use crate::rt;

/// What a socket can be bound or connected to: what [`std::net::ToSocketAddrs`] is implemented for.
///
/// A numeric address is taken as it is. The system's resolver looks up a host name, on a thread for
/// blocking calls ([`rt::offload`](crate::rt::offload())), also for a network that is not the
/// kernel's. Of several addresses the first that can be had is used.
///
/// This trait is sealed: types outside of boson cannot implement it.
pub trait ToSocketAddrs: sealed::ToTarget {}

impl<T: sealed::ToTarget + ?Sized> ToSocketAddrs for T {}

mod sealed {
    use std::net::SocketAddr;

    use crate::error::Result;

    /// What a caller wants to reach.
    #[derive(Debug)]
    pub enum Target {
        /// A numeric address.
        Address(SocketAddr),
        /// Numeric addresses.
        Addresses(Vec<SocketAddr>),
        /// A host name and a port.
        Name(String, u16),
    }

    /// What names a target.
    pub trait ToTarget {
        fn to_target(&self) -> Result<Target>;
    }
}

use sealed::{Target, ToTarget};

macro_rules! numeric {
    ($($address:ty),*) => {$(
        impl ToTarget for $address {
            fn to_target(&self) -> Result<Target> {
                Ok(Target::Address(SocketAddr::from(*self)))
            }
        }
    )*};
}

numeric! { SocketAddr, SocketAddrV4, SocketAddrV6, (IpAddr, u16), (Ipv4Addr, u16), (Ipv6Addr, u16) }

impl ToTarget for [SocketAddr] {
    fn to_target(&self) -> Result<Target> {
        Ok(Target::Addresses(self.to_vec()))
    }
}

impl<T: ToTarget + ?Sized> ToTarget for &T {
    fn to_target(&self) -> Result<Target> {
        T::to_target(self)
    }
}

impl ToTarget for (&str, u16) {
    fn to_target(&self) -> Result<Target> {
        let (host, port) = *self;
        Ok(match host.parse::<IpAddr>() {
            Ok(address) => Target::Address(SocketAddr::new(address, port)),
            Err(_) => Target::Name(host.to_owned(), port),
        })
    }
}

impl ToTarget for (String, u16) {
    fn to_target(&self) -> Result<Target> {
        (self.0.as_str(), self.1).to_target()
    }
}

impl ToTarget for str {
    fn to_target(&self) -> Result<Target> {
        if let Ok(address) = self.parse() {
            return Ok(Target::Address(address));
        }
        let host_and_port =
            self.rsplit_once(':').and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
        match host_and_port {
            Some((host, port)) if !host.is_empty() => Ok(Target::Name(host, port)),
            _ => Err(Error::new(ErrorKind::InvalidInput, "parse socket address")
                .at(self.to_owned())
                .because("it is not of the form HOST:PORT; write such as 127.0.0.1:7000")),
        }
    }
}

impl ToTarget for String {
    fn to_target(&self) -> Result<Target> {
        self.as_str().to_target()
    }
}

/// Tries each of `addresses` in turn until `attempt` succeeds with one. The last error is the
/// result.
pub(super) async fn try_each<T>(
    addresses: impl ToSocketAddrs,
    mut attempt: impl AsyncFnMut(SocketAddr) -> Result<T>,
) -> Result<T> {
    let addresses = match addresses.to_target()? {
        Target::Address(address) => return attempt(address).await,
        Target::Addresses(addresses) => addresses,
        Target::Name(host, port) => look_up(host, port).await?,
    };
    let mut last = Error::new(ErrorKind::InvalidInput, "find a socket address").because("there is none");
    for address in addresses {
        match attempt(address).await {
            Ok(done) => return Ok(done),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Asks the system's resolver, which blocks.
async fn look_up(host: String, port: u16) -> Result<Vec<SocketAddr>> {
    let place = host.clone();
    let found = rt::offload("look up", move || (host.as_str(), port).to_socket_addrs()).await?;
    match found {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) => Err(Error::io(error, "look up").at(place)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numeric_addresses_are_not_looked_up() {
        let expected: SocketAddr = "127.0.0.1:7".parse().expect("valid");
        let named: [&dyn ToTarget; 6] = [
            &"127.0.0.1:7",
            &"127.0.0.1:7".to_owned(),
            &("127.0.0.1", 7),
            &(Ipv4Addr::LOCALHOST, 7),
            &expected,
            &&expected,
        ];
        for target in named {
            match target.to_target().expect("valid") {
                Target::Address(address) => assert_eq!(address, expected),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(("::1", 7).to_target(), Ok(Target::Address(address)) if address.is_ipv6()));
        assert!(matches!("[::1]:7".to_target(), Ok(Target::Address(address)) if address.is_ipv6()));
    }

    #[test]
    fn host_names_are_told_from_what_is_no_address() {
        assert!(matches!("localhost:80".to_target(), Ok(Target::Name(host, 80)) if host == "localhost"));
        for bad in ["", "localhost", ":80", "localhost:", "localhost:65536", "localhost:http"] {
            let error = bad.to_target().expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(error.to_string().contains("HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn the_first_address_that_works_is_used_and_the_last_error_is_kept() {
        let addresses = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        rt::run(async {
            let mut tried = Vec::new();
            let port = try_each(&addresses[..], async |address: SocketAddr| {
                tried.push(address.port());
                if address.port() == 2 { Ok(2) } else { Err(Error::os(libc::ECONNREFUSED, "connect")) }
            })
            .await;
            assert_eq!((port.expect("the second works"), tried), (2, vec![1, 2]));

            let failed = try_each(&addresses[..], async |address: SocketAddr| {
                Err::<(), _>(Error::os(libc::ECONNREFUSED, "connect").at(address.to_string()))
            });
            assert_eq!(failed.await.expect_err("all fail").place(), Some("127.0.0.1:3"));

            let none: &[SocketAddr] = &[];
            let error = try_each(none, async |_| Ok(())).await.expect_err("there is none");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        });
    }

    #[test]
    fn host_names_are_looked_up() {
        rt::run(async {
            let found =
                try_each("localhost:7", async |address| Ok(address)).await.expect("it has an address");
            assert!(found.ip().is_loopback() && found.port() == 7, "{found}");
            let error = try_each(("no-such-host.invalid", 7), async |address| Ok(address)).await;
            assert_eq!(error.expect_err("reserved by RFC 2606").place(), Some("no-such-host.invalid"));
        });
    }
}
