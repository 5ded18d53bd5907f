//! What a test asks of the machine around the virtual one: `scripts/guest` reads its console.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{PATIENCE, device};

/// Where the answers arrive: the second serial line.
static ANSWERS: Mutex<Option<(BufReader<File>, u64)>> = Mutex::new(None);

/// Asks for something and does not wait for it.
pub(crate) fn ask(what: &str) {
    std::fs::write("/dev/console", format!("\nHOST {what}\n")).expect("the console");
}

/// From now on the request of this kind, `read` or `write`, fails that comes after `count` more of
/// its kind, once. `image` is the namespace by the name of its image in `scripts/guest`. The fault
/// before it is gone.
pub(crate) fn fail_once(image: &str, kind: &str, count: u64) {
    let mut answers = ANSWERS.lock().expect("no holder panics");
    let (line, number) =
        answers.get_or_insert_with(|| (BufReader::new(File::open("/dev/ttyS1").expect("it is there")), 0));
    *number += 1;
    ask(&format!("fail {image} {kind} {count} {number}"));
    let mut answer = String::new();
    line.read_line(&mut answer).expect("the host answers");
    assert_eq!(answer.trim(), number.to_string(), "the answer to this request");
}

pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

static WAS_PULLED: AtomicBool = AtomicBool::new(false);

/// The controller in a slot of its own, which is pulled out and put back.
pub(crate) struct Hot {
    address: String,
    directory: PathBuf,
}

impl Hot {
    pub(crate) fn new() -> Self {
        let address = device("BOSON_GUEST_VFIO_HOT");
        let directory = Path::new("/sys/bus/pci/devices").join(&address);
        Self { address, directory }
    }

    pub(crate) fn is_there(&self) -> bool {
        self.directory.exists()
    }

    /// Asks for it to be pulled out. The kernel waits for those who have it under VFIO.
    pub(crate) fn pull(&self) {
        WAS_PULLED.store(true, Ordering::SeqCst);
        ask("device_del hot");
    }

    /// Whether it was pulled and is not gone yet.
    pub(crate) fn is_leaving(&self) -> bool {
        WAS_PULLED.load(Ordering::SeqCst) && self.is_there()
    }

    /// Puts it back, if it is out, and gives it to this driver of the kernel's.
    pub(crate) fn put_back(&self, driver: &str) {
        wait_until("the device goes", || !self.is_leaving());
        WAS_PULLED.store(false, Ordering::SeqCst);
        if !self.is_there() {
            ask("device_add hot");
            wait_until("the device comes", || self.is_there());
        }
        let write = |file: &Path, text: &str| {
            std::fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        };
        write(&self.directory.join("driver_override"), driver);
        let link = self.directory.join("driver");
        // After it came the kernel looks for a driver by itself.
        wait_until("a driver takes it", || link.exists());
        let is_with = || std::fs::read_link(&link).is_ok_and(|link| link.ends_with(driver));
        if !is_with() {
            write(&link.join("unbind"), &self.address);
            write(Path::new("/sys/bus/pci/drivers_probe"), &self.address);
            wait_until("the driver takes it", is_with);
        }
    }

    /// Its namespace's node in `/dev` whose name begins so: `nvme` or `ng`. The kernel's driver has
    /// it, and makes the nodes after that.
    pub(crate) fn node(&self, begins: &str) -> PathBuf {
        let mut found = None;
        wait_until("its namespace comes", || {
            found = self.find(begins);
            found.is_some()
        });
        found.expect("it was found")
    }

    fn find(&self, begins: &str) -> Option<PathBuf> {
        let controller = self.directory.join("nvme").read_dir().ok()?.next()?.ok()?.path();
        let names =
            controller.read_dir().ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut nodes =
            names.filter(|name| name.starts_with(begins)).map(|name| Path::new("/dev").join(name));
        nodes.find(|node| node.exists())
    }
}
