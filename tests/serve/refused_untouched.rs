//! What is refused is untouched: a server that does not start leaves files, devices and directories
//! as they were.

use crate::support::not_run;
use crate::support::server;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use server::{Directory, Server};

/// Every file below a directory, with what it holds.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("readable").path();
        // A server keeps the socket for `boson top` in a directory of its own.
        if path.is_dir() {
            continue;
        }
        found.insert(path.clone(), fs::read(&path).expect("readable"));
    }
    found
}

/// Starts a server that must not start, and returns what it said.
fn refused(directory: &Path, arguments: &[&str]) -> String {
    let before = contents(directory);
    match Server::try_start(directory, arguments) {
        Ok(_) => panic!("{arguments:?} were accepted"),
        Err(said) => {
            let after = contents(directory);
            let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&before), names(&after), "{arguments:?}: {said}");
            for (path, bytes) in &before {
                assert!(after[path] == *bytes, "{} was changed by {arguments:?}: {said}", path.display());
            }
            said
        }
    }
}

#[test]
fn foreign_files_of_every_length_are_left_alone() {
    let directory = Directory::new("foreign");
    let path = directory.path().join("my.conf");
    let mut random = StdRng::seed_from_u64(7);
    let lengths = [1, 27, 511, 512, 4095, 4096, 4097, 131_072, (4 << 20) + 1, 9 << 20];
    let mut any_length = || {
        let most = 2usize << random.random_range(0..22);
        random.random_range(1..most)
    };
    let more: Vec<usize> = (0..20).map(|_| any_length()).collect();
    for len in lengths.into_iter().chain(more) {
        let mut bytes = vec![0; len];
        if random.random() {
            random.fill_bytes(&mut bytes);
            bytes[0] = 1;
        } else {
            // All zeros but for one byte anywhere, as a file that was reserved and partly filled.
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random_range(1..=255);
        }
        fs::write(&path, &bytes).expect("a file");
        for store in ["file:my.conf", "file:my.conf?size=64M"] {
            let said = refused(directory.path(), &["--store", store]);
            assert!(said.contains("not a boson store") && said.contains("--format"), "{len} bytes: {said}");
        }
    }
}

#[test]
fn a_file_of_zeros_or_of_nothing_is_taken() {
    for len in [0, 4096, 5000, 9 << 20] {
        let directory = Directory::new("zeros");
        fs::write(directory.path().join("data"), vec![0; len]).expect("a file");
        let server = Server::start(directory.path(), &["--store", "file:data?size=256M"]);
        assert!(server.terminate().success(), "{len} bytes");
        assert_eq!(fs::metadata(directory.path().join("data")).expect("there").len(), 256 << 20);
    }
}

#[test]
fn a_start_that_fails_makes_and_changes_no_file() {
    let directory = Directory::new("failed-start");
    let start = |arguments: &[&str]| refused(directory.path(), arguments);
    assert!(start(&["--store", "file:new?size=1M"]).contains("at least 8388608"));
    assert!(start(&["--store", "file:absent/new"]).contains("No such file"));
    // More than any disk here has.
    assert!(start(&["--store", "file:new?size=15T"]).contains("new"));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    assert!(start(&["--store", "file:new", "--metrics", &address]).contains("in use"));
    assert!(start(&["--store", "file:new", "--inspect", "absent/s.sock"]).contains("absent/s.sock"));
    assert!(start(&["--store", "file:new", "--password-file", "absent"]).contains("absent"));
    assert!(start(&["--store", "file:new", "--cores", "0,1000"]).contains("1000"));

    // The same over a store: its superblocks count how often it was opened.
    let server = Server::start(directory.path(), &["--store", "file:old"]);
    assert!(server.terminate().success());
    assert!(start(&["--store", "file:old", "--metrics", &address]).contains("in use"));
    assert!(start(&["--store", "file:old", "--inspect", "absent/s.sock"]).contains("absent/s.sock"));
    assert!(start(&["--store", "file:old", "--cores", "0,1000"]).contains("1000"));
    assert!(start(&["--store", "file:old?size=16M"]).contains("leave out size="));
    let mut bytes = fs::read(directory.path().join("old")).expect("readable");
    for copy in 0..4 {
        bytes[(copy << 20) + 16] ^= 0x55;
    }
    fs::write(directory.path().join("old"), bytes).expect("written");
    assert!(start(&["--store", "file:old"]).contains("damaged"));
}

/// A loop device over a file, detached when dropped.
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn a_foreign_device_is_left_alone() {
    let directory = Directory::new("foreign-device");
    let path = directory.path().join("image");
    let mut bytes = vec![0; 32 << 20];
    // Past everything that a store looks at to find itself.
    bytes[20 << 20] = 1;
    fs::write(&path, &bytes).expect("an image");
    let output = Command::new("losetup").args(["--find", "--show"]).arg(&path).output();
    let device = match output {
        Ok(output) if output.status.success() => {
            Loop(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        _ => {
            not_run::not_run("a foreign block device: no loop device can be had (root)");
            return;
        }
    };
    let said = refused(directory.path(), &["--store", &format!("blk:{}", device.0)]);
    assert!(said.contains("not a boson store") && said.contains("from byte 20971520 on"), "{said}");
}
