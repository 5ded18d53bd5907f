//! Coroutines that yield run one another from their own stacks, without a way through the loop:
//! that changes nothing that can be observed but the speed.

use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

use boson::observe;
use boson::rt::{self, Core, CoreConfig, JoinError};
use boson::thread;

fn run<T: 'static>(f: impl FnOnce() -> T + 'static) -> T {
    let core = Core::new(&CoreConfig::default().seed([7; 32])).expect("a core");
    match thread::try_run_on(&core, f).expect("the core runs") {
        Ok(output) => output,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

/// A coroutine that yields until told to stop.
fn yielder(stop: &Rc<Cell<bool>>) -> thread::JoinHandle<()> {
    let stop = Rc::clone(stop);
    thread::spawn(move || {
        while !stop.get() {
            thread::yield_now();
        }
    })
}

#[test]
fn turns_are_taken_in_order_also_with_async_tasks_between() {
    const ROUNDS: usize = 500;
    let order = run(|| {
        let order = Rc::new(RefCell::new(Vec::new()));
        let coroutine = |number: usize| {
            let order = Rc::clone(&order);
            thread::spawn(move || {
                for _ in 0..ROUNDS {
                    order.borrow_mut().push(number);
                    thread::yield_now();
                }
            })
        };
        let first = [coroutine(0), coroutine(1)];
        let noted = Rc::clone(&order);
        let between = rt::named("between").spawn(async move {
            for _ in 0..ROUNDS {
                noted.borrow_mut().push(2);
                rt::yield_now().await;
            }
        });
        let last = [coroutine(3), coroutine(4)];
        for handle in first.into_iter().chain(last) {
            handle.join().expect("no panic");
        }
        boson::wait(between).expect("no panic");
        order.take()
    });
    assert_eq!(order.len(), 5 * ROUNDS);
    for turns in order.chunks(5) {
        assert_eq!(turns, [0, 1, 2, 3, 4]);
    }
}

/// Wakes the coroutine that calls it, which goes on when its turn comes.
fn wake_myself() {
    boson::wait(std::future::poll_fn(|cx| {
        cx.waker().wake_by_ref();
        std::task::Poll::Ready(())
    }));
}

/// One that is woken while it runs comes to its turn before those that are woken later, whether it
/// yields then or waits.
#[test]
fn a_coroutine_that_is_woken_in_its_turn_keeps_the_place_that_it_got() {
    const ROUNDS: usize = 20;
    let order = run(|| {
        let order = Rc::new(RefCell::new(Vec::new()));
        let coroutine = |name: char| {
            let order = Rc::clone(&order);
            thread::spawn(move || {
                for round in 0..ROUNDS {
                    order.borrow_mut().push(name);
                    if name == 'b' || name == 'a' && round % 3 == 0 {
                        wake_myself();
                        let late = Rc::clone(&order);
                        drop(rt::named("late").spawn(async move { late.borrow_mut().push('-') }));
                    }
                    thread::yield_now();
                }
            })
        };
        for handle in ['a', 'b', 'c'].map(coroutine) {
            handle.join().expect("no panic");
        }
        order.take()
    });
    let mut expected = Vec::new();
    let mut late: Vec<char> = Vec::new();
    for round in 0..ROUNDS {
        // What was spawned in a turn comes right after the one that spawned it and was woken
        // before.
        let mut next = Vec::new();
        for name in ['a', 'b', 'c'] {
            expected.push(name);
            let spawns = name == 'b' || name == 'a' && round % 3 == 0;
            expected.extend(late.pop_if(|last| *last == name).map(|_| '-'));
            if spawns {
                next.insert(0, name);
            }
        }
        late = next;
    }
    expected.extend(late.iter().map(|_| '-'));
    assert_eq!(order, expected);
}

/// The list of ready tasks shows those that wait for a turn, not the one that has it.
#[test]
fn a_coroutine_that_has_its_turn_does_not_count_as_ready() {
    let ready = run(|| {
        let stop = Rc::new(Cell::new(false));
        let others = [yielder(&stop), yielder(&stop)];
        let mut seen = Vec::new();
        for _ in 0..600 {
            thread::yield_now();
            seen.push(observe::task_queues().first().expect("the default queue").ready);
        }
        stop.set(true);
        others.into_iter().for_each(|handle| handle.join().expect("no panic"));
        seen
    });
    assert!(ready.iter().all(|ready| *ready == 2), "{ready:?}");
}

/// A destructor that yields.
struct YieldsAtEnd(Rc<RefCell<Vec<String>>>);

impl Drop for YieldsAtEnd {
    fn drop(&mut self) {
        let result = std::panic::catch_unwind(thread::yield_now);
        let payload = result.expect_err("it cannot yield there");
        let message = payload.downcast_ref::<&str>().copied().map(str::to_owned);
        self.0.borrow_mut().push(message.expect("a message"));
    }
}

/// The coroutine is its own core's: it does not yield to that one's tasks meanwhile, and goes on as
/// before.
#[test]
fn a_coroutine_does_not_yield_inside_another_core() {
    const CORES: usize = 5;
    let said = Rc::new(RefCell::new(Vec::new()));
    let others: Vec<Core> = (0..CORES)
        .map(|_| {
            let core = Core::new(&CoreConfig::default().seed([8; 32])).expect("a core");
            let at_end = YieldsAtEnd(Rc::clone(&said));
            core.block_on(async {
                drop(rt::named("until the end").spawn(async move {
                    std::future::pending::<()>().await;
                    drop(at_end);
                }));
            });
            core
        })
        .collect();
    let heard = Rc::clone(&said);
    run(move || {
        let stop = Rc::new(Cell::new(false));
        let yielders = [yielder(&stop), yielder(&stop)];
        for (gone, other) in (1..).zip(others) {
            thread::yield_now();
            drop(other);
            assert_eq!(heard.borrow().len(), gone);
            thread::yield_now();
        }
        stop.set(true);
        yielders.into_iter().for_each(|handle| handle.join().expect("no panic"));
    });
    assert_eq!(said.borrow().len(), CORES);
    assert!(said.borrow().iter().all(|message| message.contains("another core")), "{said:?}");
}

#[test]
fn results_and_panics_reach_the_joiner_wherever_a_coroutine_ends() {
    run(|| {
        let stop = Rc::new(Cell::new(false));
        let others = [yielder(&stop), yielder(&stop)];
        for yields in 0..40 {
            let ends = thread::spawn(move || {
                (0..yields).for_each(|_| thread::yield_now());
                yields
            });
            assert_eq!(ends.join().expect("no panic"), yields);
            let panics = thread::spawn(move || {
                (0..yields).for_each(|_| thread::yield_now());
                panic!("after {yields} yields");
            });
            let payload = panics.join().expect_err("it panicked");
            assert_eq!(payload.downcast_ref::<String>(), Some(&format!("after {yields} yields")));
        }
        stop.set(true);
        for other in others {
            other.join().expect("no panic");
        }
    });
}

/// Its destructor needs more room than the stacks here have.
struct Deep;

impl Drop for Deep {
    fn drop(&mut self) {
        fn recurse(depth: u32) -> u32 {
            let frame = black_box([depth; 256]);
            if depth == 0 { 0 } else { recurse(depth - 1) + frame[100] }
        }
        black_box(recurse(500));
    }
}

#[test]
fn a_result_that_nobody_takes_is_not_dropped_on_another_coroutines_stack() {
    run(|| {
        let stop = Rc::new(Cell::new(false));
        let small = |stop: &Rc<Cell<bool>>| {
            let stop = Rc::clone(stop);
            let builder = thread::Builder::new().stack_size(64 << 10);
            let spawned = builder.spawn(move || {
                while !stop.get() {
                    thread::yield_now();
                }
            });
            spawned.expect("there is room for a stack")
        };
        let others = [small(&stop), small(&stop)];
        for yields in 0..40 {
            drop(thread::spawn(move || {
                (0..yields).for_each(|_| thread::yield_now());
                Deep
            }));
        }
        (0..200).for_each(|_| thread::yield_now());
        stop.set(true);
        for other in others {
            other.join().expect("no panic");
        }
    });
}

#[test]
fn a_coroutine_that_is_cancelled_by_one_on_its_own_stack_unwinds() {
    struct Notes(Rc<Cell<u32>>);
    impl Drop for Notes {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    for yields in 0..40 {
        let unwound = run(move || {
            let unwound = Rc::new(Cell::new(0));
            let notes = Notes(Rc::clone(&unwound));
            let victim = thread::spawn(move || {
                let _notes = notes;
                loop {
                    thread::yield_now();
                }
            });
            let canceller = thread::spawn(move || {
                (0..yields).for_each(|_| thread::yield_now());
                victim.cancel();
                victim.join()
            });
            let joined: thread::Result<()> = canceller.join().expect("no panic");
            let payload = joined.expect_err("it was cancelled");
            assert!(matches!(payload.downcast_ref(), Some(JoinError::Cancelled)));
            unwound.get()
        });
        assert_eq!(unwound, 1, "after {yields} yields");
    }
}

#[test]
fn a_scope_that_is_cancelled_ends_children_that_yield() {
    for yields in 0..40 {
        run(move || {
            let endless = || loop {
                thread::yield_now();
            };
            let victim = thread::spawn(move || {
                thread::scope(|scope| {
                    drop((scope.spawn(endless), scope.spawn(endless)));
                    endless();
                });
            });
            (0..yields).for_each(|_| thread::yield_now());
            victim.cancel();
            let payload = victim.join().expect_err("it was cancelled");
            assert!(matches!(payload.downcast_ref(), Some(JoinError::Cancelled)));
        });
    }
}

#[test]
fn coroutines_that_yield_without_end_do_not_keep_a_timer_waiting() {
    run(|| {
        let stop = Rc::new(Cell::new(false));
        let others = [yielder(&stop), yielder(&stop), yielder(&stop)];
        let asleep = Rc::clone(&stop);
        drop(rt::named("alarm").spawn(async move {
            rt::sleep(Duration::from_millis(5)).await;
            asleep.set(true);
        }));
        let started = Instant::now();
        while !stop.get() && started.elapsed() < Duration::from_secs(20) {
            thread::yield_now();
        }
        assert!(stop.replace(true), "the timer did not fire");
        for other in others {
            other.join().expect("no panic");
        }
    });
}

#[test]
fn every_yield_counts_as_a_poll() {
    const YIELDS: u64 = 10_000;
    let core = Core::new(&CoreConfig::default().seed([7; 32])).expect("a core");
    let before = core.stats().polls;
    let run = thread::try_run_on(&core, || {
        let coroutine = || thread::spawn(|| (0..YIELDS).for_each(|_| thread::yield_now()));
        let both = [coroutine(), coroutine()];
        for handle in both {
            handle.join().expect("no panic");
        }
    });
    run.expect("the core runs").expect("no panic");
    let (polls, turns) = (core.stats().polls - before, core.stats().turns);
    assert!((2 * YIELDS..2 * YIELDS + 20).contains(&polls), "{polls} polls");
    // A turn polls 512 times at most.
    assert!(turns >= polls / 512, "{turns} turns");
}

rt::task_local! {
    static NUMBER: u32;
}

#[test]
fn task_locals_are_each_coroutines_own() {
    run(|| {
        let coroutine = |number: u32| {
            thread::spawn(move || {
                assert_eq!(NUMBER.get(), None);
                NUMBER.set(number);
                for _ in 0..100 {
                    thread::yield_now();
                    assert_eq!(NUMBER.get(), Some(number));
                }
            })
        };
        let all: Vec<_> = (0..5).map(coroutine).collect();
        NUMBER.set(99);
        for handle in all {
            handle.join().expect("no panic");
        }
        assert_eq!(NUMBER.get(), Some(99));
    });
}
