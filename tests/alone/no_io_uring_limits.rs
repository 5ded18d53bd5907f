//! A core on epoll when descriptors run out, and a core on either reactor when signals keep coming.
//! One at a time: both concern the whole process.

use crate::support::parts::Parts;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use boson::ErrorKind;
use boson::block::{KernelNamespace, Namespace};
use boson::mem::DmaBuf;
use boson::net::{Net, TcpListener, TcpStream};
use boson::rt::reactor::ReactorChoice;
use boson::rt::{self, Core, CoreConfig};

const PATIENCE: Duration = Duration::from_secs(20);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn core_on(reactor: ReactorChoice) -> boson::Result<Core> {
    let config = CoreConfig::default().seed([7; 32]).reactor(reactor);
    Core::new(&config)
}

fn core() -> boson::Result<Core> {
    core_on(ReactorChoice::Epoll)
}

fn run<F: Future>(future: F) -> F::Output {
    run_on(ReactorChoice::Epoll, future)
}

fn run_on<F: Future>(reactor: ReactorChoice, future: F) -> F::Output {
    core_on(reactor)
        .expect("a core")
        .block_on(async { rt::timeout(PATIENCE, future).await.expect("it hangs") })
}

fn listener() -> TcpListener {
    TcpListener::bind_on(&Net::kernel(), SocketAddr::from(([127, 0, 0, 1], 0))).expect("bind")
}

/// Takes every descriptor that the process may have, for as long as the result lives.
fn take_all_descriptors() -> Vec<OwnedFd> {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = Some(256);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("a lower limit");
    let mut taken = vec![OwnedFd::from(std::fs::File::open("/dev/null").expect("there"))];
    while let Ok(copy) = rustix::io::fcntl_dupfd_cloexec(&taken[0], 0) {
        taken.push(copy);
    }
    taken
}

#[test]
fn running_out_of_descriptors_is_an_error_and_passes() {
    own_process!();
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    run(async {
        let listener = listener();
        let address = listener.local_addr();
        // Connected before there are none left, by a thread that keeps its ends.
        let clients: Vec<_> =
            (0..3).map(|_| std::net::TcpStream::connect(address).expect("the backlog has room")).collect();
        let mut taken = take_all_descriptors();
        for _ in 0..2 {
            let error = listener.accept().await.expect_err("none is left");
            assert_eq!((error.kind(), error.code()), (ErrorKind::LimitReached, Some(libc::EMFILE)));
        }
        let error = TcpStream::connect_on(&Net::kernel(), address).await.expect_err("none is left");
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        let error = thread::spawn(|| core().expect_err("none is left")).join().expect("no panic");
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        // There is no new event for connections that wait already: they are found without one.
        taken.truncate(taken.len() - 10);
        for mut client in clients {
            let (stream, _) = listener.accept().await.expect("there are some again");
            client.write_all(b"x").expect("sent");
            let (read, bytes) = stream.read(Vec::with_capacity(8)).await.parts();
            assert_eq!((read.expect("read"), bytes.as_slice()), (1, &b"x"[..]));
        }
    });
}

extern "C" fn nothing(_signal: libc::c_int) {}

/// Interrupts the process all the time, with a handler that does not restart system calls.
struct Alarms;

impl Alarms {
    fn every(period: Duration) -> Self {
        // SAFETY: all zeros is a valid `sigaction`: no flags, an empty mask, the default handler.
        let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
        let handler: extern "C" fn(libc::c_int) = nothing;
        action.sa_sigaction = handler as libc::sighandler_t;
        // SAFETY: `action` is initialised, and its handler does nothing, which is allowed in a
        // handler.
        let set = unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) };
        assert_eq!(set, 0);
        Self::set(period);
        Self
    }

    fn set(period: Duration) {
        let micros = libc::suseconds_t::from(period.subsec_micros().cast_signed());
        let time = libc::timeval { tv_sec: 0, tv_usec: micros };
        let timer = libc::itimerval { it_interval: time, it_value: time };
        // SAFETY: `timer` is initialised; the one before is not asked for.
        let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
        assert_eq!(set, 0);
    }
}

impl Drop for Alarms {
    fn drop(&mut self) {
        Self::set(Duration::ZERO);
    }
}

#[test]
fn signals_disturb_neither_sleeping_nor_sockets_nor_files_on_epoll() {
    own_process!();
    signals_disturb_neither_sleeping_nor_sockets_nor_files(ReactorChoice::Epoll);
}

/// Where io_uring is forbidden this is epoll once more.
#[test]
fn signals_disturb_neither_sleeping_nor_sockets_nor_files_by_default() {
    own_process!();
    signals_disturb_neither_sleeping_nor_sockets_nor_files(ReactorChoice::Auto);
}

fn signals_disturb_neither_sleeping_nor_sockets_nor_files(reactor: ReactorChoice) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let path = std::env::temp_dir().join(format!("boson-signals-{}", std::process::id()));
    let file = path.clone();
    let _alarms = Alarms::every(Duration::from_micros(150));
    run_on(reactor, async move {
        let namespace = KernelNamespace::open_file(&file, Some(1 << 20)).await.expect("open");
        let listener = listener();
        let address = listener.local_addr();
        let client = thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(address).expect("connect");
            for round in 0..200u8 {
                stream.write_all(&[round; 512]).expect("sent");
                let mut reply = [0; 512];
                stream.read_exact(&mut reply).expect("a reply");
                assert_eq!(reply, [round; 512]);
            }
        });
        let (server, _) = listener.accept().await.expect("accept");
        for round in 0..200u64 {
            let mut bytes = Vec::with_capacity(512);
            while bytes.len() < 512 {
                let (read, part) = server.read(Vec::with_capacity(512 - bytes.len())).await.parts();
                assert_ne!(read.expect("read"), 0);
                bytes.extend(part);
            }
            let mut block: DmaBuf = rt::arena().alloc(4096);
            block.fill(bytes[0]);
            let block = namespace.write(round * 4096, block).await.expect("written");
            let block = namespace.read(round * 4096, block).await.expect("read");
            assert!(block.iter().all(|byte| *byte == bytes[0]));
            let started = rt::now();
            rt::sleep(Duration::from_micros(300)).await;
            assert!(rt::now() - started >= Duration::from_micros(300));
            server.write_all(bytes).await.expect("written");
        }
        namespace.flush().await.expect("flushed");
        client.join().expect("no panic");
    });
    std::fs::remove_file(path).expect("there");
}
