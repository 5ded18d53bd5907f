//! A server whose device is gone says so once and ends with an exit code that a supervisor sees;
//! what was acknowledged is safe.

use crate::support::not_run;
use crate::support::server;
use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use boson::block::{Fault, MemoryOptions};
use boson::sim::{Disk, Executor, SimEnv};
use boson::store::{Db, Durability, Env, Options};
use server::{Client, Directory, Reply, Server};

/// How long a server may take to start, or to end when its device is gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server, and what it says to standard error; killed when dropped.
struct Running {
    child: Child,
    address: SocketAddr,
    said: Option<JoinHandle<String>>,
}

impl Running {
    /// Runs the shell's `line`, which starts a server, and waits until that listens. If it does
    /// not, returns what it said.
    fn start(directory: &Path, line: &str) -> Result<Self, String> {
        let mut child = Command::new("sh")
            .args(["-c", &line.replace("boson ", &format!("exec {} ", env!("CARGO_BIN_EXE_boson")))])
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let mut stderr = child.stderr.take().expect("piped");
        let said = std::thread::spawn(move || {
            let mut said = String::new();
            let _ = stderr.read_to_string(&mut said);
            said
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        let address = line.split("listening on ").nth(1).and_then(|rest| rest.split([' ', ',']).next());
        let Some(address) = address.and_then(|address| address.parse().ok()) else {
            let _ = child.wait();
            return Err(said.join().expect("no panic"));
        };
        Ok(Self { child, address, said: Some(said) })
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Waits until it has ended, which must be soon. Returns how it ended and what it said.
    fn ended(&mut self) -> (ExitStatus, String) {
        let began = Instant::now();
        while self.is_running() {
            assert!(began.elapsed() < PATIENCE, "it still runs");
            std::thread::sleep(Duration::from_millis(5));
        }
        let said = self.said.take().expect("it ends once").join().expect("no panic");
        (self.child.wait().expect("a child"), said)
    }

    /// Asks it to end, and returns what it said.
    fn terminate(mut self) -> String {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it runs");
        let (status, said) = self.ended();
        assert!(status.success(), "{status}: {said}");
        said
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)))
    }
}

/// The last line says what is lost, no other complains again and again, and the exit code is not 0.
fn assert_lost(status: ExitStatus, said: &str, what: &str) {
    assert_eq!(status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("boson: ") && last.contains(what), "{said}");
    let complaints =
        said.lines().filter(|line| line.contains("WARN accepting") || line.contains("ERROR")).count();
    assert!(complaints <= 1, "said more than once: {said}");
}

/// Removes the TAP interface under a server, in a network of this thread's own.
fn lose_tap(directory: PathBuf, name: &str, server: &str) -> Result<(ExitStatus, String), String> {
    // SAFETY: the call takes no pointer; what it changes is this thread's network namespace.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(format!("a network of its own: {}", std::io::Error::last_os_error()));
    }
    let net = format!("--net 'tap:{name}?ip=10.213.78.1/24&host=10.213.78.2/24'");
    let listen = "--listen 10.213.78.1:7 --listen 10.213.78.1:8";
    let mut running = Running::start(&directory, &format!("boson {server} {net} {listen} --inspect none"))?;
    // A connection that waits must not keep the server.
    let mut idle = TcpStream::connect(running.address).expect("it listens");
    if server.starts_with("serve") {
        let mut client = Client::connect(running.address).expect("it listens");
        assert_eq!(client.run("SET k v"), Reply::ok());
    }
    run("ip", &["link", "delete", name])?;
    let ended = running.ended();
    let _ = idle.set_read_timeout(Some(Duration::from_millis(1)));
    let _ = idle.read(&mut [0]);
    Ok(ended)
}

#[test]
fn a_removed_tap_interface_ends_a_server() {
    let directory = Directory::new("lost-tap");
    let store = "file:data?size=64M";
    let serve = format!("serve --store '{store}' --durability interval:3600000");
    for (name, command) in [("bosonlost0", serve.as_str()), ("bosonlost1", "echo")] {
        let (path, command) = (directory.path().to_owned(), command.to_owned());
        // Its network ends with the thread.
        let lost = std::thread::spawn(move || lose_tap(path, name, &command));
        match lost.join().expect("no panic") {
            Ok((status, said)) => assert_lost(status, &said, &format!("tap:{name}")),
            Err(why) => {
                not_run::not_run(&format!("a server whose TAP interface is removed: {why}"));
                return;
            }
        }
    }
    let server = Server::start(directory.path(), &["--store", store, "--inspect", "none"]);
    assert_eq!(server.client().run("GET k"), Reply::bulk("v"));
}

/// An ext4 file system on a loop device, mounted in the test's directory; unmounted when dropped.
struct FileSystem {
    image: PathBuf,
    place: PathBuf,
}

impl FileSystem {
    fn make(directory: &Path) -> Result<Self, String> {
        let (image, place) = (directory.join("image"), directory.join("mounted"));
        let file = File::create(&image).and_then(|file| file.set_len(256 << 20));
        file.and_then(|()| std::fs::create_dir(&place)).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", "-F", image.to_str().expect("UTF-8")])?;
        let file_system = Self { image, place };
        file_system.mount()?;
        Ok(file_system)
    }

    fn mount(&self) -> Result<String, String> {
        let [image, place] = [&self.image, &self.place].map(|path| path.to_str().expect("UTF-8"));
        run("mount", &["-o", "loop", image, place])
    }

    fn unmount(&self) -> Result<String, String> {
        run("umount", &[self.place.to_str().expect("UTF-8")])
    }

    /// Lets every further write fail with `EIO`, as an error of the disk under its journal does
    /// (`EXT4_IOC_SHUTDOWN`).
    fn fail(&self) {
        const EXT4_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587d;
        const WITHOUT_THE_LOG: u32 = 2;
        let flags = WITHOUT_THE_LOG;
        let directory = File::open(&self.place).expect("it is mounted");
        // SAFETY: this request reads one `u32`, to which the pointer is.
        let answer = unsafe { libc::ioctl(directory.as_raw_fd(), EXT4_IOC_SHUTDOWN, &raw const flags) };
        assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        let _ = self.unmount();
    }
}

#[test]
fn a_file_system_that_fails_ends_the_server_and_takes_nothing_acknowledged() {
    const STORE: &str =
        "serve --listen 127.0.0.1:0 --store file:mounted/data --durability sync --inspect none";
    let directory = Directory::new("lost-fs");
    let file_system = match FileSystem::make(directory.path()) {
        Ok(file_system) => file_system,
        Err(why) => return not_run::not_run(&format!("a server whose file system fails: {why}")),
    };
    let mut running = Running::start(directory.path(), &format!("boson {STORE}")).expect("it starts");
    let mut client = Client::connect(running.address).expect("it listens");
    let mut acknowledged = 0;
    while acknowledged < 100 {
        assert_eq!(client.run(&format!("SET k{acknowledged} v")), Reply::ok());
        acknowledged += 1;
    }
    file_system.fail();
    let reply = client.call(&[b"SET", b"lost", b"v"]).expect("the client hears of it before the server ends");
    assert!(matches!(&reply, Reply::Error(text) if text.contains("Input/output error")), "{reply:?}");
    let (status, said) = running.ended();
    assert_lost(status, &said, "Input/output error");
    assert!(said.contains("file:mounted/data"), "{said}");

    file_system.unmount().expect("nobody uses it");
    file_system.mount().expect("the disk works again");
    let running = Running::start(directory.path(), &format!("boson {STORE}")).expect("it starts");
    let mut client = Client::connect(running.address).expect("it listens");
    for number in 0..acknowledged {
        assert_eq!(client.run(&format!("GET k{number}")), Reply::bulk("v"), "k{number}");
    }
    drop(client);
    running.terminate();
}

/// A loop device; taken apart when dropped.
struct LoopDevice {
    path: String,
    image: File,
}

impl LoopDevice {
    fn make(directory: &Path) -> Result<Self, String> {
        let path = directory.join("image");
        let image = File::create(&path).map_err(|error| error.to_string())?;
        image.set_len(256 << 20).map_err(|error| error.to_string())?;
        let path = run("losetup", &["--find", "--show", path.to_str().expect("UTF-8")])?;
        Ok(Self { path, image })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = run("losetup", &["--detach", &self.path]);
    }
}

#[test]
fn a_block_device_that_is_gone_ends_the_server() {
    let directory = Directory::new("lost-blk");
    let device = match LoopDevice::make(directory.path()) {
        Ok(device) => device,
        Err(why) => return not_run::not_run(&format!("a server whose block device is gone: {why}")),
    };
    let store = format!("--store blk:{} --durability sync", device.path);
    let line = format!("boson serve --listen 127.0.0.1:0 {store} --inspect none");
    let mut running = Running::start(directory.path(), &line).expect("it starts");
    let mut client = Client::connect(running.address).expect("it listens");
    assert_eq!(client.run("SET k v"), Reply::ok());
    // What a device is after its disk was pulled: there is nothing of it.
    device.image.set_len(0).expect("ours");
    run("losetup", &["--set-capacity", &device.path]).expect("it is ours");
    let reply = client.call(&[b"SET", b"k", b"w"]).expect("the client hears of it before the server ends");
    assert!(matches!(reply, Reply::Error(_)), "{reply:?}");
    let (status, said) = running.ended();
    assert_lost(status, &said, &device.path);
}

/// A process without descriptors tries again, and says so once, though one comes back now and then.
#[test]
fn want_of_descriptors_is_said_once_and_passes() {
    let directory = Directory::new("descriptors");
    for command in ["serve --store mem:64M", "echo"] {
        let line = format!("ulimit -n 64; boson {command} --listen 127.0.0.1:0 --inspect none");
        let running = Running::start(directory.path(), &line).expect("it starts");
        for _ in 0..2 {
            let waiting: Vec<_> =
                (0..100).map(|_| TcpStream::connect(running.address).expect("it listens")).collect();
            std::thread::sleep(Duration::from_millis(500));
            drop(waiting);
            let began = Instant::now();
            while Client::connect(running.address).and_then(|mut client| client.call(&[b"PING"])).is_err() {
                assert!(began.elapsed() < PATIENCE, "{command}: it accepts no more");
            }
        }
        let said = running.terminate();
        let lines = said.lines().filter(|line| line.contains("accepting on")).count();
        assert_eq!(lines, 1, "{command}: {said}");
    }
}

/// A store in a simulation, and whether it has said that it failed.
async fn store_that_says_so(env: &SimEnv, disk: &Disk) -> (Db<SimEnv, Disk>, Rc<Cell<bool>>) {
    let options = Options::default().identity([9; 16]).durability(Durability::Sync);
    let db = Db::open_on(env.clone(), disk.clone(), options).await.expect("opens");
    let has_failed = Rc::new(Cell::new(false));
    let (failing, told) = (db.clone(), Rc::clone(&has_failed));
    env.spawn("watch", async move {
        assert_eq!(failing.failed().await.code(), Some(libc::EIO));
        told.set(true);
    });
    (db, has_failed)
}

#[test]
fn a_write_that_fails_makes_a_store_say_so() {
    for fault in [Fault::write(), Fault::flush(), Fault::flush().once().loses_cache()] {
        let executor = Executor::new(1);
        let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
        let env = executor.env();
        executor.block_on(async move {
            let (db, has_failed) = store_that_says_so(&env, &disk).await;
            let tree = db.tree("t").expect("valid");
            tree.put(b"k", b"v").await.expect("the disk works");
            env.sleep(Duration::from_secs(10)).await;
            assert!(!has_failed.get(), "{fault:?}: nothing was wrong yet");
            disk.inject([fault.clone()]);
            assert!(tree.put(b"k", b"w").await.is_err(), "{fault:?}");
            env.sleep(Duration::from_secs(10)).await;
            assert!(has_failed.get(), "{fault:?}");
        });
    }
}

/// A place that cannot be read costs what lies there, not the whole store.
#[test]
fn a_read_that_fails_does_not() {
    const KEYS: u32 = 100;
    let executor = Executor::new(1);
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    let env = executor.env();
    executor.block_on(async move {
        let (db, _) = store_that_says_so(&env, &disk).await;
        let tree = db.tree("t").expect("valid");
        let value = vec![7; 64 << 10];
        for number in 0..KEYS {
            tree.put(&number.to_be_bytes(), &value).await.expect("the disk works");
        }
        db.close().await.expect("the disk works");
        let mut failed_reads = 0_u32;
        for place in (0..64).map(|megabyte| megabyte << 20) {
            let (db, has_failed) = store_that_says_so(&env, &disk).await;
            let tree = db.tree("t").expect("valid");
            disk.inject([Fault::read().within(place..place + (1 << 20))]);
            for number in 0..KEYS {
                failed_reads += u32::from(tree.get(&number.to_be_bytes()).await.is_err());
            }
            disk.inject([]);
            env.sleep(Duration::from_secs(10)).await;
            assert!(!has_failed.get(), "a read at {place} failed");
            tree.put(b"k", b"v").await.expect("writes go on");
            db.close().await.expect("and so does everything else");
            if failed_reads > 0 {
                return;
            }
        }
        panic!("no place was hit");
    });
}
