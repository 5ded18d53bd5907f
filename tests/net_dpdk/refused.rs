//! A DPDK that does not start. The EAL can be started once per process, so this is a process of its
//! own.
use boson::ErrorKind;
use boson::net::device::dpdk::{Eal, EalConfig};

fn start(arguments: &str) -> boson::Error {
    let config = EalConfig::default().arguments(arguments);
    Eal::init(&config).expect_err("these arguments are refused")
}

#[test]
fn a_refusal_is_an_error_with_its_reason_and_not_the_end_of_the_process() {
    own_process!(after crate::eal());
    // DPDK itself would print its usage and end the process.
    for arguments in ["--help", "-m 64 -h"] {
        assert_eq!(start(arguments).kind(), ErrorKind::InvalidInput);
    }

    let error = start("--no-huge -m 64 --no-such-option");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let text = error.to_string();
    assert!(text.starts_with("start DPDK: ") && text.contains("Invalid 'command line' arguments"), "{text}");
    assert!(text.contains("--no-such-option"), "{text}");

    let error = start("--no-huge -m 64");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("restart the process"), "{error}");
}
