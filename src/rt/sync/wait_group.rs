//! Waits for work of which the amount is not known beforehand, on any threads.

use tokio::sync::watch;

/// Counts pieces of work, on any threads, each of which holds a [`WaitToken`], and waits until there are none.
#[derive(Debug)]
pub struct WaitGroup {
    count: watch::Sender<usize>,
}

impl WaitGroup {
    /// A group without work.
    pub fn new() -> Self {
        Self { count: watch::Sender::new(0) }
    }

    /// Counts one piece of work more, until the token is dropped.
    pub fn token(&self) -> WaitToken {
        WaitToken::new(&self.count)
    }

    /// How much work there is.
    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Completes when it finds no work, at its first poll if there is none then.
    pub async fn wait(&self) {
        // The sender is in `self`, so it does not go away meanwhile.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
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
    count: watch::Sender<usize>,
}

impl WaitToken {
    fn new(count: &watch::Sender<usize>) -> Self {
        // Nobody waits for more work, so nobody is woken.
        count.send_if_modified(|count| {
            *count += 1;
            false
        });
        Self { count: count.clone() }
    }
}

impl Clone for WaitToken {
    fn clone(&self) -> Self {
        Self::new(&self.count)
    }
}

impl Drop for WaitToken {
    fn drop(&mut self) {
        self.count.send_if_modified(|count| {
            *count -= 1;
            *count == 0
        });
    }
}
