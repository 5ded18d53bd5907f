//! Coroutines that borrow from the one that spawns them, as [`std::thread::scope`] has it for
//! threads.
//!
//! What they borrow lives in the caller of [`scope`], which must not go on, nor unwind, before they
//! have all ended. It waits for them when the function returns or panics. If it is cancelled it
//! cannot wait: then it ends them on the spot, by dropping their coroutines, which unwinds their
//! stacks. That is possible because they are all on this core, so none of them runs now.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::{Builder, Thread, ThreadKind, task_name};
use crate::rt::coroutine::{self, Coroutine};
use crate::rt::{self, Cancel, CancelOnDrop};
use crate::user_code::{self, PanicPayload, caught, drop_contained};

/// Where scoped coroutines are spawned.
pub struct Scope<'scope, 'env: 'scope> {
    children: Rc<Children>,
    /// Invariant, as in `std`.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

#[derive(Default)]
struct Children {
    running: RefCell<Vec<Rc<Child>>>,
    /// One panicked whose handle was not joined.
    a_panic_was_dropped: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

/// A scoped coroutine, in reach of its scope and of the task that polls it.
struct Child {
    /// `None` after it ended. Borrowed while its task polls it, but not while it runs without a
    /// poll, from another coroutine's stack: a [`Coroutine`] that is dropped while it runs, or has
    /// others run on its stack, ends the process itself.
    coroutine: RefCell<Option<Pin<Box<Coroutine<()>>>>>,
}

impl Child {
    /// Has its task polled once more: what it waits for goes with the coroutine, and then nothing
    /// else would.
    fn wake(&self) {
        if let Ok(coroutine) = self.coroutine.try_borrow()
            && let Some(coroutine) = &*coroutine
        {
            coroutine.wake();
        }
    }

    /// Drops the coroutine, which unwinds it if it is suspended.
    fn end(&self) {
        let Ok(mut coroutine) = self.coroutine.try_borrow_mut() else {
            // Its frames borrow from a scope that is about to go.
            user_code::abort(format_args!("a scope is dropped by one of its own coroutines"));
        };
        drop_contained(coroutine.take());
    }
}

/// What a scoped coroutine leaves for its handle.
struct Packet<T> {
    /// `None` if it was cancelled.
    result: Cell<Option<Result<T, PanicPayload>>>,
    waiter: RefCell<Option<Waker>>,
    ended: Cell<bool>,
    children: Rc<Children>,
}

impl<T> Drop for Packet<T> {
    fn drop(&mut self) {
        if let Some(Err(_)) = self.result.get_mut() {
            self.children.a_panic_was_dropped.set(true);
        }
    }
}

/// Tells of the end of a scoped coroutine, also of one that never began.
struct TellsHandle<T>(Rc<Packet<T>>);

impl<T> Drop for TellsHandle<T> {
    fn drop(&mut self) {
        self.0.ended.set(true);
        wake_waiter(&self.0.waiter);
    }
}

fn wake_waiter(waiter: &RefCell<Option<Waker>>) {
    let waker = waiter.borrow_mut().take();
    if let Some(waker) = waker {
        user_code::wake(waker);
    }
}

/// Waits for `what`, until `done`, with its waker in `waiter`. False if the caller is being
/// cancelled and cannot wait.
#[track_caller]
fn wait_until(what: &'static str, waiter: &RefCell<Option<Waker>>, done: impl Fn() -> bool) -> bool {
    if done() {
        return true;
    }
    let waiting = std::future::poll_fn(|cx| {
        if done() {
            return Poll::Ready(());
        }
        let old = waiter.replace(Some(cx.waker().clone()));
        drop(old);
        rt::task::waiting_for(what);
        Poll::Pending
    });
    coroutine::wait_unless_cancelled(waiting).is_some()
}

/// Polls a scoped coroutine as a task.
struct ChildTask {
    child: Rc<Child>,
    children: Rc<Children>,
}

impl Future for ChildTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self.child.coroutine.borrow_mut() {
            Some(coroutine) => coroutine.as_mut().poll(cx),
            // Its scope ended it.
            None => Poll::Ready(()),
        }
    }
}

impl Drop for ChildTask {
    /// At its end, and when the core drops it.
    fn drop(&mut self) {
        self.child.end();
        self.children.running.borrow_mut().retain(|child| !Rc::ptr_eq(child, &self.child));
        wake_waiter(&self.children.waiter);
    }
}

/// Ends what still runs when the scope's caller unwinds because it is cancelled.
struct EndAll<'a>(&'a Children);

impl Drop for EndAll<'_> {
    fn drop(&mut self) {
        loop {
            let child = self.0.running.borrow_mut().pop();
            let Some(child) = child else { break };
            child.wake();
            child.end();
        }
    }
}

/// Runs `f`, which may spawn coroutines that borrow from the caller, and waits for all of them.
///
/// # Panics
///
/// With what `f` panics with, and if a coroutine panicked that was not joined.
#[track_caller]
pub fn scope<'env, F, T>(f: F) -> T
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
{
    let children = Rc::<Children>::default();
    let scope = Scope { children: Rc::clone(&children), scope: PhantomData, env: PhantomData };
    // Before `f`, so that it is dropped after whatever `f` does, also when this unwinds out of the
    // wait below.
    let end_all = EndAll(&children);
    let result = caught(|| f(&scope));
    wait_until("the coroutines of a scope", &children.waiter, || children.running.borrow().is_empty());
    drop(end_all);
    match result {
        Err(payload) => payload.go_on(),
        Ok(_) if children.a_panic_was_dropped.get() => panic!("a scoped coroutine panicked"),
        Ok(output) => output,
    }
}

impl<'scope> Scope<'scope, '_> {
    /// Starts a coroutine that may borrow what outlives the scope.
    ///
    /// # Panics
    ///
    /// Outside a coroutine, and if there is no room for its stack.
    #[track_caller]
    pub fn spawn<F, T>(&'scope self, f: F) -> ScopedJoinHandle<'scope, T>
    where
        F: FnOnce() -> T + 'scope,
        T: 'scope,
    {
        match self.spawn_at(Builder::new(), Location::caller(), f) {
            Ok(handle) => handle,
            Err(error) => panic!("failed to spawn a coroutine: {error}"),
        }
    }

    fn spawn_at<F, T>(
        &'scope self,
        builder: Builder,
        created_at: &'static Location<'static>,
        f: F,
    ) -> crate::Result<ScopedJoinHandle<'scope, T>>
    where
        F: FnOnce() -> T + 'scope,
        T: 'scope,
    {
        assert!(
            coroutine::current_identity().is_some(),
            "a scope waits for its coroutines when it ends, so it must be in a coroutine itself: `boson::thread::spawn`"
        );
        let packet = Rc::new(Packet {
            result: Cell::new(None),
            waiter: RefCell::default(),
            ended: Cell::new(false),
            children: Rc::clone(&self.children),
        });
        let left_here = TellsHandle(Rc::clone(&packet));
        let body = move || {
            // Also a cancellation ends here: the stack is empty above this frame.
            let result = caught(f);
            if !(result.is_err() && coroutine::is_being_cancelled()) {
                left_here.0.result.set(Some(result));
            }
            drop(left_here);
        };
        let body: Box<dyn FnOnce() + 'scope> = Box::new(body);
        // SAFETY: only the lifetime changes. `body` and all that it leaves on its stack are gone
        // before `'scope` ends: `scope` does not return before every child has ended, and does not
        // unwind before `EndAll` has dropped the coroutines that are left. A coroutine whose memory
        // is leaked instead of dropped cannot occur: the child's `Rc` in `running` lets `EndAll`
        // reach it in any case.
        let body =
            unsafe { std::mem::transmute::<Box<dyn FnOnce() + 'scope>, Box<dyn FnOnce() + 'static>>(body) };
        let queue = builder.queue.clone();
        let (identity, coroutine) = builder.coroutine(created_at, body)?;
        let child = Rc::new(Child { coroutine: RefCell::new(Some(Box::pin(coroutine))) });
        self.children.running.borrow_mut().push(Rc::clone(&child));
        let task = ChildTask { child, children: Rc::clone(&self.children) };
        let named = rt::named(task_name(&identity));
        let builder = queue.as_ref().map_or(named, |queue| named.queue(queue));
        let task = builder.spawn_coroutine_at(created_at, task);
        Ok(ScopedJoinHandle {
            packet,
            task,
            thread: Thread(ThreadKind::Coroutine(identity)),
            scope: PhantomData,
        })
    }
}

impl Builder {
    /// Starts a scoped coroutine with this name and stack.
    ///
    /// # Errors
    ///
    /// As for [`Builder::spawn`].
    ///
    /// # Panics
    ///
    /// Outside a coroutine.
    #[track_caller]
    pub fn spawn_scoped<'scope, F, T>(
        self,
        scope: &'scope Scope<'scope, '_>,
        f: F,
    ) -> io::Result<ScopedJoinHandle<'scope, T>>
    where
        F: FnOnce() -> T + 'scope,
        T: 'scope,
    {
        Ok(scope.spawn_at(self, Location::caller(), f)?)
    }
}

/// The result of a scoped coroutine. Dropping it lets the coroutine run on; the scope waits for it.
pub struct ScopedJoinHandle<'scope, T> {
    packet: Rc<Packet<T>>,
    task: rt::JoinHandle<()>,
    thread: Thread,
    scope: PhantomData<&'scope ()>,
}

impl<T> ScopedJoinHandle<'_, T> {
    /// Waits for the coroutine to end. `Err` has what it panicked with, or a
    /// [`JoinError::Cancelled`](rt::JoinError::Cancelled) if it was cancelled.
    ///
    /// # Panics
    ///
    /// In an async task.
    #[track_caller]
    pub fn join(self) -> super::Result<T> {
        let packet = &self.packet;
        wait_until("the end of a coroutine", &packet.waiter, || packet.ended.get());
        match packet.result.take() {
            Some(result) => result.map_err(PanicPayload::into_inner),
            None => super::cancelled(),
        }
    }

    /// Whether the coroutine has ended.
    pub fn is_finished(&self) -> bool {
        self.packet.ended.get()
    }

    /// The coroutine, to unpark it.
    pub fn thread(&self) -> &Thread {
        &self.thread
    }

    /// Ends the coroutine where it waits: its stack unwinds, and `join` gives an `Err` with
    /// [`JoinError::Cancelled`](rt::JoinError::Cancelled). For the scope that is no panic. Takes
    /// effect when the core next turns to it; does nothing if it has ended.
    pub fn cancel(&self) {
        self.task.cancel();
    }

    /// Lets the coroutine run on without anybody to take its result. The scope still waits for it.
    /// The same as dropping the handle.
    pub fn detach(self) {
        drop(self);
    }

    /// A handle that cancels the coroutine when it is dropped.
    pub fn cancel_on_drop(self) -> CancelOnDrop<Self> {
        CancelOnDrop::new(self)
    }
}

impl<T> Cancel for ScopedJoinHandle<'_, T> {
    fn cancel(&self) {
        ScopedJoinHandle::cancel(self);
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("running", &self.children.running.borrow().len())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for ScopedJoinHandle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedJoinHandle").field("thread", &self.thread).finish_non_exhaustive()
    }
}
