use super::*;

fn cidr(text: &str) -> IpCidr {
    text.parse().expect("a valid address")
}

#[test]
fn the_addresses_of_the_documentation_parse() {
    assert_eq!("kernel:".parse::<NetAddress>().expect("valid"), NetAddress::Kernel);
    let tap = "tap:boson0?ip=10.9.0.1/24&gw=10.9.0.254&host=10.9.0.2/24&mac=02:00:00:00:00:0a&mtu=9000&ip=fd00::1/64";
    let expected = TapAddress {
        interface: "boson0".to_owned(),
        host: vec![cidr("10.9.0.2/24")],
        station: Station {
            addresses: vec![cidr("10.9.0.1/24"), cidr("fd00::1/64")],
            gateways: vec![[10, 9, 0, 254].into()],
            mac: Some([2, 0, 0, 0, 0, 10]),
            mtu: Some(9000),
        },
    };
    assert_eq!(tap.parse::<NetAddress>().expect("valid"), NetAddress::Tap(expected));
}

#[test]
fn an_address_becomes_the_configuration_of_its_device_and_stack() {
    use crate::net::device::TapConfig;
    use crate::net::stack::StackConfig;
    let text = "tap:t0?ip=10.9.0.1/24&gw=10.9.0.254&host=10.9.0.2/24";
    let NetAddress::Tap(address) = text.parse().expect("valid") else { panic!("{text}") };
    let config = TapConfig::from(&address);
    assert_eq!((config.name.as_str(), config.mtu, config.mac), ("t0", 1500, None));
    assert_eq!(config.host, address.host);
    let config = StackConfig::for_station(&address.station);
    assert_eq!((config.addresses, config.gateways), (address.station.addresses, address.station.gateways));
}

#[test]
fn device_arguments_may_hold_colons_commas_and_equals_signs() {
    for device in ["0000:03:00.0", "net_af_packet0,iface=v0", "net_tap0,iface=t0,mac=fixed"] {
        let text = format!("dpdk:{device}?ip=10.9.0.1/24");
        let NetAddress::Dpdk(address) = parse_all(&text).expect("valid") else { panic!("{text}") };
        assert_eq!(address.device, device);
        assert_eq!(address.station.addresses, [cidr("10.9.0.1/24")]);
    }
}

/// Parses `text` as a build with every kind of network does.
fn parse_all(text: &str) -> Result<NetAddress> {
    parse(text, true)
}

/// Each mistake, and words that the sentence about it must hold: the part that is wrong, and what
/// to write.
#[test]
fn every_mistake_gets_one_sentence_that_says_which_part_and_what_to_write() {
    let cases = [
        ("", "names no kind of network", SCHEMES),
        ("eth0", "names no kind of network", "tap:"),
        ("udp:x", "no network of kind udp:", SCHEMES),
        ("kernel:x", "nothing may follow kernel:", "write just kernel:"),
        ("tap:?ip=10.9.0.1/24", "\"\" is not an interface name", "such as tap:boson0"),
        ("tap:a-name-of-16-byt?ip=10.9.0.1/24", "a-name-of-16-byt", "1 to 15"),
        ("tap:../x?ip=10.9.0.1/24", "../x", "such as tap:boson0"),
        ("tap:t0", "no address is given", "add ip="),
        ("tap:t0?", "no address is given", "add ip="),
        ("tap:t0?ip=10.9.0.1", "ip=10.9.0.1 is not an address with", "ip=10.9.0.1/24"),
        ("tap:t0?ip=10.9.0.1/33", "ip=10.9.0.1/33", "ip=10.9.0.1/24"),
        ("tap:t0?ip=10.9.0.255/24", "not the address of one host", "neither a group's nor a broadcast"),
        ("tap:t0?ip=224.0.0.1/24", "not the address of one host", "neither a group's"),
        ("tap:t0?ip=10.9.0.1/24&ip=10.9.0.1/16", "given twice", "write it once"),
        ("tap:t0?ip=10.9.0.1/24&host=10.9.0.1/24", "host=10.9.0.1/24 is also an ip=", "different addresses"),
        ("tap:t0?ip=10.9.0.1/24&host=x", "host=x", "host=10.9.0.1/24"),
        ("tap:t0?ip=10.9.0.1/24&gw=10.8.0.1", "gw=10.8.0.1 is on no network", "an address within one"),
        ("tap:t0?ip=10.9.0.1/24&gw=10.9.0.1", "gw=10.9.0.1 is the same as an ip=", "address of the router"),
        ("tap:t0?ip=10.9.0.1/24&gw=10.9.0.2/24", "gw=10.9.0.2/24 is not an IP address", "without a prefix"),
        ("tap:t0?ip=10.9.0.1/24&gw=10.9.0.2&gw=10.9.0.3", "gw= is given twice", "one for each"),
        ("tap:t0?ip=10.9.0.1/24&mac=1:2:3", "mac=1:2:3", "mac=02:00:00:00:00:01"),
        ("tap:t0?ip=10.9.0.1/24&mac=01:00:00:00:00:00", "not the Ethernet address of one station", "mac=02:"),
        ("tap:t0?ip=10.9.0.1/24&mac=02:00:00:00:00:00:01", "mac=", "mac=02:"),
        ("tap:t0?ip=10.9.0.1/24&mtu=100", "mtu=100 is not a number from 576 to 65521", "mtu=576"),
        ("tap:t0?ip=10.9.0.1/24&mtu=1500&mtu=1500", "mtu= is given twice", "write it once"),
        ("tap:t0?ip=fd00::1/64&mtu=1000", "mtu= is below 1280", "mtu=1280"),
        ("tap:t0?ip=10.9.0.1/24&queues=2", "no parameter queues= here", "ip=, gw=, mac=, mtu=, host="),
        ("tap:t0?ip=10.9.0.1/24&fast", "\"fast\" is not of the form key=value", "ip=10.9.0.1/24"),
        ("dpdk:?ip=10.9.0.1/24", "no device follows dpdk:", "dpdk:net_af_packet0,iface=v0"),
        ("dpdk:net_null0", "no address is given", "add ip="),
        ("dpdk:net_null0?ip=10.9.0.1/24&host=10.9.0.2/24", "no parameter host= here", "ip=, gw=, mac=, mtu="),
    ];
    for (text, part, advice) in cases {
        let error = parse_all(text).expect_err(text);
        let message = error.to_string();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{message}");
        assert!(message.contains(part) && message.contains(advice), "{text}: {message}");
    }
}

#[test]
fn nine_addresses_are_too_many() {
    let query: Vec<_> = (1..=9).map(|host| format!("ip=10.9.0.{host}/24")).collect();
    let error = format!("tap:t0?{}", query.join("&")).parse::<NetAddress>().expect_err("nine");
    assert!(error.to_string().contains("at most 8"), "{error}");
}

#[test]
fn what_does_not_exist_yet_is_refused_with_one_sentence() {
    let cases = [
        ("mem:", "mem:"),
        ("mem:x", "mem:"),
        ("xdp:", "xdp:"),
        ("xdp:eth0?ip=10.9.0.1/24&queue=0", "xdp:"),
        ("tap:t0?ip=dhcp", "ip=dhcp"),
        ("dpdk:net_null0?ip=dhcp", "ip=dhcp"),
        ("dpdk:net_null0?ip=10.9.0.1/24&queues=0", "queues=0"),
        ("dpdk:net_null0?ip=10.9.0.1/24&queues=2", "queues=2"),
    ];
    for (text, what) in cases {
        let error = parse_all(text).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let sentence = format!("{what} does not exist in this version; write {EXAMPLES}");
        assert!(error.to_string().contains(&sentence), "{error}");
    }
}

/// What a refusal recommends, as addresses to parse: the words after its semicolon that begin with
/// a kind of network, completed to an address of that kind.
fn recommended(refusal: &str) -> Vec<String> {
    let (_, advice) = refusal.split_once("; ").expect("a refusal says what to write");
    advice
        .split([' ', ',', '(', ')'])
        .filter(|word| {
            let (scheme, rest) = word.split_once(':').unwrap_or_default();
            // Not an Ethernet address or a parameter.
            !scheme.is_empty()
                && scheme.bytes().all(|byte| byte.is_ascii_lowercase())
                && !rest.starts_with(':')
        })
        .map(|word| match word {
            "kernel:" => word.to_owned(),
            _ if word.ends_with(':') => format!("{word}boson0?ip=10.9.0.1/24"),
            _ if !word.contains('?') => format!("{word}?ip=10.9.0.1/24"),
            _ => word.replace("ip=…", "ip=10.9.0.1/24").replace('…', "boson0"),
        })
        .collect()
}

#[test]
fn no_refusal_recommends_an_address_that_is_refused() {
    let mut recommendations = 0;
    for text in [
        "",
        "eth0",
        "nic:eth0",
        "kernel:x",
        "mem:",
        "xdp:eth0",
        "tap:",
        "tap:t0",
        "tap:t0?ip=dhcp",
        "tap:t0?ip=10.9.0.1/24&x=1",
        "tap:t0?x",
        "dpdk:",
        "dpdk:a",
        "dpdk:a?x=1",
        "dpdk:a?ip=10.9.0.1/24&queues=2",
    ] {
        let refusal = text.parse::<NetAddress>().expect_err(text);
        assert_eq!(refusal.place(), Some(text));
        let refusal = refusal.to_string();
        for address in recommended(&refusal) {
            recommendations += 1;
            if let Err(error) = address.parse::<NetAddress>() {
                panic!("{refusal}\nrecommends {address}, of which is said: {error}");
            }
        }
        for parameter in ["dhcp", "queues="] {
            let advice = refusal.split_once("; ").map_or("", |(_, advice)| advice);
            assert!(!advice.contains(parameter), "{refusal}");
        }
    }
    assert!(recommendations > 10, "{recommendations} were found");
}

#[test]
fn one_queue_may_be_asked_for() {
    let asked = parse_all("dpdk:net_null0?ip=10.9.0.1/24&queues=1").expect("valid");
    let without = parse_all("dpdk:net_null0?ip=10.9.0.1/24").expect("valid");
    assert_eq!(asked, without);
}

#[test]
fn prefixes_say_who_is_on_the_same_network() {
    let inside = |own: &str, other: &str| cidr(own).contains(other.parse().expect("an address"));
    assert!(inside("10.9.0.1/24", "10.9.0.200"));
    assert!(!inside("10.9.0.1/24", "10.9.1.1"));
    assert!(inside("10.9.0.1/0", "192.0.2.1"));
    assert!(inside("10.9.0.1/32", "10.9.0.1") && !inside("10.9.0.1/32", "10.9.0.2"));
    assert!(inside("fd00::1/64", "fd00::ffff") && !inside("fd00::1/64", "fd01::1"));
    assert!(inside("fd00::1/0", "2001:db8::1") && !inside("fd00::1/0", "10.9.0.1"));
    assert_eq!(cidr("10.9.0.1/24").broadcast(), Some([10, 9, 0, 255].into()));
    assert_eq!(cidr("10.9.0.1/31").broadcast(), None);
    assert_eq!(cidr("10.9.0.1/24").to_string(), "10.9.0.1/24");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "(kernel|mem|tap|dpdk|xdp)?:?[ -~]{0,40}[?&=/0-9a-f:.]{0,20}") {
        let _ = parse_all(&text);
    }
}
