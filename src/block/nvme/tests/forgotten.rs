//! The memory of queues that a controller was asked to make stays mapped until it has stopped, if
//! it is reset before it answers.

use std::sync::Arc;
use std::time::Duration;

use super::super::Registers;
use super::super::control::Control;
use super::super::controller::Phase;
use super::super::device::Opened;
use super::super::model::{Model, ModelNamespace, ModelOptions, Pace};
use super::super::registers::{CSTS, CSTS_READY};
use super::asleep::Hardware;
use crate::block::Namespace;
use crate::rt::{self, Core, CoreConfig};

/// A controller that takes its time to stop: this many looks at it.
const STEPS: u32 = 60;
const SOON: Duration = Duration::from_millis(1);

/// Runs `test` on a controller that does nothing unless hardware, or the test, steps it.
fn run<F: Future<Output = ()>>(test: impl FnOnce(Model, Opened<Model>, Hardware) -> F) {
    let options = ModelOptions {
        pace: Pace::Alone,
        ready_steps: Some(STEPS),
        ..ModelOptions::new(ModelNamespace::new(64, 12))
    };
    let model = Model::new(options, 1);
    let hardware = Hardware::new(&model, Duration::from_micros(100));
    let core = Core::new(&CoreConfig::default().seed([5; 32])).expect("a core");
    core.block_on(async {
        let control = Control::open(model.clone(), "nvme:model".to_owned(), 4).await.expect("it comes up");
        let opened = Opened::of(Arc::new(control), 1).await.expect("it has a namespace");
        let test = test(model.clone(), opened, hardware);
        rt::timeout(Duration::from_secs(60), test).await.expect("in time");
    });
    drop(core);
    assert!(model.violations().is_empty(), "{:?}", model.violations());
}

/// While the controller stops, all of its `mappings` stay; after that some go.
async fn stay_until_it_has_stopped(model: &Model, opened: &Opened<Model>, mappings: usize, kept: usize) {
    let stops = opened.stops();
    assert_eq!(opened.phase(), Phase::Disabling);
    let mut looks = 0;
    while model.read32(CSTS) & CSTS_READY != 0 {
        assert_eq!((opened.stops(), model.mappings()), (stops, mappings), "it has not stopped");
        looks += 1;
        rt::sleep(SOON).await;
    }
    assert!(looks > 10, "it takes its time");
    while model.mappings() > kept {
        rt::sleep(SOON).await;
    }
}

/// Has a model work until an attachment, before which there were `mappings`, has mapped its rings.
async fn map_rings(model: &Model, attaching: &mut (impl Future + Unpin), mappings: usize) {
    while model.mappings() < mappings + 4 {
        assert!(rt::timeout(SOON, &mut *attaching).await.is_err(), "not that soon");
        model.step();
    }
}

#[test]
fn of_an_attachment_that_a_reset_cancels() {
    run(|model, opened, hardware| async move {
        drop(hardware);
        let mappings = model.mappings();
        let mut attaching = Box::pin(opened.attach());
        map_rings(&model, &mut attaching, mappings).await;
        opened.reset();
        let error = attaching.await.map(drop).expect_err("it was cancelled");
        assert!(error.to_string().contains("was reset before it answered"), "{error}");
        stay_until_it_has_stopped(&model, &opened, mappings + 4, mappings).await;
    });
}

#[test]
fn of_an_attachment_that_is_given_up_before_a_reset_cancels_it() {
    run(|model, opened, hardware| async move {
        drop(hardware);
        let mappings = model.mappings();
        let mut attaching = Box::pin(opened.attach());
        map_rings(&model, &mut attaching, mappings).await;
        drop(attaching);
        opened.reset();
        stay_until_it_has_stopped(&model, &opened, mappings + 4, mappings).await;
    });
}

#[test]
fn of_a_namespace_that_is_dropped_in_the_second_of_two_resets() {
    run(|model, opened, hardware| async move {
        let before = model.mappings();
        let namespace = opened.attach().await.expect("attach");
        namespace.write(0, rt::arena().alloc(4096)).await.expect("write");
        let mappings = model.mappings();
        opened.reset();
        while opened.stops() < 2 || opened.phase() != Phase::Ready {
            rt::yield_now().await;
        }
        // It is asked to make the queues anew, or is about to be, and does not answer.
        model.hang(false);
        rt::sleep(20 * SOON).await;
        drop(hardware);
        assert_eq!(opened.phase(), Phase::Ready);
        opened.reset();
        // The core sees that.
        rt::sleep(5 * SOON).await;
        drop(namespace);
        stay_until_it_has_stopped(&model, &opened, mappings, before).await;
    });
}
