//! The inspection protocol, both ends: an inspector that is asked anything, a client that is
//! answered anything.
#![no_main]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;

use boson::observe::TaskRange;
use boson::observe::inspect::{Client, Inspector};
use boson::rt::{CoreConfig, CoreThread};
use libfuzzer_sys::fuzz_target;

fn socket_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("boson-fuzz-{}-{name}.sock", std::process::id()))
}

/// An inspector of a core that does nothing.
static ASKED: LazyLock<(PathBuf, Inspector, CoreThread)> = LazyLock::new(|| {
    let path = socket_path("asked");
    let config = CoreConfig::default();
    let core = CoreThread::start("idle", &config).expect("a core");
    let inspector = Inspector::start(&path, "fuzz", vec![core.handle().clone()]).expect("an inspector");
    (path, inspector, core)
});

/// A socket that answers each request with the bytes of the moment.
static ANSWERING: LazyLock<(PathBuf, Arc<Mutex<Vec<u8>>>)> = LazyLock::new(|| {
    let path = socket_path("answering");
    let answer = Arc::new(Mutex::new(Vec::new()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("a socket");
    let shared = Arc::clone(&answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.read(&mut [0; 512]);
            // The client may have seen enough and be gone.
            let _ = stream.write_all(&shared.lock().expect("no panic while it is held"));
        }
    });
    (path, answer)
});

fn ask(request: &[u8]) {
    let Ok(mut stream) = UnixStream::connect(&ASKED.0) else { return };
    let _ = stream.write_all(request);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    // An inspector that does not like the request closes the connection on it.
    if stream.read_to_end(&mut answer).is_ok() && !answer.is_empty() {
        let answer = std::str::from_utf8(&answer).expect("an answer is text");
        assert!(answer.starts_with("boson-inspect/1 "), "{answer:?}");
        assert!(answer.ends_with('\n'), "{answer:?}");
    }
}

fn answer(bytes: &[u8]) {
    let (path, shared) = &*ANSWERING;
    shared.lock().expect("no panic while it is held").splice(.., bytes.iter().copied());
    let client = Client::new(path);
    let _ = client.snapshot();
    let _ = client.tasks(0, TaskRange::ALL);
}

fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((b'?', request)) => ask(request),
        Some((_, bytes)) => answer(bytes),
        None => {}
    }
});
