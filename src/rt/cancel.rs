//! Asking work to stop, from anywhere.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use super::tasks::waiting_for;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::user_code::wake_all;

/// Asks the holders of its clones to stop.
///
/// Tokens form a tree: [`CancelToken::child`] is cancelled with its parent, and not the other way
/// round. One type serves within a core and across: to ask costs an atomic load, and only waiting
/// takes a lock.
#[derive(Clone)]
#[doc(alias = "CancellationToken")]
pub struct CancelToken(Arc<TokenNode>);

struct TokenNode {
    cancelled: AtomicBool,
    state: Mutex<TokenState>,
    /// And the number that this node has there. It stays alive for its own parent's sake.
    parent: Mutex<Option<(Arc<TokenNode>, u64)>>,
}

#[derive(Default)]
struct TokenState {
    next_id: u64,
    waiters: BTreeMap<u64, Waker>,
    children: BTreeMap<u64, Weak<TokenNode>>,
}

impl TokenNode {
    fn new(parent: Option<(Arc<TokenNode>, u64)>, cancelled: bool) -> Self {
        Self { cancelled: AtomicBool::new(cancelled), state: Mutex::default(), parent: Mutex::new(parent) }
    }

    fn lock(&self) -> MutexGuard<'_, TokenState> {
        // No user code runs under the lock, so a panic leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}

impl TokenState {
    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

impl Default for CancelToken {
    fn default() -> Self {
        Self::new()
    }
}

impl CancelToken {
    /// A token without a parent, not cancelled.
    pub fn new() -> Self {
        Self(Arc::new(TokenNode::new(None, false)))
    }

    /// A token that is cancelled with this one, or by itself.
    #[must_use]
    pub fn child(&self) -> Self {
        let mut state = self.0.lock();
        if self.0.is_cancelled() {
            return Self(Arc::new(TokenNode::new(None, true)));
        }
        let id = state.take_id();
        let child = Arc::new(TokenNode::new(Some((Arc::clone(&self.0), id)), false));
        state.children.insert(id, Arc::downgrade(&child));
        Self(child)
    }

    /// Cancels this token and all below it. Wakes their waiters before it returns; a waker that
    /// panics costs no other its wake, and its panic ends here.
    pub fn cancel(&self) {
        // Not recursive: a tree may be deep.
        let mut pending = vec![Arc::clone(&self.0)];
        while let Some(node) = pending.pop() {
            let (waiters, children) = {
                let mut state = node.lock();
                // Under the lock, so that a waiter sees it or is taken here.
                node.cancelled.store(true, Ordering::Release);
                (std::mem::take(&mut state.waiters), std::mem::take(&mut state.children))
            };
            pending.extend(children.into_values().filter_map(|child| child.upgrade()));
            wake_all(waiters.into_values());
        }
    }

    /// Whether it is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Completes when it is cancelled.
    pub fn cancelled(&self) -> Cancelled {
        Cancelled { node: Arc::clone(&self.0), id: None }
    }

    /// A guard that cancels this token when it is dropped: when the function that holds the guard
    /// returns or panics.
    #[must_use = "dropping the guard cancels the token"]
    pub fn drop_guard(self) -> DropGuard {
        DropGuard(Some(self))
    }

    /// Runs `future` until it is cancelled, and then drops it.
    ///
    /// # Errors
    ///
    /// [`Cancelled`](ErrorKind::Cancelled): with outcome [`NotStarted`](Outcome::NotStarted) if it
    /// was cancelled before, and [`Unknown`](Outcome::Unknown) if that happened meanwhile: what the
    /// future was doing may have taken effect.
    #[doc(alias = "run_until_cancelled")]
    pub async fn run<F: Future>(&self, future: F) -> Result<F::Output> {
        let error = |outcome| Error::new(ErrorKind::Cancelled, "run until cancelled").outcome_is(outcome);
        if self.is_cancelled() {
            return Err(error(Outcome::NotStarted));
        }
        let mut future = std::pin::pin!(future);
        let mut cancelled = self.cancelled();
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            Pin::new(&mut cancelled).register(cx).map(|()| Err(error(Outcome::Unknown)))
        })
        .await
    }
}

impl Drop for TokenNode {
    fn drop(&mut self) {
        // Not recursive: a tree may be deep.
        let mut parent = self.parent.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        while let Some((node, id)) = parent {
            node.lock().children.remove(&id);
            parent = Arc::into_inner(node)
                .and_then(|mut node| node.parent.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("cancelled", &self.is_cancelled()).finish_non_exhaustive()
    }
}

/// Cancels its token when it is dropped. Made by [`CancelToken::drop_guard`].
#[derive(Debug)]
#[must_use = "dropping it cancels the token"]
pub struct DropGuard(Option<CancelToken>);

impl DropGuard {
    /// The token, which is not cancelled.
    pub fn disarm(mut self) -> CancelToken {
        self.0.take().unwrap_or_default()
    }
}

impl Drop for DropGuard {
    fn drop(&mut self) {
        if let Some(token) = &self.0 {
            token.cancel();
        }
    }
}

/// The future of [`CancelToken::cancelled`]. Works on any executor.
#[must_use = "futures do nothing unless awaited"]
pub struct Cancelled {
    node: Arc<TokenNode>,
    id: Option<u64>,
}

impl Cancelled {
    fn register(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.node.is_cancelled() {
            return Poll::Ready(());
        }
        // Cloned before, and dropped after, the lock: wakers may be user code.
        let waker = cx.waker().clone();
        let mut state = self.node.lock();
        if self.node.is_cancelled() {
            drop(state);
            return Poll::Ready(());
        }
        let id = match self.id {
            Some(id) => id,
            None => *self.id.insert(state.take_id()),
        };
        let old = state.waiters.insert(id, waker);
        drop(state);
        drop(old);
        Poll::Pending
    }
}

impl Future for Cancelled {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.register(cx);
        if polled.is_pending() {
            waiting_for("a cancellation");
        }
        polled
    }
}

impl Drop for Cancelled {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let waker = self.node.lock().waiters.remove(&id);
            drop(waker);
        }
    }
}

impl fmt::Debug for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancelled").finish_non_exhaustive()
    }
}
