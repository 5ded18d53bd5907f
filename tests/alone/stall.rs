//! A task that blocks its core is in the log, and reported by a watchdog. Alone in its file:
//! `tracing` caches for the whole process what a thread without a subscriber is interested in.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use boson::observe::{self, Watchdog};
use boson::rt::{self, Core, CoreConfig};

/// Collects the warnings of the thread that it is the default of.
#[derive(Clone, Default)]
struct Warnings {
    texts: Arc<Mutex<Vec<String>>>,
    /// Panics at each.
    panics: bool,
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{}={value:?} ", field.name());
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.texts.lock().expect("no panic").push(text.0);
        assert!(!self.panics, "a subscriber panics on purpose");
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_task_that_blocks_its_core_is_reported_by_name() {
    own_process!();
    let warnings = Warnings::default();
    tracing::subscriber::with_default(warnings.clone(), || {
        let config = CoreConfig::default().seed([7; 32]).stall_after(Duration::from_millis(200));
        let core = Core::new(&config).expect("io_uring is usable");
        core.block_on(async {
            rt::named("innocent")
                .spawn(async {
                    for _ in 0..10 {
                        rt::sleep(Duration::from_millis(1)).await;
                    }
                })
                .detach();
            rt::sleep(Duration::from_millis(5)).await;
            assert_eq!(observe::stats().stalls, 0);
            rt::named("blocks")
                .spawn(async {
                    rt::sleep(Duration::from_millis(5)).await;
                    std::thread::sleep(Duration::from_millis(250));
                })
                .await
                .expect("no panic");
            rt::yield_now().await;
            rt::sleep(Duration::from_millis(1)).await;
            assert_eq!(observe::stats().stalls, 1);
        });
    });
    let mut warnings = warnings.texts.lock().expect("no panic");
    // Not those about the machine.
    warnings.retain(|warning| warning.contains("kept its core"));
    let [warning] = &warnings[..] else { panic!("one stall, but {warnings:?}") };
    assert!(warning.contains("task=\"blocks\""), "{warning}");
    assert!(warning.contains("stall.rs"), "{warning}");
    assert!(!warning.contains("innocent"), "{warning}");
}

#[test]
fn a_core_goes_on_though_a_subscriber_panics_at_a_stall() {
    own_process!();
    let config = CoreConfig::default().seed([7; 32]).stall_after(Duration::from_millis(20));
    let core = Core::new(&config).expect("a core");
    let warnings = Warnings { panics: true, ..Warnings::default() };
    let output = tracing::subscriber::with_default(warnings.clone(), || {
        core.block_on(async {
            std::thread::sleep(Duration::from_millis(40));
            rt::sleep(Duration::from_millis(1)).await;
            observe::stats().stalls
        })
    });
    let warnings = warnings.texts.lock().expect("no panic");
    assert!(output >= 1 && !warnings.is_empty(), "{output} stalls, {warnings:?}");
}

#[test]
fn a_watchdog_goes_on_though_a_report_panics() {
    own_process!();
    let core = Core::new(&CoreConfig::default().seed([7; 32])).expect("a core");
    let reports = Arc::new(Mutex::new(0));
    let watchdog = Watchdog::start_with(&[core.handle()], Duration::from_millis(20), {
        let reports = Arc::clone(&reports);
        move |_| {
            *reports.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            panic!("a report panics on purpose");
        }
    })
    .expect("a thread");
    core.block_on(async {
        for stall in 1..=2 {
            // It blocks the core until the watchdog has seen that, for ten seconds at most.
            for _ in 0..1000 {
                std::thread::sleep(Duration::from_millis(10));
                if *reports.lock().unwrap_or_else(PoisonError::into_inner) == stall {
                    break;
                }
            }
            rt::sleep(Duration::from_millis(1)).await;
        }
    });
    drop(watchdog);
    assert!(*reports.lock().unwrap_or_else(PoisonError::into_inner) >= 2);
}
