//! Waits for work of which the amount is not known beforehand, on any threads.

use tokio::sync::watch;

use crate::rt::waits_for;

/// Counts pieces of work, on any threads, each of which holds a [`WaitToken`], and waits until
/// there are none.
#[derive(Debug)]
pub struct WaitGroup {
    work: watch::Sender<Work>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Work {
    count: usize,
    /// How often the last token was dropped. Wraps.
    endings: u64,
}

impl WaitGroup {
    /// A group without work.
    pub fn new() -> Self {
        Self { work: watch::Sender::new(Work::default()) }
    }

    /// Counts one piece of work more, until the token is dropped.
    pub fn token(&self) -> WaitToken {
        WaitToken::new(&self.work)
    }

    /// How much work there is.
    pub fn count(&self) -> usize {
        self.work.borrow().count
    }

    /// Completes when there is no work, at its first poll if there is none then. Tasks that wait
    /// when the last token is dropped goes on, also if new work is added before that task runs. It
    /// may be dropped at any time.
    pub async fn wait(&self) {
        let mut work = self.work.subscribe();
        let before = *work.borrow_and_update();
        let over = work.wait_for(|work| work.count == 0 || work.endings != before.endings);
        // The sender is in `self`, so it does not go away meanwhile.
        let _ = waits_for("a wait group", over).await;
    }
}

impl Default for WaitGroup {
    fn default() -> Self {
        Self::new()
    }
}

/// One piece of work of a [`WaitGroup`], done when this is dropped. A clone is another piece.
#[derive(Debug)]
#[must_use = "dropping it says that the work is done"]
pub struct WaitToken {
    work: watch::Sender<Work>,
}

impl WaitToken {
    fn new(work: &watch::Sender<Work>) -> Self {
        // Nobody waits for more work, so nobody is woken.
        work.send_if_modified(|work| {
            work.count += 1;
            false
        });
        Self { work: work.clone() }
    }
}

impl Clone for WaitToken {
    fn clone(&self) -> Self {
        Self::new(&self.work)
    }
}

impl Drop for WaitToken {
    fn drop(&mut self) {
        self.work.send_if_modified(|work| {
            work.count -= 1;
            let is_over = work.count == 0;
            work.endings = work.endings.wrapping_add(u64::from(is_over));
            is_over
        });
    }
}
