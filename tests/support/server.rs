//! A real `boson serve` process and a small blocking Redis client, for end-to-end tests.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a server may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory of one test, removed when it ends.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("boson-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The program; `scripts/guest` has it elsewhere.
fn program() -> OsString {
    std::env::var_os("BOSON_GUEST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_boson").into())
}

/// A running `boson serve`; killed when dropped.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    start_line: String,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Server {
    /// Starts `boson serve --listen 127.0.0.1:0` with `arguments` in `directory`, and waits for its
    /// start-up line.
    pub(crate) fn start(directory: &Path, arguments: &[&str]) -> Self {
        match Self::try_start(directory, arguments) {
            Ok(server) => server,
            Err(failure) => panic!("the server did not start: {failure}"),
        }
    }

    /// The same, or what the server wrote to standard error before it ended.
    pub(crate) fn try_start(directory: &Path, arguments: &[&str]) -> Result<Self, String> {
        let mut child = Command::new(program())
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .current_dir(directory)
            // Its socket for `boson top` is the test's own too.
            .env("XDG_RUNTIME_DIR", directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut start_line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut start_line).expect("standard output");
        let mut stderr = child.stderr.take().expect("piped");
        let listening =
            start_line.split("listening on ").nth(1).and_then(|rest| rest.split([' ', ',']).next());
        let Some(address) = listening.and_then(|address| address.parse().ok()) else {
            let _ = child.kill();
            let _ = child.wait();
            let mut said = String::new();
            let _ = stderr.read_to_string(&mut said);
            return Err(format!("{start_line}{said}"));
        };
        // Log lines must not fill the pipe and stop the server.
        let log = Arc::<Mutex<Vec<u8>>>::default();
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(len @ 1..) = stderr.read(&mut chunk) {
                lines.lock().expect("no holder panics").extend_from_slice(&chunk[..len]);
            }
        });
        Ok(Self { child, address, start_line, log })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn start_line(&self) -> &str {
        &self.start_line
    }

    /// What it has written to standard error so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().expect("no holder panics")).into_owned()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address).expect("the server listens")
    }

    /// SIGKILL, at once.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        let id = i32::try_from(self.child.id()).expect("process ids are positive");
        let process = rustix::process::Pid::from_raw(id).expect("process ids are positive");
        rustix::process::kill_process(process, rustix::process::Signal::TERM).expect("it runs");
        self.wait()
    }

    /// How it ended by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "the server does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A reply in RESP2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Status(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Reply>),
}

impl Reply {
    pub(crate) fn ok() -> Self {
        Self::Status("OK".to_owned())
    }

    pub(crate) fn bulk(text: &str) -> Self {
        Self::Bulk(text.as_bytes().to_vec())
    }
}

/// A blocking connection.
pub(crate) struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// The socket below, for raw bytes.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        self.reader.get_mut()
    }

    /// Sends one command and waits for its reply.
    pub(crate) fn call(&mut self, arguments: &[&[u8]]) -> io::Result<Reply> {
        self.send(arguments)?;
        self.receive()
    }

    /// `call` of a line of words without quoting.
    pub(crate) fn run(&mut self, line: &str) -> Reply {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.call(&words).expect("the server replies")
    }

    /// Sends one command.
    pub(crate) fn send(&mut self, arguments: &[&[u8]]) -> io::Result<()> {
        let mut request = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            request.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            request.extend_from_slice(argument);
            request.extend_from_slice(b"\r\n");
        }
        self.reader.get_mut().write_all(&request)
    }

    /// Waits for one reply.
    pub(crate) fn receive(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 || !line.ends_with("\r\n") {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (kind, rest) = line.trim_end().split_at(1);
        let number = || rest.parse::<i64>().map_err(|_| io::Error::other(format!("no number: {line:?}")));
        match kind {
            "+" => Ok(Reply::Status(rest.to_owned())),
            "-" => Ok(Reply::Error(rest.to_owned())),
            ":" => Ok(Reply::Integer(number()?)),
            "$" => match usize::try_from(number()?) {
                Err(_) => Ok(Reply::Nil),
                Ok(len) => {
                    let mut bytes = vec![0; len + 2];
                    self.reader.read_exact(&mut bytes)?;
                    bytes.truncate(len);
                    Ok(Reply::Bulk(bytes))
                }
            },
            "*" => match usize::try_from(number()?) {
                Err(_) => Ok(Reply::Nil),
                Ok(count) => (0..count).map(|_| self.receive()).collect::<io::Result<_>>().map(Reply::Array),
            },
            _ => Err(io::Error::other(format!("no RESP2 reply: {line:?}"))),
        }
    }
}
