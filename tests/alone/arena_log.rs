//! A process without hugepages is told so once, however many arenas it has. Alone in its file: it
//! is once for each process.

use crate::support::hugepages::more_than_all_hugepages;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use boson::mem::{Arena, PageKind};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn missing_hugepages_are_told_of_once() {
    own_process!();
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let arenas = tracing::subscriber::with_default(subscriber, || {
        [1, 2, 3].map(|more| Arena::new(more_than_all_hugepages() + (more << 20)).expect("there is memory"))
    });
    assert!(arenas.iter().all(|arena| arena.stats().pages == PageKind::Normal));
    let log = String::from_utf8(log.0.lock().expect("no panic").clone()).expect("text");
    assert_eq!(log.matches("hugepages for an arena").count(), 1, "{log}");
    assert!(log.contains("/proc/sys/vm/nr_hugepages"), "it says what to do: {log}");
}
