//! What a ring leaves behind that ends before its operations do.

use super::*;
use crate::reactor::ops::tests::{finish_read, slow_file};

/// Whether `address` is in a mapping of this process.
fn is_mapped(address: usize) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs is mounted");
    maps.lines().any(|line| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let [from, to] = [range.0, range.1].map(|end| usize::from_str_radix(end, 16).expect("hexadecimal"));
        (from..to).contains(&address)
    })
}

#[test]
fn receive_buffers_outlive_a_ring_that_ends_with_an_operation_in_flight() {
    let doorbell = Arc::new(Doorbell::new().expect("a descriptor"));
    let Ok(mut reactor) = Ring::new(8, RingFeatures::all(), &doorbell) else { return };
    let Some(buffers) = reactor.buffers.get_mut() else { return };
    let chunk = buffers.filled(0, 1).expect("lent at first");
    let address = buffers.bytes(&chunk).as_ptr().addr();
    let file = slow_file();
    let buf = Box::leak(Box::new([0; 8]));
    let call = Call::ReadAt { buf: buf.as_mut_ptr(), len: 8, offset: u64::MAX };
    // SAFETY: the buffer is leaked.
    unsafe { reactor.start(call, file.as_raw_fd(), Waker::noop().clone()) };
    reactor.poll().expect("the ring works");
    drop(reactor);
    assert!(is_mapped(address), "the kernel may still write there");
    finish_read(&file);
}
