//! Every interleaving of the inbox's protocol, as far as the memory model distinguishes them.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::thread;

use super::*;

/// What the model knows of its one task: the owner's count lives beside the node, as in the header.
struct Model {
    inbox: Inbox,
    node: Box<InboxNode>,
    wakeups: AtomicUsize,
}

// SAFETY: `node` is only handed out as a pointer under the inbox's own protocol, which is what is
// being tested.
unsafe impl Sync for Model {}

fn model(wakeups_of_core: Arc<AtomicUsize>) -> Arc<Model> {
    let wake_core = Box::new(move || {
        wakeups_of_core.fetch_add(1, Ordering::SeqCst);
    });
    Arc::new(Model {
        inbox: Inbox::new(1, wake_core, |_, _| unreachable!("the core lives through the model")),
        node: Box::new(InboxNode::new()),
        wakeups: AtomicUsize::new(0),
    })
}

/// Two threads each clone, wake and drop a waker while the owner drains: the count ends at zero
/// exactly once both are done, and a wake is seen.
#[test]
fn references_from_other_threads_add_up() {
    loom::model(|| {
        let core = Arc::new(AtomicUsize::new(0));
        let model = model(core);
        let mut local = 2i64;
        let threads: Vec<_> = (0..2)
            .map(|which| {
                let model = Arc::clone(&model);
                thread::spawn(move || {
                    let node = NonNull::from(&*model.node);
                    if which == 0 {
                        model.node.add_reference();
                        // SAFETY: this thread holds the reference it was given and the one it just
                        // added.
                        unsafe { model.inbox.release(node, true) };
                    }
                    // SAFETY: this thread gives up the reference it was given.
                    unsafe { model.inbox.release(node, false) };
                })
            })
            .collect();
        let mut woken = false;
        let mut drain = |local: &mut i64| {
            model.inbox.drain(1, |_, changes| {
                *local += changes.references;
                woken |= changes.woken;
            })
        };
        drain(&mut local);
        for thread in threads {
            thread.join().expect("no panic");
        }
        drain(&mut local);
        assert_eq!(local, 0);
        assert!(woken);
        assert!(model.node.is_unreferenced(local));
    });
}

/// Another thread changes the task while its core parks: the core is told once, before it sleeps or
/// by being woken.
fn is_never_lost_to_a_parking_core(change: fn(&Model), is_told: fn(&Changes) -> bool) {
    loom::model(move || {
        let core = Arc::new(AtomicUsize::new(0));
        let model = model(Arc::clone(&core));
        let other = {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                change(&model);
                model.wakeups.fetch_add(1, Ordering::SeqCst);
            })
        };
        model.inbox.announce();
        let sleeps = model.inbox.look_again();
        other.join().expect("no panic");
        let seen = model.inbox.drain(1, |_, changes| assert!(is_told(&changes)));
        assert_eq!(seen, 1);
        if sleeps {
            assert_eq!(core.load(Ordering::SeqCst), 1, "the core went to sleep and nobody woke it");
        }
    });
}

#[test]
fn a_wake_is_never_lost_to_a_parking_core() {
    // SAFETY: the model holds the task alive.
    let wake = |model: &Model| unsafe { model.inbox.wake(NonNull::from(&*model.node)) };
    is_never_lost_to_a_parking_core(wake, |changes| changes.woken);
}

#[test]
fn a_cancellation_is_never_lost_to_a_parking_core() {
    // SAFETY: the model holds the task alive.
    let cancel = |model: &Model| unsafe { model.inbox.cancel(NonNull::from(&*model.node)) };
    is_never_lost_to_a_parking_core(cancel, |changes| changes.cancelled && changes.woken);
}

/// A task that says when it is used after it was freed.
#[repr(C)]
struct Mortal {
    /// First, as in a task's header.
    node: InboxNode,
    /// The references that its core or whoever buries it knows of.
    local: UnsafeCell<i64>,
    /// Given back when it is freed, as a task does once its core is gone.
    inbox: *const Inbox,
    freed: UnsafeCell<bool>,
}

/// As `task::bury` does it, but the memory stays, so that a use after this is noticed by loom and
/// not by chance.
fn bury(node: NonNull<InboxNode>, changes: Changes) {
    let task = node.cast::<Mortal>();
    // SAFETY: a `Mortal` begins with its node, and its memory stays to the end of the execution.
    let task = unsafe { task.as_ref() };
    assert!(!task.is_freed(), "used after it was freed");
    let left = task.local.with_mut(|local| {
        // SAFETY: as above.
        let local = unsafe { &mut *local };
        *local += changes.references;
        *local
    });
    if task.node.is_unreferenced(left) {
        task.free();
        // SAFETY: `close` took a count for this task, the one that its inbox made.
        unsafe { std::sync::Arc::decrement_strong_count(task.inbox) };
    }
}

impl Mortal {
    fn is_freed(&self) -> bool {
        // SAFETY: loom fails the test if another thread writes to the cell now.
        self.freed.with(|freed| unsafe { *freed })
    }

    fn free(&self) {
        assert!(!self.is_freed(), "freed twice");
        // An access of another thread is over by now, as it must be before memory is freed.
        self.node.word.assert_unshared();
        // SAFETY: loom fails the test if another thread may be at the pointer.
        unsafe { self.node.next.unsync_load() };
        // SAFETY: as above.
        self.freed.with_mut(|freed| unsafe { *freed = true });
    }
}

/// A reference to a task, on a thread of its own.
struct RemoteReference(NonNull<Mortal>);

// SAFETY: a remote reference uses only the task's node and its inbox, which are for all threads.
unsafe impl Send for RemoteReference {}

impl RemoteReference {
    /// What a waker does on another thread when it is dropped.
    fn give_up(&self, wake: bool) {
        // SAFETY: the reference that this is keeps the task and its inbox alive.
        let inbox = unsafe { self.0.as_ref() }.inbox;
        // SAFETY: as above.
        unsafe { std::sync::Arc::increment_strong_count(inbox) };
        // SAFETY: the count was just taken.
        let inbox = unsafe { std::sync::Arc::from_raw(inbox) };
        // SAFETY: the node is in this inbox, and the reference is given up.
        unsafe { inbox.release(self.0.cast(), wake) };
    }
}

/// The core ends while `references` threads have one reference each; `before` is what it does
/// before.
fn core_ends(references: usize, before: fn(&Inbox, &Mortal)) {
    loom::model(move || {
        let inbox = std::sync::Arc::new(Inbox::new(1, Box::new(|| {}), bury));
        inbox.task_made();
        let task = Box::new(Mortal {
            node: InboxNode::new(),
            local: UnsafeCell::new(i64::try_from(references).expect("few")),
            inbox: std::sync::Arc::as_ptr(&inbox),
            freed: UnsafeCell::new(false),
        });
        let threads: Vec<_> = (0..references)
            .map(|which| {
                let remote = RemoteReference(NonNull::from(&*task));
                thread::spawn(move || remote.give_up(which == 0))
            })
            .collect();
        before(&inbox, &task);
        inbox.close();
        for thread in threads {
            thread.join().expect("no panic");
        }
        assert!(task.is_freed(), "a task was never freed");
        assert_eq!(std::sync::Arc::strong_count(&inbox), 1, "an inbox is freed with its last task");
    });
}

/// Whoever gives up the last reference to a task, before or after its core ended, has it freed,
/// once.
#[test]
fn a_task_is_buried_once_when_its_core_ends_meanwhile() {
    core_ends(2, |_, _| {});
}

/// The same with a core that takes what it finds just before: what was on the list then is not
/// counted again.
#[test]
fn a_task_that_is_drained_before_its_core_ends_is_buried_once() {
    core_ends(2, |inbox, task| {
        inbox.drain(1, |_, changes| {
            task.local.with_mut(|local| {
                // SAFETY: only the core has it while the core lives.
                unsafe { *local += changes.references };
            });
        });
        // As `apply_changes` does it.
        let left = task.local.with(|local| {
            // SAFETY: as above.
            unsafe { *local }
        });
        if task.node.is_unreferenced(left) {
            inbox.task_freed();
            task.free();
        }
    });
}

/// The same with a core that has taken tasks off the list and not handed them on when it ends.
#[test]
fn a_task_that_is_taken_before_its_core_ends_is_buried_once() {
    core_ends(2, |inbox, _| {
        inbox.drain(0, |_, _| unreachable!("there is no budget for it"));
    });
}

/// A message is either run by the core's last turn, or refused, or dropped with the others: never
/// kept by a closed inbox.
#[test]
fn a_message_to_a_core_that_ends_is_refused_or_dropped() {
    loom::model(|| {
        let inbox =
            std::sync::Arc::new(Inbox::new(1, Box::new(|| {}), |_, _| unreachable!("there is no task")));
        let alive = Arc::new(());
        let message = {
            let alive = Arc::clone(&alive);
            Box::new(move || drop(alive))
        };
        let sender = {
            let inbox = std::sync::Arc::clone(&inbox);
            thread::spawn(move || match inbox.send(message) {
                Ok(()) => {}
                Err(Unsent::Closed(_)) => {}
                Err(Unsent::Full(_)) => panic!("there was room"),
            })
        };
        inbox.close();
        sender.join().expect("no panic");
        assert_eq!(Arc::strong_count(&alive), 1, "the inbox keeps a message that nobody will run");
    });
}
