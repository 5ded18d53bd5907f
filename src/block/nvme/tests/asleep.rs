//! Cores that sleep while a controller works, and interrupts that they get or do not.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::model::{Model, ModelOptions, Pace};
use super::device::{filled, options, run_on};
use crate::block::Namespace;
use crate::rt::poller::{Park, Poller, register_poller};
use crate::rt::{self, CoreConfig, Idle};

/// Has a model work beside its cores until it is dropped, as hardware does.
pub(super) struct Hardware(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Hardware {
    pub(super) fn new(model: &Model, delay: Duration) -> Self {
        let (is_over, model) = (Arc::new(AtomicBool::new(false)), model.clone());
        let seen = Arc::clone(&is_over);
        let work = move || {
            while !seen.load(Ordering::Relaxed) {
                model.settle();
                std::thread::sleep(delay);
            }
        };
        Self(is_over, Some(std::thread::spawn(work)))
    }
}

impl Drop for Hardware {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1.take() {
            thread.join().expect("the hardware does not panic");
        }
    }
}

#[test]
fn interrupts_wake_a_core_that_sleeps() {
    const READS: u32 = 100;
    let alone = ModelOptions { pace: Pace::Alone, eventfds: true, ..options() };
    for (idle, maskable) in [(Idle::Sleep, true), (Idle::Sleep, false), (Idle::Poll, true)] {
        let model = Model::new(ModelOptions { maskable, ..alone.clone() }, 1);
        let hardware = Hardware::new(&model, Duration::from_millis(1));
        run_on(&CoreConfig::default().idle(idle), &model, |opened| {
            let model = model.clone();
            async move {
                let namespace = opened.attach().await.expect("attach");
                namespace.write(0, filled(4096, 9)).await.expect("write");
                let before = interrupts(&model);
                let begin = std::time::Instant::now();
                for _ in 0..READS {
                    assert_eq!(namespace.read(0, filled(4096, 0)).await.expect("read")[0], 9);
                }
                // Without interrupts the core would look every ten milliseconds.
                let took = begin.elapsed();
                assert!(took < READS * Duration::from_millis(7), "{took:?} for {READS} reads");
                assert_eq!(interrupts(&model) > before, idle == Idle::Sleep, "{idle:?}");
            }
        });
        drop(hardware);
        assert!(model.violations().is_empty(), "{:?}", model.violations());
    }
}

/// How many interrupts of I/O queues came.
fn interrupts(model: &Model) -> u64 {
    (1..=4).map(|vector| model.interrupts(vector)).sum()
}

#[test]
fn a_core_that_is_awake_is_not_interrupted_where_that_can_be_masked() {
    const READS: u64 = 200;
    let alone = ModelOptions { pace: Pace::Alone, eventfds: true, ..options() };
    for maskable in [true, false] {
        let model = Model::new(ModelOptions { maskable, ..alone.clone() }, 1);
        let hardware = Hardware::new(&model, Duration::from_micros(50));
        let config = CoreConfig::default().idle(Idle::Adaptive { spin: Duration::from_secs(60) });
        run_on(&config, &model, |opened| async move {
            let namespace = opened.attach().await.expect("attach");
            for _ in 0..READS {
                namespace.read(0, filled(4096, 0)).await.expect("read");
            }
        });
        drop(hardware);
        assert_eq!(interrupts(&model), if maskable { 0 } else { READS });
    }
}

#[test]
fn an_interrupt_that_is_lost_costs_ten_milliseconds() {
    let alone = ModelOptions { pace: Pace::Alone, eventfds: true, maskable: false, ..options() };
    let model = Model::new(alone, 1);
    // Slow enough that the core sleeps before it has done anything.
    let hardware = Hardware::new(&model, Duration::from_millis(3));
    let config = CoreConfig::default().idle(Idle::Sleep);
    let took = run_on(&config, &model, |opened| {
        let model = model.clone();
        async move {
            let namespace = opened.attach().await.expect("attach");
            // The queue looked a second after it was made, and found nothing to wait for.
            rt::sleep(Duration::from_millis(1_300)).await;
            // The driver does not know of it.
            (1..=4).for_each(|vector| model.set_mask(vector, true));
            let begin = std::time::Instant::now();
            namespace.read(0, filled(4096, 0)).await.expect("read");
            begin.elapsed()
        }
    });
    drop(hardware);
    assert!(took < Duration::from_millis(400), "{took:?}");
}

#[test]
fn a_core_that_another_poller_keeps_awake_is_not_interrupted() {
    struct Sleepless;
    impl Poller for Sleepless {
        fn name(&self) -> &'static str {
            "sleepless"
        }
        fn poll(&mut self, _now: rt::Instant, _budget: usize) -> usize {
            0
        }
        fn next_deadline(&self) -> Option<rt::Instant> {
            None
        }
        fn park(&mut self) -> Park {
            Park::Spin
        }
    }
    const READS: u64 = 200;
    let alone = ModelOptions { pace: Pace::Alone, eventfds: true, ..options() };
    let model = Model::new(alone, 1);
    let hardware = Hardware::new(&model, Duration::from_micros(50));
    let config = CoreConfig::default().idle(Idle::Sleep);
    run_on(&config, &model, |opened| async move {
        let namespace = opened.attach().await.expect("attach");
        register_poller(Rc::new(RefCell::new(Sleepless))).keep();
        for _ in 0..READS {
            namespace.read(0, filled(4096, 0)).await.expect("read");
        }
    });
    drop(hardware);
    // Those before the core knew of the other poller.
    let came = interrupts(&model);
    assert!(came <= READS / 10, "{came} interrupts for {READS} reads");
}
