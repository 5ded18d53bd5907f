//! A NVMe controller that the kernel's `vfio-pci` has, driven from this process: registers, memory,
//! interrupts, and what is said where it cannot be opened.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::ptr::NonNull;
use std::time::Instant;

use boson::ErrorKind;
use boson::block::vfio::{Device, DmaPages, Registers};
use boson::mem::{Arena, DmaBuf};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::host::{Hot, wait_until};
use super::{PATIENCE, device};
use crate::support::own_process::named_in;

/// Registers of a NVMe controller (NVMe Base 2.0c, 3.1.3), as byte offsets.
const CAP: usize = 0x00;
const VS: usize = 0x08;
const CC: usize = 0x14;
const CSTS: usize = 0x1c;
const AQA: usize = 0x24;
const ASQ: usize = 0x28;
const ACQ: usize = 0x30;
const ADMIN_SUBMISSION_DOORBELL: usize = 0x1000;
const ADMIN_COMPLETION_DOORBELL: usize = 0x1004;

const READY: u32 = 1;
/// CC: enabled, with entries of 64 and 16 bytes.
const ENABLE: u32 = 1 | 6 << 16 | 4 << 20;
const IDENTIFY: u32 = 0x06;

fn address() -> String {
    device("BOSON_GUEST_VFIO")
}

fn open() -> Device {
    Device::open(&address()).expect("scripts/guest bound it")
}

fn sentence(address: &str) -> String {
    Device::open(address).expect_err("it cannot be opened").to_string()
}

/// Waits until an eventfd was written to.
fn signalled(eventfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(eventfd, PollFlags::IN)];
    let timeout = Timespec { tv_sec: PATIENCE.as_secs().try_into().expect("small"), tv_nsec: 0 };
    poll(&mut fds, Some(&timeout)).expect("poll") == 1
}

/// Waits until the controller says that it is ready, or that it is not.
fn wait_for_ready(registers: &Registers, ready: u32) {
    let started = Instant::now();
    while registers.read32(CSTS) & READY != ready {
        assert!(started.elapsed() < PATIENCE, "CSTS {:#x}", registers.read32(CSTS));
        std::thread::yield_now();
    }
}

/// As much of a driver as it takes to see DMA: one pair of queues, one command at a time.
struct Admin<'a> {
    device: &'a Device,
    submissions: DmaPages,
    completions: DmaPages,
    issued: u32,
}

impl<'a> Admin<'a> {
    const ENTRIES: u32 = 4;

    fn enable(device: &'a Device) -> Self {
        let registers = device.registers();
        registers.write32(CC, 0);
        wait_for_ready(registers, 0);
        let queue = || device.dma().alloc(4096).expect("a page");
        let (submissions, completions) = (queue(), queue());
        registers.write32(AQA, (Self::ENTRIES - 1) << 16 | (Self::ENTRIES - 1));
        registers.write64(ASQ, submissions.device_address());
        registers.write64(ACQ, completions.device_address());
        registers.write32(CC, ENABLE);
        wait_for_ready(registers, READY);
        Self { device, submissions, completions, issued: 0 }
    }

    /// Identifies the controller into 4096 bytes at `target`, and gives the status.
    fn identify(&mut self, target: u64, interrupt: &OwnedFd) -> u32 {
        self.submit_identify(target);
        assert!(signalled(interrupt), "a completion interrupts");
        rustix::io::read(interrupt, &mut [0; 8]).expect("it was signalled");
        self.take().expect("a completion is there")
    }

    fn submit_identify(&self, target: u64) {
        let slot = self.issued % Self::ENTRIES;
        let entry = 64 * usize::try_from(slot).expect("small");
        self.submissions.write32(entry, IDENTIFY | self.issued << 16);
        self.submissions.write32(entry + 4, 0);
        self.submissions.write64(entry + 24, target);
        self.submissions.write32(entry + 40, 1);
        self.device.registers().write32(ADMIN_SUBMISSION_DOORBELL, (slot + 1) % Self::ENTRIES);
    }

    /// The status of the command that was submitted last, if it is there.
    fn take(&mut self) -> Option<u32> {
        let slot = self.issued % Self::ENTRIES;
        let status = self.completions.read32(16 * usize::try_from(slot).expect("small") + 12) >> 16;
        let phase = u32::from((self.issued / Self::ENTRIES).is_multiple_of(2));
        if status & 1 != phase {
            return None;
        }
        self.device.registers().write32(ADMIN_COMPLETION_DOORBELL, (slot + 1) % Self::ENTRIES);
        self.issued += 1;
        Some(status >> 1 & 0xff)
    }
}

#[test]
#[ignore = "takes a NVMe controller under VFIO: scripts/guest"]
fn registers_are_those_of_the_controller() {
    let device = open();
    let registers = device.registers();
    assert!(registers.len_bytes() >= 0x2000);
    let capabilities = registers.read64(CAP);
    assert_eq!(u64::from(registers.read32(CAP)), capabilities & 0xffff_ffff);
    assert_eq!(u64::from(registers.read32(CAP + 4)), capabilities >> 32);
    assert!(capabilities & 0xffff >= 1, "at least two entries to a queue: {capabilities:#x}");
    assert_eq!(registers.read32(VS) >> 16, 1, "version 1 of the specification");
    assert_eq!(registers.read32(CSTS) & READY, 0, "nobody enabled it");
    assert_eq!(registers.read32(registers.len_bytes()), Registers::REMOVED);
}

#[test]
#[ignore = "takes a NVMe controller under VFIO: scripts/guest"]
fn a_device_writes_to_memory_that_was_given_to_it_and_interrupts() {
    let device = open();
    assert!(device.vectors() >= 2, "{device:?}");
    let interrupts = device.enable_vectors(device.vectors()).expect("all of them");
    let mut admin = Admin::enable(&device);
    let page = device.dma().alloc(1).expect("a page");
    assert_eq!(page.len_bytes(), 4096);
    // More than the queue has entries.
    for _ in 0..10 {
        page.write64(0, 0);
        page.write64(8, 0);
        assert_eq!(admin.identify(page.device_address(), &interrupts[0]), 0);
        let serial = [page.read32(4).to_le_bytes(), page.read32(8).to_le_bytes()];
        assert_eq!(serial, [*b"boso", *b"n-vf"], "the serial number");
    }
    // What was taken back is out of reach. (What the controller says of that is its own affair.)
    let buf = DmaBuf::zeroed(4096);
    // SAFETY: the device is told to write there while nothing else uses the buffer.
    let mapping = unsafe { device.dma().map(NonNull::from(&buf[0]), buf.len()) }.expect("mapped");
    let at = mapping.device_address();
    drop(mapping);
    admin.identify(at, &interrupts[0]);
    assert!(buf.iter().all(|byte| *byte == 0), "the IOMMU keeps the device out");
    // Once more with fewer vectors: the earlier eventfds get nothing any more.
    assert!(device.enable_vectors(0).expect("none").is_empty());
    let fewer = device.enable_vectors(1).expect("one");
    let page = device.dma().alloc(4096).expect("a page");
    assert_eq!(admin.identify(page.device_address(), &fewer[0]), 0);
    assert!(rustix::io::read(&interrupts[0], &mut [0; 8]).is_err());
    let error = device.enable_vectors(device.vectors() + 1).expect_err("too many");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[test]
#[ignore = "takes a NVMe controller under VFIO: scripts/guest"]
fn a_masked_interrupt_waits_until_it_is_unmasked() {
    let device = open();
    let interrupts = device.enable_vectors(2).expect("two");
    let mut admin = Admin::enable(&device);
    let page = device.dma().alloc(4096).expect("a page");
    let mask = device.vector_mask(0).expect("Linux has the table mapped");
    assert!(!mask.is_set(), "the kernel unmasks what is switched on");
    for _ in 0..10 {
        mask.set(true);
        assert!(mask.is_set());
        assert!(!device.vector_mask(1).expect("the other").is_set());
        admin.submit_identify(page.device_address());
        let mut status = None;
        wait_until("a completion comes", || {
            status = admin.take();
            status.is_some()
        });
        assert_eq!(status, Some(0));
        // It would have come with the completion.
        assert!(rustix::io::read(&interrupts[0], &mut [0; 8]).is_err(), "it is masked");
        mask.set(false);
        assert!(signalled(&interrupts[0]), "it was pending");
        rustix::io::read(&interrupts[0], &mut [0; 8]).expect("it was signalled");
        assert_eq!(admin.identify(page.device_address(), &interrupts[0]), 0);
    }
    // Whatever the kernel does to the table leaves it unmasked.
    mask.set(true);
    device.reset().expect("reset");
    assert!(!mask.is_set(), "after a reset");
    mask.set(true);
    let interrupts = device.enable_vectors(1).expect("one");
    assert!(!mask.is_set(), "when it is switched on anew");
    let mut admin = Admin::enable(&device);
    assert_eq!(admin.identify(page.device_address(), &interrupts[0]), 0);
    assert!(device.vector_mask(device.vectors()).is_none());
}

#[test]
#[ignore = "takes a NVMe controller under VFIO: scripts/guest"]
fn an_arena_is_given_as_a_whole_and_addresses_follow_its_buffers() {
    let device = open();
    let interrupts = device.enable_vectors(1).expect("one");
    let (arena, other) = (Arena::new(1).expect("an arena"), Arena::new(1).expect("another"));
    // SAFETY: the device is told to write only to `second`, to which no reference exists meanwhile.
    let mapping = unsafe { device.dma().map_arena(&arena) }.expect("mapped");
    let (first, second) = (arena.alloc(4096), arena.alloc(4096));
    let address = |buf: &DmaBuf| mapping.device_address(buf);
    let (at, next) = (address(&first).expect("inside"), address(&second).expect("inside"));
    assert_eq!(next - at, 4096);
    if device.dma().highest_address() > 1 << 47 {
        assert_eq!(at, u64::try_from(first.as_ptr().addr()).expect("64 bits"), "its own address");
    } else {
        assert!(at <= device.dma().highest_address());
    }
    assert_eq!(address(&other.alloc(4096)), None);
    assert_eq!(address(&DmaBuf::zeroed(4096)), None);
    let mut admin = Admin::enable(&device);
    assert_eq!(admin.identify(next, &interrupts[0]), 0);
    assert_eq!(second[4..12], *b"boson-vf");
    // The mapping keeps the arena, and a mapping keeps what it needs of the device.
    drop((admin, arena, first, second));
    drop(device);
    assert!(sentence(&self::address()).contains("driven already"));
    drop(mapping);
    open();
}

#[test]
#[ignore = "takes a NVMe controller under VFIO: scripts/guest"]
fn memory_that_cannot_be_mapped_is_refused_by_name() {
    let device = open();
    let dma = device.dma();
    let page = usize::try_from(dma.page_bytes()).expect("small");
    let buf = DmaBuf::zeroed(4 * page);
    let map = |offset: usize, len: usize| {
        let ptr = NonNull::from(&buf[offset]);
        // SAFETY: `buf` outlives the mappings, and the device is told nothing.
        unsafe { dma.map(ptr, len) }
    };
    for (offset, len) in [(1, page), (0, page - 1), (0, 0), (512, page)] {
        let error = map(offset, len).expect_err("not whole pages");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    // The same memory twice has two addresses, and what is given back is free again.
    let first = map(0, 4 * page).expect("mapped");
    let second = map(0, 4 * page).expect("mapped");
    let apart = first.device_address().abs_diff(second.device_address());
    assert!(apart >= first.len_bytes(), "{first:?} {second:?}");
    let at = first.device_address();
    drop(first);
    assert_eq!(map(0, 4 * page).expect("mapped").device_address(), at);
    // SAFETY: nothing is there, which is what the kernel finds.
    let error = unsafe { dma.map(NonNull::without_provenance(page.try_into().expect("not 0")), page) };
    let error = error.expect_err("no memory");
    assert!(error.to_string().contains("are not all memory of this process"), "{error}");
    for _ in 0..1000 {
        drop(dma.alloc(page).expect("nothing is used up"));
    }
    for (len, align) in [(1, 4096), (4097, 8192), (20_000, 32_768), (200_000, 65_536)] {
        let pages = dma.alloc(len).expect("mapped");
        assert!(pages.len_bytes() >= len && pages.len_bytes().is_multiple_of(page));
        assert!(
            pages.device_address().is_multiple_of(align) && pages.as_ptr().addr().get().is_multiple_of(4096)
        );
        assert!((0..pages.len_bytes() / 8).all(|word| pages.read64(8 * word) == 0));
    }
}

#[test]
#[ignore = "takes a NVMe controller under VFIO: scripts/guest"]
fn a_reset_disables_the_controller_and_leaves_what_was_mapped() {
    let device = open();
    let interrupts = device.enable_vectors(1).expect("one");
    let page = device.dma().alloc(4096).expect("a page");
    for _ in 0..3 {
        let mut admin = Admin::enable(&device);
        assert_eq!(admin.identify(page.device_address(), &interrupts[0]), 0);
        device.reset().expect("reset");
        assert_eq!(device.registers().read32(CC), 0);
        assert_eq!(device.registers().read32(CSTS) & READY, 0);
    }
}

#[test]
#[ignore = "takes a NVMe controller under VFIO: scripts/guest"]
fn a_device_that_is_taken_away_asks_for_its_release() {
    let address = address();
    let device = open();
    let request = device.release_request().expect("an eventfd");
    std::thread::scope(|scope| {
        let unbind = scope.spawn(|| write("drivers/vfio-pci/unbind", &address));
        assert!(signalled(&request), "the kernel asks");
        drop(device);
        unbind.join().expect("the kernel has it back");
    });
    assert!(sentence(&address).contains("no driver has this device"), "{}", sentence(&address));
    write("drivers_probe", &address);
    open();
}

/// Writes to a file of the PCI bus in sysfs.
fn write(file: &str, text: &str) {
    std::fs::write(format!("/sys/bus/pci/{file}"), text).unwrap_or_else(|error| panic!("{file}: {error}"));
}

#[test]
#[ignore = "takes a NVMe controller under VFIO: scripts/guest"]
fn a_device_that_is_pulled_out_goes_when_it_is_dropped_and_comes_back() {
    let (hot, address) = (Hot::new(), device("BOSON_GUEST_VFIO_HOT"));
    for _ in 0..2 {
        let device = Device::open(&address).expect("scripts/guest bound it");
        let request = device.release_request().expect("an eventfd");
        let page = device.dma().alloc(4096).expect("a page");
        hot.pull();
        assert!(signalled(&request), "the kernel asks");
        assert!(hot.is_there(), "it waits");
        assert_eq!(device.registers().read32(VS) >> 16, 1, "and the device is still there");
        drop(device);
        wait_until("the device goes", || !hot.is_there());
        assert!(sentence(&address).contains("there is no PCI device"));
        drop(page);
        hot.put_back("vfio-pci");
    }
}

#[test]
#[ignore = "takes a NVMe controller under VFIO: scripts/guest"]
fn who_cannot_have_a_device_is_told_why() {
    let address = address();
    let held = open();
    let error = Device::open(&address).expect_err("it is open");
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.to_string().contains("type `sudo fuser -v /dev/vfio/"), "{error}");
    drop(held);
    let kernels = device("BOSON_GUEST_NVME");
    let bind = format!("the kernel's driver nvme has this device: type `boson device bind {kernels}`");
    assert!(sentence(&kernels).ends_with(&bind), "{}", sentence(&kernels));
    let shared = device("BOSON_GUEST_VFIO_SHARED");
    let neighbor = shared.replace(".0", ".1");
    let neighbor = format!(
        "also holds {neighbor} (virtio-pci), which must be given up with it: type `boson device bind {neighbor}`"
    );
    assert!(sentence(&shared).ends_with(&neighbor), "{}", sentence(&shared));
    assert!(sentence("0000:7f:1f.7").contains("there is no PCI device"));
}

/// The file of the device's group.
fn group_file() -> String {
    let link = format!("/sys/bus/pci/devices/{}/iommu_group", address());
    let group = std::fs::read_link(link).expect("it has a group");
    format!("/dev/vfio/{}", group.file_name().expect("a number").to_string_lossy())
}

/// A user without rights.
const USER: u32 = 1000;

/// Runs a test of this module as [`USER`].
fn as_user(test: &str) {
    let output = Command::new(std::env::current_exe().expect("there is one"))
        .args(["--exact", "--ignored", "--nocapture", "--test-threads=1", &named_in(module_path!(), test)])
        .env("BOSON_GUEST_AS_USER", "1")
        .uid(USER)
        .gid(USER)
        .stdin(Stdio::null())
        .output()
        .expect("a child process");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn is_user() -> bool {
    std::env::var_os("BOSON_GUEST_AS_USER").is_some()
}

#[test]
#[ignore = "the child of `a_user_without_rights_is_told_which_to_ask_for`"]
fn without_permission() {
    if !is_user() {
        return;
    }
    let error = Device::open(&address()).expect_err("the file is root's");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let file = group_file();
    let advice = format!("may not open {file}: type `sudo chown {USER} {file}`");
    assert!(error.to_string().contains(&advice), "{error}");
}

#[test]
#[ignore = "the child of `a_user_without_rights_is_told_which_to_ask_for`"]
fn without_locked_memory() {
    if !is_user() {
        return;
    }
    let limit = rustix::process::Rlimit { current: Some(64 << 10), maximum: Some(64 << 10) };
    rustix::process::setrlimit(rustix::process::Resource::Memlock, limit).expect("lower");
    let device = open();
    let page = device.dma().alloc(4096).expect("within the limit");
    let error = device.dma().alloc(1 << 20).expect_err("past the limit");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    for part in
        ["locking 1048576 bytes more", "lock 65536 bytes", "`sudo prlimit --pid $$ --memlock=unlimited`"]
    {
        assert!(error.to_string().contains(part), "{error}");
    }
    drop(page);
    device.dma().alloc(60 << 10).expect("what was refused or given back counts no more");
}

#[test]
#[ignore = "takes a NVMe controller under VFIO: scripts/guest"]
fn a_user_without_rights_is_told_which_to_ask_for() {
    as_user("without_permission");
    let file = group_file();
    chown(&file, Some(USER), None).expect("chown");
    as_user("without_locked_memory");
    chown(&file, Some(0), None).expect("chown");
    assert!(signalled_never(&open()));
}

/// Nobody asks for a device back that is just open.
fn signalled_never(device: &Device) -> bool {
    let request = device.release_request().expect("an eventfd");
    let mut fds = [PollFd::from_borrowed_fd(request.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("poll") == 0
}
