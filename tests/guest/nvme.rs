//! boson's own NVMe driver, on controllers that `vfio-pci` has: cores that share one, an idle core,
//! and what cannot be opened.

use std::time::Duration;

use boson::block::nvme::NvmeDevice;
use boson::block::{Device, Namespace};
use boson::rt::{self, Core, CoreConfig, CoreThread, Idle};
use boson::{ErrorKind, observe};
use rustix::time::{ClockId, clock_gettime};

use super::{PATIENCE, device, run};

fn config() -> CoreConfig {
    CoreConfig::default().seed([13; 32]).idle(Idle::Sleep)
}

fn run_all<F: Future>(future: F) -> F::Output {
    let core = Core::new(&config()).expect("a core");
    core.block_on(rt::timeout(10 * PATIENCE, future)).expect("in time")
}

async fn open(number: u32) -> NvmeDevice {
    NvmeDevice::open(&device("BOSON_GUEST_VFIO"), number).await.expect("scripts/guest bound it")
}

#[test]
#[ignore = "takes an NVMe controller under VFIO: scripts/guest"]
fn two_namespaces_of_a_controller_and_two_cores_share_it() {
    run_all(async {
        let (first, second) = (open(1).await, open(2).await);
        let (here, there) = (first.attach().await.expect("attach"), second.attach().await.expect("attach"));
        here.write_durable(0, filled(4096, 1)).await.expect("write");
        there.write_durable(0, filled(4096, 2)).await.expect("write");
        let other = CoreThread::start("other", &config()).expect("a core");
        let read = rt::named("other").spawn_on(other.handle(), move || async move {
            let attached = first.attach().await.expect("attach");
            attached.read(0, filled(4096, 9)).await.expect("read")[0]
        });
        assert_eq!(read.await.expect("no panic"), 1);
        assert_eq!(there.read(0, filled(4096, 9)).await.expect("read")[0], 2);
    });
}

fn filled(len: usize, byte: u8) -> boson::mem::DmaBuf {
    let mut buf = rt::arena().alloc(len);
    buf.fill(byte);
    buf
}

/// The CPU time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().expect("positive"), time.tv_nsec.try_into().expect("less than 1e9"))
}

#[test]
#[ignore = "takes an NVMe controller under VFIO: scripts/guest"]
fn an_idle_core_sleeps_and_the_first_io_after_that_wakes_it() {
    run_all(async {
        let namespace = open(2).await.attach().await.expect("attach");
        namespace.read(0, filled(4096, 0)).await.expect("read");
        let (before, parks) = (cpu_time(), observe::stats().parks);
        rt::sleep(Duration::from_secs(5)).await;
        let used = cpu_time() - before;
        // An emulated processor is some twenty times slower than a real one.
        assert!(used < Duration::from_millis(500), "{used:?} of CPU in 5 s of idleness");
        namespace.read(0, filled(4096, 0)).await.expect("read");
        assert!(observe::stats().parks > parks, "it sleeps while it waits");
    });
}

/// How many interrupts of I/O queues the kernel took from the controller so far.
fn interrupts() -> u64 {
    let all = std::fs::read_to_string("/proc/interrupts").expect("it is there");
    let controller = format!("({})", device("BOSON_GUEST_VFIO"));
    let of_queues = |line: &&str| line.contains(&controller) && !line.contains("[0]");
    // The number, a count for each processor, and words.
    let counts = |line: &str| {
        line.split_whitespace().skip(1).map_while(|count| count.parse::<u64>().ok()).sum::<u64>()
    };
    all.lines().filter(of_queues).map(counts).sum()
}

#[test]
#[ignore = "takes an NVMe controller under VFIO: scripts/guest"]
fn a_core_that_is_awake_is_not_interrupted() {
    const READS: u64 = 320;
    let spinning = Idle::Adaptive { spin: PATIENCE };
    for (idle, depth) in [(spinning, 1), (spinning, 16), (Idle::Sleep, 1), (Idle::Sleep, 16)] {
        let core = Core::new(&config().idle(idle)).expect("a core");
        let (came, parks) = core.block_on(async {
            let namespace = open(1).await.attach().await.expect("attach");
            let (before, parks) = (interrupts(), observe::stats().parks);
            let readers: Vec<_> = (0..depth)
                .map(|_| {
                    let namespace = namespace.clone();
                    rt::spawn(async move {
                        for at in 0..READS / depth {
                            namespace.read(at * 4096, filled(4096, 0)).await.expect("read");
                        }
                    })
                })
                .collect();
            for reader in readers {
                reader.await.expect("no panic");
            }
            (interrupts() - before, observe::stats().parks - parks)
        });
        println!("{idle:?} at depth {depth}: {came} interrupts and {parks} sleeps in {READS} reads");
        if idle == Idle::Sleep {
            // A quick controller is done before the core has fallen asleep.
            assert!(came > 0 || parks == 0, "an interrupt ends a sleep");
        } else {
            assert_eq!((came, parks), (0, 0), "interrupts and sleeps");
        }
    }
}

#[test]
#[ignore = "takes an NVMe controller under VFIO: scripts/guest"]
fn what_is_not_there_or_in_use_is_refused_with_a_sentence() {
    run(async {
        let address = device("BOSON_GUEST_VFIO");
        let error = NvmeDevice::open(&address, 77).await.map(drop).expect_err("it has two");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("there is no active namespace 77: it has 1, 2"), "{error}");
        let error =
            NvmeDevice::open(&device("BOSON_GUEST_NVME"), 1).await.map(drop).expect_err("nvme has it");
        assert!(error.to_string().contains("boson device bind"), "{error}");
        let error = NvmeDevice::open("0000:ff:1f.7", 1).await.map(drop).expect_err("there is none");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
}
