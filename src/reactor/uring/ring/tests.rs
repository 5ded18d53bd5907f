//! What a ring leaves behind that ends before its operations do.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use super::*;
use crate::reactor::ops::tests::{finish_read, slow_file};
use crate::time::Instant;

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

/// Watches the end of a pipe that is read, closes it after `end`, and returns whether it is closed
/// for good: nobody can read what is written any more.
fn is_closed_after(end: impl FnOnce(&Ring)) -> Option<bool> {
    let doorbell = Arc::new(Doorbell::new().expect("a descriptor"));
    let ring = Ring::new(8, RingFeatures::all(), &doorbell).ok()?;
    let (reader, mut writer) = std::io::pipe().expect("two descriptors");
    ring.wake_when_readable(reader.as_raw_fd()).expect("a descriptor");
    // The poll reaches the kernel.
    ring.wait_for(Duration::from_millis(1)).expect("the ring works");
    end(&ring);
    drop(reader);
    Some(io::Write::write(&mut writer, &[0]).is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}

#[test]
fn a_watched_descriptor_is_closed_for_good_after_it_is_no_longer_watched() {
    // A poll in flight keeps it open: that is what the others have to end.
    assert_ne!(is_closed_after(|_| {}), Some(true));
    assert_ne!(is_closed_after(Ring::unwatch_all), Some(false));
    let clock = crate::time::MonotonicClock::new();
    assert_ne!(is_closed_after(|ring| ring.shut_down(Patience::new(&clock, None))), Some(false));
}

/// A ring, where there is one, and its doorbell, which rings after `longest` by itself: that ends a
/// sleep which nothing else ends.
fn ring_that_wakes(longest: Duration) -> Option<(Ring, Arc<Doorbell>)> {
    let doorbell = Arc::new(Doorbell::new().expect("a descriptor"));
    let ring = Ring::new(8, RingFeatures::all(), &doorbell).ok()?;
    let late = Arc::clone(&doorbell);
    std::thread::spawn(move || {
        std::thread::sleep(longest);
        late.ring();
    });
    Some((ring, doorbell))
}

/// The clock stands still, so that the ring knows of no time that passed but by what it is told.
#[test]
fn a_sleep_ends_in_time_whatever_the_alarm_was_set_to_before() {
    let Some((ring, doorbell)) = ring_that_wakes(Duration::from_secs(10)) else { return };
    let sleep = |millis: u64| {
        let began = std::time::Instant::now();
        let until = Instant::ORIGIN + Duration::from_millis(millis);
        // A change of the alarm ends one sleep at once before Linux 5.17.
        for _ in 0..2 {
            ring.wait(Instant::ORIGIN, Some(until)).expect("the ring works");
            if began.elapsed() >= Duration::from_millis(millis) {
                break;
            }
        }
        assert!(began.elapsed() >= Duration::from_millis(millis), "{millis} ms were {:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(5), "{millis} ms were {:?}", began.elapsed());
    };
    sleep(5);
    sleep(5);
    // Sets it to a minute, and is woken.
    doorbell.ring();
    ring.wait(Instant::ORIGIN, Some(Instant::ORIGIN + Duration::from_secs(60))).expect("the ring works");
    sleep(5);
    sleep(3);
}

#[test]
fn a_sleep_ends_in_time_when_the_cores_clock_went_ahead() {
    let Some((ring, doorbell)) = ring_that_wakes(Duration::from_secs(4)) else { return };
    let at = |millis: u64| Instant::ORIGIN + Duration::from_millis(millis);
    // Sets the alarm to a minute, and is woken.
    doorbell.ring();
    ring.wait(at(0), Some(at(60_000))).expect("the ring works");
    let began = std::time::Instant::now();
    ring.wait(at(59_990), Some(at(60_000))).expect("the ring works");
    assert!(began.elapsed() < Duration::from_secs(2), "10 ms were {:?}", began.elapsed());
}

/// For once the kernel takes no submissions, and making room takes the doorbell's completion.
#[test]
fn a_core_does_not_sleep_when_what_would_have_woken_it_was_taken_before() {
    let doorbell = Arc::new(Doorbell::new().expect("a descriptor"));
    let Ok(ring) = Ring::new(8, RingFeatures::none(), &doorbell) else { return };
    // The poll on the doorbell reaches the kernel.
    ring.wait_for(Duration::from_millis(1)).expect("the ring works");
    doorbell.ring();
    let mut inner = ring.inner.borrow_mut();
    while inner.push_entry(&opcode::Nop::new().build().user_data(IGNORED)) {}
    let descriptor = inner.ring.as_raw_fd();
    drop(inner);
    // SAFETY: the ring keeps it open.
    let kept = unsafe { BorrowedFd::borrow_raw(descriptor) }.try_clone_to_owned().expect("a descriptor");
    let other = std::fs::File::open("/dev/null").expect("it is there");
    let replace = |by: RawFd| {
        // SAFETY: both are open, and nobody else knows the ring's, which stays a descriptor.
        assert_eq!(unsafe { libc::dup2(by, descriptor) }, descriptor);
    };
    replace(other.as_raw_fd());
    let slept = ring.wait(Instant::ORIGIN, Some(Instant::ORIGIN + Duration::from_secs(60)));
    replace(kept.as_raw_fd());
    slept.expect("it does not call the kernel");
    assert!(!ring.inner.borrow().doorbell_armed, "its completion was taken");
}

/// Each change of the alarm that ended a sleep would double the sleeps of a server like this.
#[test]
fn a_far_timer_and_short_time_outs_cost_no_sleeps() {
    use crate::rt::{self, Core, CoreConfig, Idle, reactor::ReactorChoice};
    const ROUNDS: u64 = 20;
    let config = CoreConfig::default().idle(Idle::Sleep).reactor(ReactorChoice::IoUring);
    let Ok(core) = Core::new(&config) else { return };
    core.block_on(async {
        rt::spawn(async { rt::sleep(Duration::from_secs(600)).await }).detach();
        let (reader, mut writer) = std::io::pipe().expect("descriptors");
        let writes = std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                std::thread::sleep(Duration::from_millis(60));
                io::Write::write_all(&mut writer, b"x").expect("somebody reads");
                std::thread::sleep(Duration::from_millis(5));
                io::Write::write_all(&mut writer, b"x").expect("somebody reads");
            }
        });
        let reader = crate::net::PipeReader::from_descriptor(reader).expect("a pipe");
        let before = crate::observe::stats().parks;
        for _ in 0..ROUNDS {
            reader.read(Vec::with_capacity(1)).await.expect("something is written");
            // Whether it comes in time is up to the machine.
            let _ = rt::timeout(Duration::from_millis(20), reader.read(Vec::with_capacity(1))).await;
        }
        let parks = crate::observe::stats().parks - before;
        assert!(parks <= 2 * ROUNDS + ROUNDS / 2, "{parks} sleeps for {} reads", 2 * ROUNDS);
        writes.join().expect("no panic");
    });
}
