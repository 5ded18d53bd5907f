//! A task that blocks its core is in the log. Alone in its file: `tracing` caches for the whole
//! process what a thread without a subscriber is interested in.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use boson::observe;
use boson::rt::{self, Core, CoreConfig};

/// Collects the warnings of the thread that it is the default of.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

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
        self.0.lock().expect("no panic").push(text.0);
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
    let mut warnings = warnings.0.lock().expect("no panic");
    // Not those about the machine.
    warnings.retain(|warning| warning.contains("kept its core"));
    let [warning] = &warnings[..] else { panic!("one stall, but {warnings:?}") };
    assert!(warning.contains("task=\"blocks\""), "{warning}");
    assert!(warning.contains("stall.rs"), "{warning}");
    assert!(!warning.contains("innocent"), "{warning}");
}
