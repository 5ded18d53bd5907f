//! How what a program writes becomes addresses.

use std::io;
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, ToSocketAddrs as StdToSocketAddrs,
};
use std::{option, slice, vec};

use crate::blocking::offloaded::run;

/// As [`std::net::ToSocketAddrs`], except that a host name is looked up on a thread for blocking
/// work, so that a coroutine does not keep the other tasks of its core waiting. An address in
/// numbers needs no look-up.
pub trait ToSocketAddrs {
    /// The addresses.
    type Iter: Iterator<Item = SocketAddr>;

    /// The addresses.
    ///
    /// # Errors
    ///
    /// What the system's resolver says; [`InvalidInput`](io::ErrorKind::InvalidInput) for what is
    /// no address.
    ///
    /// # Panics
    ///
    /// In an async task, if a name is to be looked up.
    fn to_socket_addrs(&self) -> io::Result<Self::Iter>;
}

/// What has its addresses in it.
macro_rules! in_numbers {
    ($($address:ty),*) => {$(
        impl ToSocketAddrs for $address {
            type Iter = option::IntoIter<SocketAddr>;

            fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
                StdToSocketAddrs::to_socket_addrs(self)
            }
        }
    )*};
}

in_numbers! { SocketAddr, SocketAddrV4, SocketAddrV6, (IpAddr, u16), (Ipv4Addr, u16), (Ipv6Addr, u16) }

impl<'a> ToSocketAddrs for &'a [SocketAddr] {
    type Iter = std::iter::Copied<slice::Iter<'a, SocketAddr>>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        Ok(self.iter().copied())
    }
}

impl<T: ToSocketAddrs + ?Sized> ToSocketAddrs for &T {
    type Iter = T::Iter;

    #[track_caller]
    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        T::to_socket_addrs(self)
    }
}

impl ToSocketAddrs for (&str, u16) {
    type Iter = vec::IntoIter<SocketAddr>;

    #[track_caller]
    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        let (host, port) = *self;
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)].into_iter());
        }
        look_up((host.to_owned(), port))
    }
}

impl ToSocketAddrs for (String, u16) {
    type Iter = vec::IntoIter<SocketAddr>;

    #[track_caller]
    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        <(&str, u16) as ToSocketAddrs>::to_socket_addrs(&(self.0.as_str(), self.1))
    }
}

impl ToSocketAddrs for str {
    type Iter = vec::IntoIter<SocketAddr>;

    #[track_caller]
    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        if let Ok(address) = self.parse::<SocketAddr>() {
            return Ok(vec![address].into_iter());
        }
        look_up(self.to_owned())
    }
}

impl ToSocketAddrs for String {
    type Iter = vec::IntoIter<SocketAddr>;

    #[track_caller]
    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        <str as ToSocketAddrs>::to_socket_addrs(self)
    }
}

#[track_caller]
fn look_up<A>(name: A) -> io::Result<vec::IntoIter<SocketAddr>>
where
    A: StdToSocketAddrs<Iter = vec::IntoIter<SocketAddr>> + Send + 'static,
{
    run("look up", move || name.to_socket_addrs())
}
