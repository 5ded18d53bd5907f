//! What an attached device costs a core that has nothing to do with it, and how late the first I/O
//! after that is. The controller takes no time at all, so that what is measured is boson's.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::super::ModelledDevice;
use super::super::model::{Model, ModelNamespace, ModelOptions};
use crate::block::{Device, Namespace};
use crate::rt::{self, Core, CoreConfig};

const ROUNDS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// What is asked of an optimised build. The rest is slow with cold caches, too.
const LATE: Duration = Duration::from_micros(if cfg!(debug_assertions) { 1000 } else { 100 });

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[test]
fn an_idle_core_sleeps_and_its_first_io_is_not_late() {
    let model = Model::new(ModelOptions::new(ModelNamespace::new(64, 12)), 1);
    let core = Core::new(&CoreConfig::default().seed([5; 32])).expect("a core");
    let (cpu, first, next) = core.block_on(async {
        let device = ModelledDevice::open(&model, 1).await.expect("it comes up");
        let namespace = device.attach().await.expect("a queue pair");
        let mut buf = rt::arena().alloc(4096);
        let (mut cpu, mut first, mut next) = (Duration::MAX, Duration::MAX, Duration::MAX);
        for _ in 0..ROUNDS {
            let used = cpu_time();
            rt::sleep(PAUSE).await;
            cpu = cpu.min(cpu_time() - used);
            // The best of them: others were in the way of the rest.
            let begin = Instant::now();
            buf = namespace.read(0, buf).await.expect("read");
            first = first.min(begin.elapsed());
            for _ in 0..100 {
                let begin = Instant::now();
                buf = namespace.read(0, buf).await.expect("read");
                next = next.min(begin.elapsed());
            }
        }
        (cpu, first, next)
    });
    println!("{cpu:?} of CPU in {PAUSE:?}; the first read took {first:?}, the next {next:?}");
    assert!(cpu < PAUSE / 100, "{cpu:?} of CPU in {PAUSE:?}");
    assert!(first < next + LATE, "the first took {first:?}, the next {next:?}");
}
