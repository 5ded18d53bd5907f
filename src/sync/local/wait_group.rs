//! Waits for work of which the amount is not known beforehand, on one core.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::notify::{Notified, Notify};
use crate::rt::noted_over;

/// Counts pieces of work of one core, each of which holds a [`WaitToken`], and waits until there
/// are none.
///
/// ```
/// # use std::time::Duration;
/// use boson::rt;
/// use boson::sync::local::WaitGroup;
/// # boson::run(async {
/// let requests = WaitGroup::new();
/// for _ in 0..3 {
///     let token = requests.token();
///     rt::named("request").spawn(async move {
///         rt::yield_now().await;
///         drop(token);
///     });
/// }
/// rt::timeout(Duration::from_secs(1), requests.wait()).await?;
/// assert_eq!(requests.count(), 0);
/// # Ok::<(), boson::Error>(())
/// # })?;
/// # Ok::<(), boson::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct WaitGroup {
    state: Rc<State>,
}

#[derive(Debug, Default)]
struct State {
    count: Cell<usize>,
    done: Notify,
}

impl WaitGroup {
    /// A group without work.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one piece of work more, until the token is dropped.
    pub fn token(&self) -> WaitToken {
        self.state.count.set(self.state.count.get() + 1);
        WaitToken { state: Rc::clone(&self.state) }
    }

    /// How much work there is.
    pub fn count(&self) -> usize {
        self.state.count.get()
    }

    /// Completes when there is no work, at its first poll if there is none then. Tasks that wait
    /// when the last token is dropped goes on, also if new work is added before that task runs.
    pub fn wait(&self) -> WaitGroupWait<'_> {
        WaitGroupWait { state: &self.state, notified: self.state.done.notified(), waits: false }
    }
}

/// One piece of work of a [`WaitGroup`], done when this is dropped. A clone is another piece.
#[derive(Debug)]
#[must_use = "dropping it says that the work is done"]
pub struct WaitToken {
    state: Rc<State>,
}

impl Clone for WaitToken {
    fn clone(&self) -> Self {
        self.state.count.set(self.state.count.get() + 1);
        Self { state: Rc::clone(&self.state) }
    }
}

impl Drop for WaitToken {
    fn drop(&mut self) {
        self.state.count.set(self.state.count.get() - 1);
        if self.state.count.get() == 0 {
            self.state.done.notify_all();
        }
    }
}

pin_project! {
    /// The future of [`WaitGroup::wait`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless awaited"]
    pub struct WaitGroupWait<'a> {
        state: &'a State,
        #[pin]
        notified: Notified<'a>,
        waits: bool,
    }
}

impl Future for WaitGroupWait<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if !*this.waits {
            if this.state.count.get() == 0 {
                return Poll::Ready(());
            }
            *this.waits = true;
            let first = this.notified.poll(cx);
            // The last token may have gone while the waker was cloned.
            return if this.state.count.get() == 0 {
                Poll::Ready(())
            } else {
                noted_over("a notification", "a wait group", first)
            };
        }
        noted_over("a notification", "a wait group", this.notified.poll(cx))
    }
}
