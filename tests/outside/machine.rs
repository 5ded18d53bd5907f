//! A virtual machine as `scripts/guest` describes it, from outside: booted, told what to run by a
//! shell on its second serial line, and without power from one instant to the next.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::server::{Client, Reply};

/// How long an emulated machine may take for anything.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a machine is switched on whose emulator aborts while it boots. QEMU before 8.1 has a
/// race: one processor writes where a device's registers were when another has just moved them
/// (fixed by "softmmu: Use async_run_on_cpu in tcg_commit"), which some assertion of QEMU's finds.
const ATTEMPTS: u32 = 3;
/// The port of the first server in the machine; the next one has the next.
const FIRST_PORT: u16 = 7001;

/// What `scripts/guest` says of the machine.
pub(crate) fn said(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("scripts/guest sets {variable}"))
}

/// A file of the machine's: the image of a namespace, or the log of its writes.
pub(crate) fn file(name: &str) -> PathBuf {
    PathBuf::from(said("BOSON_OUTSIDE_FILES")).join(name)
}

/// A machine that runs; without power when dropped.
pub(crate) struct Machine {
    qemu: Child,
    shell: BufReader<UnixStream>,
    /// Its servers' process ids, in the machine.
    servers: Vec<String>,
    /// Where its servers are seen from here.
    addresses: Vec<SocketAddr>,
}

impl Machine {
    /// Boots it, with this many ports for servers. The namespaces hold what they held, and the logs
    /// of their writes are empty.
    pub(crate) fn boot(servers: u16) -> Self {
        for attempt in 1.. {
            match Self::try_boot(servers) {
                Ok(machine) => return machine,
                Err(console) if attempt < ATTEMPTS && emulator_aborted(&console) => {
                    eprintln!("the emulator aborted, and is started again: {console}");
                }
                Err(console) => panic!("the machine went off: {console}"),
            }
        }
        unreachable!("the last attempt returns or panics")
    }

    /// What the console said, when the machine goes off before it is up.
    fn try_boot(servers: u16) -> Result<Self, String> {
        let ports = free_ports(servers);
        let forwarded: String = (FIRST_PORT..)
            .zip(&ports)
            .map(|(inside, outside)| format!(",hostfwd=tcp:127.0.0.1:{outside}-:{inside}"))
            .collect();
        let log = std::fs::File::create(file("console")).expect("writable");
        let qemu = Command::new(said("BOSON_OUTSIDE_MACHINE"))
            .arg(format!("user,id=outside,restrict=on{forwarded}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("scripts/guest wrote it");
        let mut waiting = Waiting::new(qemu);
        let stream = waiting.until("a line to the shell", || UnixStream::connect(file("shell")).ok());
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        let mut shell = BufReader::new(stream);
        let mut line = String::new();
        while !line.ends_with("READY\n") {
            line.clear();
            match shell.read_line(&mut line) {
                // An emulator that aborts may close the line or reset it.
                Ok(0) => return Err(console()),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(console()),
                read => read.expect("the machine comes up"),
            };
        }
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Self {
            qemu: waiting.done(),
            shell,
            servers: Vec::new(),
            addresses: ports.into_iter().map(local).collect(),
        })
    }

    /// Runs a line of shell in the machine, and returns what it wrote.
    pub(crate) fn run(&mut self, line: &str) -> String {
        writeln!(self.shell.get_mut(), "{line}").expect("the machine is on");
        let mut all = String::new();
        while !all.ends_with("END\n") {
            let len = self.shell.read_line(&mut all).expect("the shell answers");
            assert_ne!(len, 0, "the machine went off: {}", console());
        }
        all.truncate(all.len() - "END\n".len());
        all
    }

    /// Starts `boson serve` as server `number` of the machine.
    pub(crate) fn serve(&mut self, number: usize, arguments: &str) {
        let port = usize::from(FIRST_PORT) + number;
        let id = self.run(&format!(
            "$BOSON_GUEST_PROGRAM serve --listen 0.0.0.0:{port} --inspect none {arguments} < /dev/null > /tmp/server{number} 2>&1 & \
             echo $!"
        ));
        self.servers.push(id.trim().to_owned());
    }

    /// Waits until server `number` answers here.
    pub(crate) fn until_served(&mut self, number: usize) {
        let started = Instant::now();
        while !self.answers(number) {
            assert!(started.elapsed() < PATIENCE, "no server: {}", self.server_said(number));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn answers(&self, number: usize) -> bool {
        let Ok(mut client) = Client::connect(self.address(number)) else { return false };
        client.call(&[b"PING"]).is_ok_and(|reply| reply == Reply::Status("PONG".to_owned()))
    }

    /// What server `number` wrote.
    pub(crate) fn server_said(&mut self, number: usize) -> String {
        self.run(&format!("cat /tmp/server{number}"))
    }

    /// SIGKILL for every server, which are gone after this.
    pub(crate) fn kill_servers(&mut self) {
        let ids = std::mem::take(&mut self.servers).join(" ");
        self.run(&format!("kill -KILL {ids}; wait"));
    }

    /// Where a server is seen from here.
    pub(crate) fn address(&self, number: usize) -> SocketAddr {
        self.addresses[number]
    }

    /// Ends it between two instructions. What its controllers had taken, or were about to write, is
    /// on the images or not.
    pub(crate) fn cut_power(mut self) {
        self.qemu.kill().expect("it runs");
        self.qemu.wait().expect("it ends");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// A machine that does not answer yet.
struct Waiting {
    qemu: Option<Child>,
    since: Instant,
}

impl Waiting {
    fn new(qemu: Child) -> Self {
        Self { qemu: Some(qemu), since: Instant::now() }
    }

    fn until<T>(&mut self, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Some(found) = found() {
                return found;
            }
            let ended = self.qemu.as_mut().and_then(|qemu| qemu.try_wait().expect("a child"));
            assert!(ended.is_none() && self.since.elapsed() < PATIENCE, "no {what}: {}", console());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn done(mut self) -> Child {
        self.qemu.take().expect("it was started")
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(qemu) = &mut self.qemu {
            let _ = qemu.kill();
            let _ = qemu.wait();
        }
    }
}

/// Whether it was QEMU that gave up, and not what runs in the machine.
fn emulator_aborted(console: &str) -> bool {
    console.lines().any(|line| line.starts_with("qemu-system") && line.contains("Assertion"))
}

fn console() -> String {
    std::fs::read_to_string(file("console")).unwrap_or_default()
}

/// Ports that nobody has at the moment.
fn free_ports(count: u16) -> Vec<u16> {
    let listeners: Vec<_> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("bound").port()).collect()
}

/// How many entries the log of a namespace's writes has: at least those up to the last flush that
/// the machine was told of.
pub(crate) fn logged(log: &std::fs::File) -> u64 {
    let mut bytes = [0; 8];
    // Before the first flush there is no superblock.
    let _ = log.read_exact_at(&mut bytes, super::write_log::COUNT_OFFSET);
    u64::from_le_bytes(bytes)
}
