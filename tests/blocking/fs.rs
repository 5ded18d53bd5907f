//! `boson::blocking::fs` beside `std::fs`, over both reactors and on a plain thread.

use std::cell::Cell;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use boson::blocking::fs::{self, DirBuilder, File, FileTimes, OpenOptions, TRANSFER_BYTES, TryLockError};
use boson::blocking::os::unix::fs::{chown, fchown, lchown, symlink};
use boson::observe;
use boson::rt::reactor::ReactorChoice;
use boson::rt::{self, Core, CoreConfig};
use boson::thread;

/// A directory that goes with this value.
struct Temporary(PathBuf);

impl Temporary {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("boson-blocking-fs-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("room for a directory");
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn core(reactor: ReactorChoice) -> Core {
    let config = CoreConfig::default().seed([7; 32]).reactor(reactor);
    Core::new(&config).expect("a core")
}

/// Runs `test` in a coroutine over the best reactor and over epoll, and on a plain thread, each in
/// an empty directory.
fn everywhere(name: &str, test: fn(&Path)) {
    for reactor in [ReactorChoice::Auto, ReactorChoice::Epoll] {
        let directory = Temporary::new(&format!("{name}-{reactor:?}"));
        let path = directory.0.clone();
        if let Err(payload) = thread::try_run_on(&core(reactor), move || test(&path)).expect("the core runs")
        {
            std::panic::resume_unwind(payload);
        }
    }
    test(&Temporary::new(&format!("{name}-thread")).0);
}

/// Bytes that differ from their neighbours.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at * 7 % 251).expect("below 251")).collect()
}

#[test]
fn what_is_written_is_what_std_reads_and_the_reverse() {
    everywhere("whole", |directory| {
        let path = directory.join("file");
        for len in [0, 1, 4096, TRANSFER_BYTES - 1, TRANSFER_BYTES, 3 * TRANSFER_BYTES + 17] {
            let bytes = pattern(len);
            fs::write(&path, &bytes).expect("there is room");
            assert!(std::fs::read(&path).expect("just written") == bytes, "{len} bytes written");
            assert!(fs::read(&path).expect("just written") == bytes, "{len} bytes read");
        }
        std::fs::write(&path, "größer").expect("there is room");
        assert_eq!(fs::read_to_string(&path).expect("it is text"), "größer");
        std::fs::write(&path, [0xff]).expect("there is room");
        assert_eq!(fs::read_to_string(&path).expect_err("it is no text").kind(), ErrorKind::InvalidData);
    });
}

#[test]
fn a_file_reads_writes_and_seeks_where_std_would() {
    everywhere("cursor", |directory| {
        let path = directory.join("file");
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("new");
        file.write_all(b"0123456789").expect("there is room");
        assert_eq!(file.stream_position().expect("a file"), 10);
        assert_eq!(file.seek(SeekFrom::Start(2)).expect("within"), 2);
        let mut some = [0; 3];
        file.read_exact(&mut some).expect("there are as many");
        assert_eq!(&some, b"234");
        // At offsets: the place stays.
        file.write_all_at(b"XY", 8).expect("there is room");
        file.read_exact_at(&mut some, 7).expect("there are as many");
        assert_eq!(&some, b"7XY");
        let short = file.read_exact_at(&mut some, 9).expect_err("one is left");
        assert_eq!(short.kind(), ErrorKind::UnexpectedEof);
        // Handles to the same open file share the place.
        let mut other = file.try_clone().expect("a handle");
        assert_eq!(other.seek(SeekFrom::Current(1)).expect("within"), 6);
        let mut rest = Vec::new();
        (&file).read_to_end(&mut rest).expect("a file");
        assert_eq!(rest, b"67XY");
        assert_eq!(file.read(&mut some).expect("a file"), 0, "the end");
        file.seek(SeekFrom::End(-1)).expect("within");
        file.write_all(b"end").expect("there is room");
        assert_eq!(std::fs::read(&path).expect("a file"), b"01234567Xend");
        file.set_len(4).expect("there is room");
        file.sync_data().expect("a file");
        file.sync_all().expect("a file");
        assert_eq!(file.metadata().expect("a file").len(), 4);
        assert!(file.seek(SeekFrom::Current(-100)).is_err());
        assert!(file.read_at(&mut some, u64::MAX).is_err(), "no offset is mistaken for the file's place");
        drop(file);

        let mut log = File::options().append(true).open(&path).expect("it is there");
        std::fs::write(&path, "longer than before").expect("there is room");
        log.write_all(b"!").expect("there is room");
        assert_eq!(std::fs::read_to_string(&path).expect("text"), "longer than before!");
    });
}

#[test]
fn directories_and_names_are_as_std_has_them() {
    everywhere("names", |directory| {
        let at = |name: &str| directory.join(name);
        fs::create_dir(at("a")).expect("new");
        fs::create_dir_all(at("b/c/d")).expect("new");
        fs::write(at("a/file"), "text").expect("there is room");
        assert_eq!(fs::copy(at("a/file"), at("b/copy")).expect("there is room"), 4);
        fs::rename(at("b/copy"), at("b/renamed")).expect("it is there");
        fs::hard_link(at("b/renamed"), at("b/second")).expect("the same file system");
        std::os::unix::fs::symlink(at("a/file"), at("link")).expect("new");
        assert_eq!(fs::read_link(at("link")).expect("a link"), at("a/file"));
        assert_eq!(
            fs::canonicalize(at("link")).expect("it leads somewhere"),
            std::fs::canonicalize(at("a/file")).expect("it is there")
        );
        assert!(fs::metadata(at("link")).expect("it leads somewhere").is_file());
        assert!(fs::symlink_metadata(at("link")).expect("a link").is_symlink());
        assert!(
            fs::exists(at("b/renamed")).expect("a directory") && !fs::exists(at("b/copy")).expect("likewise")
        );
        fs::set_permissions(at("a/file"), fs::Permissions::from_mode(0o600)).expect("ours");
        let mode = std::fs::metadata(at("a/file")).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // More than are fetched at once.
        for number in 0..300 {
            std::fs::write(at("b/c").join(number.to_string()), "").expect("there is room");
        }
        let name = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry.expect("a directory");
            let kind = entry.file_type().expect("it is there");
            assert_eq!(kind.is_dir(), entry.metadata().expect("it is there").is_dir());
            assert_eq!(entry.path().file_name(), Some(&*entry.file_name()));
            (entry.file_name(), kind.is_dir())
        };
        let mut ours: Vec<_> = fs::read_dir(at("b/c")).expect("a directory").map(name).collect();
        let mut theirs: Vec<_> = std::fs::read_dir(at("b/c"))
            .expect("a directory")
            .map(|entry| entry.expect("a directory"))
            .map(|entry| (entry.file_name(), entry.file_type().expect("it is there").is_dir()))
            .collect();
        ours.sort();
        theirs.sort();
        assert_eq!(ours.len(), 301);
        assert_eq!(ours, theirs);
        fs::remove_file(at("b/second")).expect("it is there");
        fs::remove_dir(at("a")).expect_err("it is not empty");
        fs::remove_dir_all(at("b")).expect("it is there");
        assert!(!at("b").exists());
    });
}

#[test]
fn errors_are_those_of_std() {
    everywhere("errors", |directory| {
        let missing = directory.join("missing/file");
        let code = |error: std::io::Error| error.raw_os_error().expect("the system's");
        assert_eq!(code(File::open(&missing).expect_err("missing")), libc::ENOENT);
        assert_eq!(code(fs::read(&missing).expect_err("missing")), libc::ENOENT);
        assert_eq!(code(fs::write(directory, "").expect_err("a directory")), libc::EISDIR);
        assert_eq!(code(fs::read(directory).expect_err("a directory")), libc::EISDIR);
        assert_eq!(code(fs::create_dir(directory).expect_err("it is there")), libc::EEXIST);
        assert_eq!(code(fs::read_dir(&missing).expect_err("missing")), libc::ENOENT);
        let path = directory.join("file");
        File::create_new(&path).expect("new");
        assert_eq!(code(File::create_new(&path).expect_err("it is there")), libc::EEXIST);
        let mut read_only = File::open(&path).expect("it is there");
        assert_eq!(code(read_only.write(b"x").expect_err("not opened to write")), libc::EBADF);
        let full = OpenOptions::new().write(true).open("/dev/full").expect("a device");
        assert_eq!(code((&full).write(b"x").expect_err("it is always full")), libc::ENOSPC);
    });
}

#[test]
fn several_buffers_are_read_and_written_as_one() {
    everywhere("vectored", |directory| {
        let path = directory.join("file");
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).expect("new");
        let long = pattern(TRANSFER_BYTES);
        let bufs = [b"".as_slice(), b"one", b"", b"three", &long].map(IoSlice::new);
        let written = file.write_vectored(&bufs).expect("room");
        assert!(written > 8);
        let all = [b"onethree".as_slice(), &long].concat();
        assert_eq!(std::fs::read(&path).expect("there"), all[..written]);

        file.rewind().expect("a file");
        let (mut a, mut b, mut c) = ([0; 2], [0; 0], [0; 4]);
        let mut into = [&mut a[..], &mut b[..], &mut c[..]].map(IoSliceMut::new);
        assert_eq!(file.read_vectored(&mut into).expect("there"), 6);
        assert_eq!((&a, &c), (b"on", b"ethr"));
        file.seek(SeekFrom::End(-1)).expect("a file");
        assert_eq!(file.read_vectored(&mut [IoSliceMut::new(&mut a)]).expect("there"), 1);
        assert_eq!(file.read_vectored(&mut []).expect("nothing is asked for"), 0);
    });
}

#[test]
fn times_owners_links_and_modes_are_changed_as_in_std() {
    everywhere("times", |directory| {
        let path = directory.join("file");
        let file = File::create(&path).expect("new");
        let (early, late) = (Duration::from_secs(1_000), Duration::from_secs(2_000));
        let (early, late) = (SystemTime::UNIX_EPOCH + early, SystemTime::UNIX_EPOCH + late);
        file.set_times(FileTimes::new().set_accessed(early).set_modified(early)).expect("ours");
        file.set_modified(late).expect("ours");
        let metadata = std::fs::metadata(&path).expect("there");
        assert_eq!((metadata.accessed().ok(), metadata.modified().ok()), (Some(early), Some(late)));

        let link = directory.join("link");
        symlink("file", &link).expect("new");
        assert_eq!(fs::read_link(&link).expect("a link"), Path::new("file"));
        // To what they are: anybody may.
        let (uid, gid) = (metadata.uid(), metadata.gid());
        chown(&link, Some(uid), None).expect("ours");
        lchown(&link, None, Some(gid)).expect("ours");
        fchown(&file, Some(uid), Some(gid)).expect("ours");
        let missing = directory.join("missing");
        assert_eq!(chown(&missing, None, None).expect_err("missing").kind(), ErrorKind::NotFound);

        let deep = directory.join("a/b");
        assert_eq!(DirBuilder::new().create(&deep).expect_err("missing").kind(), ErrorKind::NotFound);
        DirBuilder::new().recursive(true).mode(0o700).create(&deep).expect("new");
        assert_eq!(std::fs::metadata(&deep).expect("there").permissions().mode() & 0o777, 0o700);
    });
}

#[test]
fn a_file_comes_from_std_and_goes_back() {
    everywhere("std", |directory| {
        let path = directory.join("file");
        let mut file = File::from(OwnedFd::from(std::fs::File::create(&path).expect("new")));
        file.write_all(b"one").expect("room");
        let other = file.try_clone().expect("a handle");
        file.into_std().expect("a second descriptor").write_all(b"two").expect("room");
        other.into_std().expect("the only handle").write_all(b"three").expect("room");
        assert_eq!(std::fs::read(&path).expect("there"), b"onetwothree");
    });
}

#[test]
fn files_are_locked_against_other_opens_of_them() {
    everywhere("locks", |directory| {
        let path = directory.join("file");
        let open = || OpenOptions::new().write(true).create(true).truncate(false).open(&path).expect("ours");
        let (one, other) = (open(), open());
        one.lock().expect("free");
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        assert!(matches!(other.try_lock_shared(), Err(TryLockError::WouldBlock)));
        one.unlock().expect("held");
        one.lock_shared().expect("free");
        other.try_lock_shared().expect("shared");
        assert!(matches!(one.try_lock(), Err(TryLockError::WouldBlock)));
        other.unlock().expect("held");
        drop(one);
        other.try_lock().expect("free");
    });
}

#[test]
fn more_coroutines_than_threads_wait_for_the_lock_of_a_file() {
    let directory = Temporary::new("lock-waits");
    let path = directory.0.join("file");
    let config = CoreConfig::default().seed([7; 32]).offload_threads(1);
    let core = Core::new(&config).expect("a core");
    let locked = thread::try_run_on(&core, move || {
        let held = File::create(&path).expect("new");
        held.lock().expect("free");
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let path = path.clone();
                thread::spawn(move || File::open(path).expect("there").lock().expect("in the end"))
            })
            .collect();
        let one_waits = || observe::tasks().iter().any(|task| task.waits_for == Some("the lock of a file"));
        let patience = rt::time::Deadline::within(Duration::from_secs(20));
        while !one_waits() {
            assert!(!patience.has_passed(), "nobody waits for the lock");
            thread::sleep(Duration::from_millis(1));
        }
        // Needs a thread, which nobody who waits has.
        held.sync_all().expect("durable");
        assert!(!waiting.iter().any(thread::JoinHandle::is_finished));
        drop(held);
        waiting.into_iter().for_each(|waiter| waiter.join().expect("no panic"));
    });
    locked.expect("the core runs").expect("no panic");
}

#[test]
fn other_tasks_run_while_a_coroutine_waits_for_a_file() {
    let fifo = Temporary::new("waits");
    let path = fifo.0.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("new");
    let ticks = thread::try_run_on(&core(ReactorChoice::Auto), move || {
        let ticks = Rc::new(Cell::new(0));
        let count = Rc::clone(&ticks);
        drop(rt::named("ticks").spawn(async move {
            loop {
                rt::sleep(Duration::from_millis(1)).await;
                count.set(count.get() + 1);
            }
        }));
        let writer = path.clone();
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            std::fs::write(writer, "late").expect("somebody reads");
        });
        // Opening a FIFO blocks until it has a writer.
        assert_eq!(fs::read_to_string(path).expect("text"), "late");
        writer.join().expect("no panic");
        ticks.get()
    });
    assert!(ticks.expect("the core runs").expect("no panic") > 2);
}

#[test]
fn in_an_async_task_it_is_refused() {
    let refused = core(ReactorChoice::Auto).block_on(async {
        std::panic::catch_unwind(|| fs::exists("/")).expect_err("it would block the core")
    });
    let message = refused.downcast_ref::<&str>().expect("a message");
    assert!(message.contains("`boson::thread::spawn`"), "{message}");
}
