//! On real cores: memory and a file, two threads.

use std::rc::Rc;
use std::sync::Arc;

use super::{fresh, fresh_end, prepare, record, write};
use crate::block::{AnyDevice, Device, NamespaceAddress};
use crate::rt::{self, CoreConfig, CoreThread};
use crate::store::RtEnv;
use crate::store::engine::log::replay::replay;

const SEGMENT_BYTES: u32 = 256 << 10;
const BLOCK_BYTES: u32 = 4096;
const TASKS: usize = 8;
const WRITES: u64 = 100;

/// Two cores write one log; then it is read again.
fn two_cores(address: &str) {
    let address: NamespaceAddress = address.parse().expect("an address");
    let format = super::format(SEGMENT_BYTES, BLOCK_BYTES);
    crate::run(async move {
        let device = AnyDevice::open(&address).await.expect("opens");
        let namespace = device.attach().await.expect("attaches");
        prepare(&namespace, format).await;
        let (log, _) = fresh(format, 20, (2, 64 << 10));
        let threads: Vec<_> = ["first", "second"]
            .map(|name| CoreThread::start(name, &CoreConfig::default().seed([5; 32])).expect("a core"))
            .into();
        let work: Vec<_> = threads
            .iter()
            .map(|thread| {
                let (log, device) = (Arc::clone(&log), device.clone());
                thread.handle().spawn(move || async move {
                    let namespace = device.attach().await.expect("attaches");
                    let own = Rc::new(log.attach(&RtEnv, namespace).expect("one for each core"));
                    let tasks: Vec<_> = (0..TASKS)
                        .map(|_| {
                            let own = Rc::clone(&own);
                            rt::spawn(async move {
                                for _ in 0..WRITES {
                                    let number = write(&own, 60).await.expect("room");
                                    assert!(own.durable() > number);
                                }
                            })
                        })
                        .collect();
                    for task in tasks {
                        task.await.expect("no panic");
                    }
                    Rc::into_inner(own).expect("the tasks are gone").close().await.expect("works");
                })
            })
            .collect();
        for work in work {
            work.await.expect("no panic");
        }
        let mut next = super::FIRST;
        let (mut batches, start) = (0, fresh_end(BLOCK_BYTES).position);
        let end = replay(&namespace, format, start, async |batch: &crate::store::wal::Batch<'_>| {
            batches += 1;
            for (number, operations) in batch.records() {
                assert_eq!((number, operations.0), (next, &record(number, 60)[..]));
                next += 1;
            }
        });
        let end = end.await.expect("whole");
        let all = super::FIRST + 2 * TASKS as u64 * WRITES;
        assert_eq!((end.position.first, log.durable(), next), (all, all, all));
        println!("{address}: {batches} batches for {} writes", all - super::FIRST);
    });
}

#[test]
fn two_cores_write_one_log_in_memory() {
    two_cores("mem:16M");
}

#[test]
fn two_cores_write_one_log_in_a_file() {
    let path = std::env::temp_dir().join(format!("boson-log-two-cores-{}", std::process::id()));
    two_cores(&format!("file:{}?size=16M", path.display()));
    std::fs::remove_file(path).expect("it is there");
}
