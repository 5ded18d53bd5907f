//! A process without descriptors: accepting says so once per attempt and goes on when there are
//! some again. Alone in its process, because the limit is the process's.

use std::net::SocketAddr;
use std::time::Duration;

use boson::ErrorKind;
use boson::net::{Net, TcpListener};
use boson::rt::reactor::{RingFeature, RingFeatures};
use boson::rt::{self, Core, CoreConfig};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The lowest number that no descriptor has.
fn next_descriptor() -> u64 {
    use std::os::fd::AsRawFd;
    let probe = std::fs::File::open("/dev/null").expect("a descriptor is left");
    u64::try_from(probe.as_raw_fd()).expect("not negative")
}

#[test]
fn accepting_fails_without_descriptors_and_goes_on_with_them() {
    own_process!();
    for features in [RingFeatures::all(), RingFeatures::all().without(RingFeature::MultishotAccept)] {
        let config = CoreConfig::default().seed([3; 32]).ring_features(features);
        let core = Core::new(&config).expect("io_uring is usable");
        core.block_on(async {
            let listener =
                TcpListener::bind_on(&Net::kernel(), SocketAddr::from(([127, 0, 0, 1], 0))).expect("bind");
            let before = getrlimit(Resource::Nofile);
            let first = std::net::TcpStream::connect(listener.local_addr()).expect("connect");
            let second = std::net::TcpStream::connect(listener.local_addr()).expect("connect");
            let none_left = Rlimit { current: Some(next_descriptor()), maximum: before.maximum };
            setrlimit(Resource::Nofile, none_left).expect("lowering is allowed");
            for _ in 0..3 {
                let refused = listener.accept().await.expect_err("there is no descriptor");
                assert_eq!((refused.kind(), refused.code()), (ErrorKind::LimitReached, Some(libc::EMFILE)));
            }
            setrlimit(Resource::Nofile, before).expect("up to the maximum");
            for client in [first, second] {
                let accepted = rt::timeout(Duration::from_secs(5), listener.accept()).await;
                let (_, peer) = accepted.expect("in time").expect("accept");
                assert_eq!(peer, client.local_addr().expect("connected"));
            }
        });
    }
}
