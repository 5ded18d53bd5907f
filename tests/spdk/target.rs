//! An NVMe over TCP target on the loopback: SPDK's own, in a process of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::not_run::not_run;

const NQN: &str = "nqn.2016-06.io.spdk:boson";

/// A target with a namespace in memory (1, 64 MiB, blocks of 4096 bytes), a slow one (2: every
/// operation takes half a second), one that is hardly there (3: every operation takes 45 seconds),
/// one whose size may be changed (4: `Grows`), and one that keeps commands back and aborts none
/// ([`Target::keep_back`], 5). It ends with this value.
pub(crate) struct Target {
    port: u16,
    /// The most that a controller has.
    queue_pairs: u32,
    process: Option<Child>,
    directory: PathBuf,
}

impl Target {
    /// Starts one, or says that there is none.
    pub(crate) fn start(name: &str) -> Option<Self> {
        let found = std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path).any(|directory| directory.join("nvmf_tgt").is_file())
        });
        if !found {
            not_run("NVMe over TCP: SPDK's nvmf_tgt is not in the PATH");
            return None;
        }
        let directory = std::env::temp_dir().join(format!("boson-spdk-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let port = port.expect("a free port").port();
        let mut target = Self { port, queue_pairs: 8, process: None, directory };
        target.restart();
        Some(target)
    }

    pub(crate) fn address(&self, nsid: u32) -> String {
        format!("spdk:tcp/127.0.0.1:{}/{NQN}/{nsid}", self.port)
    }

    /// Kills it as a crash does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it runs");
            process.wait().expect("it is a child");
        }
    }

    /// From its next start on its controllers have this many queue pairs.
    pub(crate) fn set_queue_pairs(&mut self, queue_pairs: u32) {
        self.queue_pairs = queue_pairs;
    }

    /// Has it stand still, or go on.
    pub(crate) fn stand_still(&self, still: bool) {
        let id = self.process.as_ref().expect("it runs").id();
        let process = rustix::process::Pid::from_raw(i32::try_from(id).expect("positive")).expect("positive");
        let signal = if still { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        rustix::process::kill_process(process, signal).expect("it runs");
    }

    /// Asks it for something, in the words of SPDK's JSON-RPC, and gives what it says.
    pub(crate) fn ask(&self, method: &str, parameters: &str) -> String {
        let mut socket = UnixStream::connect(self.directory.join("rpc.sock")).expect("its socket");
        let request =
            format!(r#"{{"jsonrpc": "2.0", "id": 1, "method": "{method}", "params": {parameters}}}"#);
        socket.write_all(request.as_bytes()).expect("it reads");
        let mut answer = [0; 4096];
        let len = socket.read(&mut answer).expect("it answers");
        String::from_utf8_lossy(&answer[..len]).into_owned()
    }

    /// Keeps the next read of namespace 5 back until [`Target::go_on`].
    pub(crate) fn keep_back(&self) {
        let what = r#"{"name": "EE_Base", "io_type": "read", "error_type": "pending", "num": 1}"#;
        let said = self.ask("bdev_error_inject_error", what);
        assert!(said.contains("true"), "{said}");
    }

    pub(crate) fn go_on(&self) {
        let said = self.ask("bdev_error_resume_pending", r#"{"name": "EE_Base"}"#);
        assert!(said.contains("true"), "{said}");
    }

    /// Starts it if it does not run.
    pub(crate) fn ensure_running(&mut self) {
        if self.process.is_none() {
            self.restart();
        }
    }

    /// Starts it again on the same port.
    pub(crate) fn restart(&mut self) {
        let config = self.directory.join("target.json");
        std::fs::write(&config, configuration(self.port, self.queue_pairs)).expect("a temporary file");
        let socket = self.directory.join("rpc.sock");
        let mut process = Command::new("nvmf_tgt")
            .args(["-m", "0x1", "--disable-cpumask-locks", "--no-pci", "--no-huge", "-s", "512", "-r"])
            .arg(&socket)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nvmf_tgt starts");
        let errors = BufReader::new(process.stderr.take().expect("piped"));
        // What it says is of interest only if it does not start.
        let said = std::thread::spawn(move || errors.lines().map_while(Result::ok).collect::<Vec<_>>());
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = process.try_wait().expect("a child").is_some();
            if ended || Instant::now() > until {
                let _ = process.kill();
                let _ = process.wait();
                panic!("the target does not listen: {:?}", said.join());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.process = Some(process);
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn configuration(port: u16, queue_pairs: u32) -> String {
    format!(
        r#"{{"subsystems": [
            {{"subsystem": "iobuf", "config": [{{"method": "iobuf_set_options",
                "params": {{"small_pool_count": 2048, "large_pool_count": 256}}}}]}},
            {{"subsystem": "bdev", "config": [
                {{"method": "bdev_set_options", "params": {{"bdev_auto_examine": false}}}},
                {{"method": "bdev_malloc_create",
                    "params": {{"name": "Memory", "num_blocks": 16384, "block_size": 4096}}}},
                {{"method": "bdev_null_create",
                    "params": {{"name": "Nothing", "num_blocks": 16384, "block_size": 4096}}}},
                {{"method": "bdev_delay_create", "params": {{"name": "Slow", "base_bdev_name": "Nothing",
                    "avg_read_latency": 500000, "p99_read_latency": 500000,
                    "avg_write_latency": 500000, "p99_write_latency": 500000}}}},
                {{"method": "bdev_null_create",
                    "params": {{"name": "Void", "num_blocks": 16384, "block_size": 4096}}}},
                {{"method": "bdev_delay_create", "params": {{"name": "Stuck", "base_bdev_name": "Void",
                    "avg_read_latency": 45000000, "p99_read_latency": 45000000,
                    "avg_write_latency": 45000000, "p99_write_latency": 45000000}}}},
                {{"method": "bdev_null_create",
                    "params": {{"name": "Grows", "num_blocks": 16384, "block_size": 4096}}}},
                {{"method": "bdev_null_create",
                    "params": {{"name": "Base", "num_blocks": 16384, "block_size": 4096}}}},
                {{"method": "bdev_error_create", "params": {{"base_name": "Base"}}}},
                {{"method": "bdev_wait_for_examine"}}]}},
            {{"subsystem": "nvmf", "config": [
                {{"method": "nvmf_create_transport", "params": {{"trtype": "TCP", "max_io_qpairs_per_ctrlr": {queue_pairs},
                    "num_shared_buffers": 511, "buf_cache_size": 16}}}},
                {{"method": "nvmf_create_subsystem", "params": {{"nqn": "{NQN}", "allow_any_host": true,
                    "serial_number": "BOSON1", "model_number": "boson test"}}}},
                {{"method": "nvmf_subsystem_add_ns",
                    "params": {{"nqn": "{NQN}", "namespace": {{"nsid": 1, "bdev_name": "Memory"}}}}}},
                {{"method": "nvmf_subsystem_add_ns",
                    "params": {{"nqn": "{NQN}", "namespace": {{"nsid": 2, "bdev_name": "Slow"}}}}}},
                {{"method": "nvmf_subsystem_add_ns",
                    "params": {{"nqn": "{NQN}", "namespace": {{"nsid": 3, "bdev_name": "Stuck"}}}}}},
                {{"method": "nvmf_subsystem_add_ns",
                    "params": {{"nqn": "{NQN}", "namespace": {{"nsid": 4, "bdev_name": "Grows"}}}}}},
                {{"method": "nvmf_subsystem_add_ns",
                    "params": {{"nqn": "{NQN}", "namespace": {{"nsid": 5, "bdev_name": "EE_Base"}}}}}},
                {{"method": "nvmf_subsystem_add_listener", "params": {{"nqn": "{NQN}", "listen_address": {{
                    "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": "{port}"}}}}}}]}}
        ]}}"#
    )
}
