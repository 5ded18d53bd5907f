//! What this kernel's io_uring can do, found out by asking it, and how much of that a core may use.

use std::fmt;
use std::os::fd::AsRawFd;

use io_uring::{Builder, IoUring, cqueue, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::buffer_ring::BufferRing;
use super::polled;
use crate::error::{Error, ErrorKind, Result};
use crate::reactor::ops::REPORT_USAGE;

/// Something that newer kernels' io_uring has and that a core uses where it is there. Without it
/// there is a fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RingFeature {
    /// `IORING_REGISTER_BUFFERS`: the core's arena, as far as
    /// [`CoreConfig::register_arena`](crate::rt::CoreConfig) says.
    RegisteredBuffers,
    /// `IORING_REGISTER_FILES`: the files and devices of namespaces.
    RegisteredFiles,
    /// `IORING_SETUP_IOPOLL`: a second ring for block devices whose driver has poll queues.
    PolledDevices,
    /// `IORING_SETUP_SINGLE_ISSUER` with `IORING_SETUP_DEFER_TASKRUN`.
    DeferredTaskWork,
    /// `IORING_SETUP_NO_SQARRAY`.
    NoSubmissionArray,
    /// `IORING_ASYNC_CANCEL_ANY`.
    CancelAny,
    /// `IORING_ACCEPT_MULTISHOT`.
    MultishotAccept,
    /// `IORING_REGISTER_PBUF_RING`.
    BufferRings,
    /// `IORING_OP_SEND_ZC` with `IORING_SEND_ZC_REPORT_USAGE`.
    SendZeroCopy,
    /// `IORING_RECV_MULTISHOT`. Used only together with [`BufferRings`](Self::BufferRings).
    MultishotReceive,
    /// `IORING_REGISTER_FILES` for connections: from a kernel that lets go of each file by itself,
    /// however long operations on others take. Used only together with
    /// [`RegisteredFiles`](Self::RegisteredFiles).
    RegisteredSockets,
}

impl RingFeature {
    /// Every feature, oldest first within what it belongs to.
    pub const ALL: &'static [Self] = &[
        Self::RegisteredBuffers,
        Self::RegisteredFiles,
        Self::PolledDevices,
        Self::DeferredTaskWork,
        Self::NoSubmissionArray,
        Self::CancelAny,
        Self::MultishotAccept,
        Self::BufferRings,
        Self::MultishotReceive,
        Self::SendZeroCopy,
        Self::RegisteredSockets,
    ];

    /// The feature whose [name](Self::name) this is.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|feature| feature.name() == name)
    }

    /// The name in configurations and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RegisteredBuffers => "registered-buffers",
            Self::RegisteredFiles => "registered-files",
            Self::PolledDevices => "polled-devices",
            Self::DeferredTaskWork => "deferred-task-work",
            Self::NoSubmissionArray => "no-submission-array",
            Self::CancelAny => "cancel-any",
            Self::MultishotAccept => "multishot-accept",
            Self::BufferRings => "buffer-rings",
            Self::SendZeroCopy => "send-zero-copy",
            Self::MultishotReceive => "multishot-receive",
            Self::RegisteredSockets => "registered-sockets",
        }
    }

    /// What a core uses it for, and what it does without.
    pub const fn used_for(self) -> &'static str {
        match self {
            Self::RegisteredBuffers => "memory of hugepage arenas is pinned once; else per read and write",
            Self::RegisteredFiles => "namespaces are looked up once; else per operation",
            Self::PolledDevices => {
                "block devices with poll queues (`nvme.poll_queues=1`) are polled; else they interrupt"
            }
            Self::DeferredTaskWork => "completions arrive only when the core asks; else they interrupt it",
            Self::NoSubmissionArray => "one cache line less per submission",
            Self::CancelAny => "one request ends all I/O of a core; else one per operation",
            Self::MultishotAccept => "one request accepts many connections; else one each",
            Self::SendZeroCopy => "large sends are not copied where the program asks for that; else they are",
            Self::BufferRings => "streams share the buffers that are received into; else one each",
            Self::RegisteredSockets => "connections that last are looked up once; else per operation",
            Self::MultishotReceive => {
                "one request receives for as long as a connection lives; else one per read"
            }
        }
    }

    /// The first Linux release that has it.
    pub const fn since(self) -> &'static str {
        match self {
            Self::RegisteredBuffers | Self::PolledDevices => "5.1",
            Self::RegisteredFiles => "5.5",
            Self::DeferredTaskWork => "6.1",
            Self::NoSubmissionArray => "6.6",
            Self::CancelAny | Self::MultishotAccept | Self::BufferRings => "5.19",
            Self::MultishotReceive => "6.0",
            Self::SendZeroCopy => "6.2",
            Self::RegisteredSockets => "6.13",
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// A set of [`RingFeature`]s: those that are there, or those that a core may use if they are there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RingFeatures(u32);

impl RingFeatures {
    /// None.
    pub const fn none() -> Self {
        Self(0)
    }

    /// All, also those of later versions.
    pub const fn all() -> Self {
        Self(u32::MAX)
    }

    /// What Linux 5.15, the oldest supported release, has.
    pub const fn linux_5_15() -> Self {
        Self::none()
            .with(RingFeature::RegisteredBuffers)
            .with(RingFeature::RegisteredFiles)
            .with(RingFeature::PolledDevices)
    }

    /// The set with `feature` added.
    #[must_use]
    pub const fn with(self, feature: RingFeature) -> Self {
        Self(self.0 | feature.bit())
    }

    /// The set with `feature` taken away.
    #[must_use]
    pub const fn without(self, feature: RingFeature) -> Self {
        Self(self.0 & !feature.bit())
    }

    /// Whether `feature` is in the set.
    pub const fn contains(self, feature: RingFeature) -> bool {
        self.0 & feature.bit() != 0
    }

    /// Those of the features that this version knows, oldest first within what they belong to.
    pub fn iter(self) -> impl Iterator<Item = RingFeature> {
        RingFeature::ALL.iter().copied().filter(move |feature| self.contains(*feature))
    }

    fn with_if(self, feature: RingFeature, present: bool) -> Self {
        if present { self.with(feature) } else { self }
    }
}

impl Default for RingFeatures {
    fn default() -> Self {
        Self::all()
    }
}

impl FromIterator<RingFeature> for RingFeatures {
    fn from_iter<I: IntoIterator<Item = RingFeature>>(features: I) -> Self {
        features.into_iter().fold(Self::none(), Self::with)
    }
}

impl fmt::Debug for RingFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(RingFeature::name)).finish()
    }
}

/// Whether this kernel and this container let a process set up the io_uring that a core needs.
///
/// # Errors
///
/// Why not, and what to do: the error that [`Core::new`](crate::rt::Core::new) would give.
pub fn probe_io_uring() -> Result<()> {
    probe_ring_features().map(drop)
}

/// Which features the io_uring of this kernel has, as far as this process may use them. Every core
/// asks the same when it is made; [`ring_features`](crate::rt::reactor::ring_features) says what it
/// got.
///
/// # Errors
///
/// As for [`probe_io_uring`].
pub fn probe_ring_features() -> Result<RingFeatures> {
    let features = ProbedRing::new(8, RingFeatures::all())?.features;
    let polled = RingFeature::PolledDevices;
    Ok(if polled::is_available() { features } else { features.without(polled) })
}

/// A new ring and what it can do.
pub(super) struct ProbedRing {
    pub(super) ring: IoUring,
    pub(super) features: RingFeatures,
    /// Of the core, if the kernel has buffer rings.
    pub(super) buffers: Option<BufferRing>,
}

impl ProbedRing {
    /// Sets up a ring with those of the `allowed` features that the kernel has.
    pub(super) fn new(entries: u32, allowed: RingFeatures) -> Result<Self> {
        let (mut ring, mut features) = build_ring(entries, allowed)?;
        let allow = |feature| allowed.contains(feature);
        let buffers = allow(RingFeature::BufferRings).then(|| BufferRing::new(&ring).ok()).flatten();
        features = features.with_if(RingFeature::BufferRings, buffers.is_some());
        let answers = ask(&mut ring)?;
        for (feature, registers) in [
            (RingFeature::RegisteredBuffers, registers_buffers as fn(&IoUring) -> bool),
            (RingFeature::RegisteredFiles, registers_files),
            // A ring of its own, which is made for the first device that can be polled.
            (RingFeature::PolledDevices, |_| true),
        ] {
            features = features.with_if(feature, allow(feature) && registers(&ring));
        }
        let sockets = RingFeature::RegisteredSockets;
        let may_register_sockets = allow(sockets) && features.contains(RingFeature::RegisteredFiles);
        features = features
            .with_if(sockets, may_register_sockets && lets_go_of_each_file(&mut ring)?)
            .with_if(RingFeature::CancelAny, allow(RingFeature::CancelAny) && answers.cancel_any)
            .with_if(
                RingFeature::MultishotAccept,
                allow(RingFeature::MultishotAccept) && answers.multishot_accept,
            )
            .with_if(
                RingFeature::MultishotReceive,
                // Before 5.19 the kernel took no notice of the flag; such a kernel has no buffer
                // rings.
                allow(RingFeature::MultishotReceive) && answers.multishot_receive && buffers.is_some(),
            )
            .with_if(RingFeature::SendZeroCopy, allow(RingFeature::SendZeroCopy) && answers.send_zero_copy);
        Ok(Self { ring, features, buffers })
    }
}

/// Sets up a ring with the newest flags that the kernel takes.
fn build_ring(entries: u32, allowed: RingFeatures) -> Result<(IoUring, RingFeatures)> {
    let deferred = RingFeatures::none().with(RingFeature::DeferredTaskWork);
    let newest = deferred.with(RingFeature::NoSubmissionArray);
    let mut refused = libc::EIO;
    for wanted in [newest, deferred, RingFeatures::none()] {
        let flags = RingFeatures(wanted.0 & allowed.0);
        match build_with(entries, flags) {
            Ok(ring) if ring.params().is_feature_ext_arg() && ring.params().is_feature_nodrop() => {
                return Ok((ring, flags));
            }
            Ok(_) => {
                return Err(Error::new(ErrorKind::Unsupported, "set up io_uring")
                    .because("this kernel's io_uring is too old: Linux 5.15 or newer is needed"));
            }
            Err(error) => refused = error.raw_os_error().unwrap_or(libc::EIO),
        }
    }
    Err(refusal(refused, entries))
}

fn build_with(entries: u32, flags: RingFeatures) -> std::io::Result<IoUring> {
    let mut builder: Builder = IoUring::builder();
    if flags.contains(RingFeature::DeferredTaskWork) {
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all();
    }
    if flags.contains(RingFeature::NoSubmissionArray) {
        builder.setup_no_sqarray();
    }
    builder.build(entries)
}

fn refusal(code: i32, entries: u32) -> Error {
    match code {
        libc::EPERM | libc::ENOSYS | libc::EACCES => Error::os(code, "set up io_uring").because(
            "io_uring is forbidden or absent here; needed is Linux 5.15 or newer with \
             `sysctl kernel.io_uring_disabled=0`, and in a container a seccomp profile that allows it",
        ),
        libc::EINVAL => Error::os(code, "set up io_uring")
            .because(format!("{entries} entries are not accepted: give a power of two up to 32768")),
        libc::ENOMEM => Error::os(code, "set up io_uring")
            .because("not enough locked memory: raise `ulimit -l` or lower the ring size"),
        _ => Error::os(code, "set up io_uring"),
    }
}

fn registers_buffers(ring: &IoUring) -> bool {
    let mut byte = Box::new(0u8);
    let piece = libc::iovec { iov_base: std::ptr::from_mut(&mut *byte).cast(), iov_len: 1 };
    // SAFETY: the byte outlives the registration, which ends here; no operation uses it meanwhile.
    let registered = unsafe { ring.submitter().register_buffers(&[piece]) };
    registered.and_then(|()| ring.submitter().unregister_buffers()).is_ok()
}

fn registers_files(ring: &IoUring) -> bool {
    // A table with one empty slot.
    ring.submitter().register_files(&[-1]).and_then(|()| ring.submitter().unregister_files()).is_ok()
}

/// Whether a registered file is closed when it leaves the table, though an operation on another one
/// goes on. Kernels before 6.13 close files in the order in which they left, and each only when all
/// operations that began before are done.
fn lets_go_of_each_file(ring: &mut IoUring) -> Result<bool> {
    let failed = |errno: Errno| Error::os(errno.raw_os_error(), "probe io_uring");
    let pipe = || pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
    let (Ok((waits_on, ends_wait)), Ok((other_reader, other))) = (pipe(), pipe()) else {
        // Too few descriptors for the question: then the core does without.
        return Ok(false);
    };
    if ring.submitter().register_files(&[waits_on.as_raw_fd(), other.as_raw_fd()]).is_err() {
        return Ok(false);
    }
    let wait = opcode::PollAdd::new(types::Fixed(0), libc::POLLIN.cast_unsigned().into()).build();
    // SAFETY: the entry points to no memory.
    let pushed = unsafe { ring.submission().push(&wait) }.is_ok();
    let waits = pushed && ring.submit().is_ok();
    let left = ring.submitter().register_files_update(1, &[-1]).is_ok();
    drop(other);
    let is_closed = rustix::io::read(&other_reader, &mut [0; 1]) == Ok(0);
    // Ends the wait. Closing would not, as long as a process has the pipe that was forked
    // meanwhile.
    rustix::io::write(&ends_wait, &[0]).map_err(failed)?;
    if pushed {
        answer(ring)?;
    }
    Ok(ring.submitter().unregister_files().is_ok() && waits && left && is_closed)
}

/// What is not an opcode or a setup flag of its own shows only when it is tried.
#[derive(Default)]
struct Answers {
    cancel_any: bool,
    multishot_accept: bool,
    multishot_receive: bool,
    send_zero_copy: bool,
}

/// Tries each flag on something that can only fail: a kernel that knows the flag complains about
/// the descriptor, one that does not complains about the flag (`EINVAL`).
fn ask(ring: &mut IoUring) -> Result<Answers> {
    let no_socket = eventfd(0, EventfdFlags::CLOEXEC)
        .map_err(|errno| Error::os(errno.raw_os_error(), "probe io_uring"))?;
    let fd = types::Fd(no_socket.as_raw_fd());
    let questions: [squeue::Entry; 4] = [
        opcode::AsyncCancel2::new(types::CancelBuilder::any()).build(),
        opcode::AcceptMulti::new(fd).build(),
        opcode::RecvMulti::new(fd, 0).build(),
        opcode::SendZc::new(fd, std::ptr::null(), 0).zc_flags(REPORT_USAGE).build(),
    ];
    let mut answers = Answers::default();
    // One at a time: the first would cancel the others, and a ring may have one entry only.
    for (number, question) in questions.into_iter().enumerate() {
        // SAFETY: none of the four entries points to memory; the descriptor is open until this
        // function returns, and each operation has completed by then or fails with the ring.
        if unsafe { ring.submission().push(&question) }.is_err() {
            break;
        }
        let understood = answer(ring)? != -libc::EINVAL;
        match number {
            0 => answers.cancel_any = understood,
            1 => answers.multishot_accept = understood,
            2 => answers.multishot_receive = understood,
            _ => answers.send_zero_copy = understood,
        }
    }
    Ok(answers)
}

/// Waits for the completion that comes, and for the notification after it if there is one.
fn answer(ring: &mut IoUring) -> Result<i32> {
    let mut first = None;
    loop {
        match ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => {
                return Err(Error::io(error, "probe io_uring"));
            }
        }
        if let Some(entry) = ring.completion().next() {
            let result = *first.get_or_insert(entry.result());
            if !cqueue::more(entry.flags()) {
                return Ok(result);
            }
        }
    }
}
