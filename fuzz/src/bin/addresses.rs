//! Addresses of networks and namespaces: what is taken is shown as an address that means the same.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use boson::block::NamespaceAddress;
use boson::net::address::{IpCidr, NetAddress};
use libfuzzer_sys::fuzz_target;

fn comes_back<T: FromStr + Display + Debug + PartialEq>(text: &str) {
    let Ok(address) = text.parse::<T>() else { return };
    let shown = address.to_string();
    match shown.parse::<T>() {
        Ok(again) => assert_eq!(again, address, "{text:?} is shown as {shown:?}"),
        Err(_) => panic!("{text:?} is shown as {shown:?}, which is refused"),
    }
}

fuzz_target!(|text: &str| {
    comes_back::<IpCidr>(text);
    comes_back::<NamespaceAddress>(text);
    // A network address has no text form.
    let _ = text.parse::<NetAddress>();
});
