//! A counting semaphore for the tasks of one core.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::wait_list::{Left, ListWaiter, WaitList};
use super::{AcquireError, TryAcquireError};
use crate::rt::noted;
use crate::user_code::wake_all;

/// A number of permits that tasks of one core take and give back.
///
/// Strictly first come, first served: permits that come back go to the task that has waited
/// longest, and nobody takes permits while somebody waits, not even a smaller number than that one
/// waits for. A task that stops waiting lets the next one on; one that is dropped after it was
/// granted its permits gives them back.
///
/// ```
/// # use std::time::Duration;
/// use boson::rt;
/// use boson::sync::local::Semaphore;
/// # boson::run(async {
/// let requests = Semaphore::new(2);
/// let first = requests.acquire().await?;
/// let second = requests.acquire().await?;
/// // Both are taken. A third one waits, for a millisecond here, and then leaves the queue.
/// assert!(rt::timeout(Duration::from_millis(1), requests.acquire()).await.is_err());
/// drop(first);
/// assert_eq!(requests.available_permits(), 1);
/// # drop(second);
/// # Ok::<(), boson::Error>(())
/// # })?;
/// # Ok::<(), boson::Error>(())
/// ```
pub struct Semaphore {
    permits: Cell<usize>,
    closed: Cell<bool>,
    waiters: WaitList<PermitRequest>,
    /// What those wait for.
    what: &'static str,
}

/// What a waiting [`SemaphoreAcquire`] shows, and what it finds.
#[derive(Clone, Copy, Debug)]
enum PermitRequest {
    Wants(usize),
    Granted,
    Refused,
}

impl Semaphore {
    /// A semaphore with `permits` permits.
    pub const fn new(permits: usize) -> Self {
        Self::inside_of("a semaphore", permits)
    }

    /// The semaphore of another primitive: `what` a task is said to wait for.
    pub(super) const fn inside_of(what: &'static str, permits: usize) -> Self {
        Self { permits: Cell::new(permits), closed: Cell::new(false), waiters: WaitList::new(), what }
    }

    /// How many permits nobody holds.
    pub fn available_permits(&self) -> usize {
        self.permits.get()
    }

    /// Takes one permit, when it is this task's turn.
    ///
    /// # Errors
    ///
    /// If the semaphore is closed, or is closed while this waits.
    #[inline]
    pub fn acquire(&self) -> SemaphoreAcquire<'_> {
        self.acquire_many(1)
    }

    /// Takes `count` permits at once, when it is this task's turn. Those behind it wait until then,
    /// so a count that is never free together holds them all up.
    ///
    /// # Errors
    ///
    /// If the semaphore is closed, or is closed while this waits.
    #[inline]
    pub fn acquire_many(&self, count: u32) -> SemaphoreAcquire<'_> {
        let count = count as usize;
        SemaphoreAcquire {
            semaphore: self,
            count,
            waiter: ListWaiter::new(&self.waiters, PermitRequest::Wants(count)),
        }
    }

    /// Takes one permit that keeps the semaphore alive.
    ///
    /// # Errors
    ///
    /// If the semaphore is closed, or is closed while this waits.
    pub async fn acquire_owned(self: Rc<Self>) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.acquire_many_owned(1).await
    }

    /// Takes `count` permits at once that keep the semaphore alive.
    ///
    /// # Errors
    ///
    /// If the semaphore is closed, or is closed while this waits.
    pub async fn acquire_many_owned(
        self: Rc<Self>,
        count: u32,
    ) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.acquire_many(count).await?.forget();
        Ok(OwnedSemaphorePermit { semaphore: self, count: count as usize })
    }

    /// Takes one permit if that is possible now.
    ///
    /// # Errors
    ///
    /// If there is none, if others wait, or if the semaphore is closed.
    pub fn try_acquire(&self) -> Result<SemaphorePermit<'_>, TryAcquireError> {
        self.try_acquire_many(1)
    }

    /// Takes `count` permits if that is possible now.
    ///
    /// # Errors
    ///
    /// If there are fewer, if others wait, or if the semaphore is closed.
    #[inline]
    pub fn try_acquire_many(&self, count: u32) -> Result<SemaphorePermit<'_>, TryAcquireError> {
        let count = count as usize;
        self.try_take(count)?;
        Ok(SemaphorePermit { semaphore: self, count })
    }

    /// Takes one permit that keeps the semaphore alive, if that is possible now.
    ///
    /// # Errors
    ///
    /// If there is none, if others wait, or if the semaphore is closed.
    pub fn try_acquire_owned(self: Rc<Self>) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        self.try_acquire_many_owned(1)
    }

    /// Takes `count` permits that keep the semaphore alive, if that is possible now.
    ///
    /// # Errors
    ///
    /// If there are fewer, if others wait, or if the semaphore is closed.
    pub fn try_acquire_many_owned(
        self: Rc<Self>,
        count: u32,
    ) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        let count = count as usize;
        self.try_take(count)?;
        Ok(OwnedSemaphorePermit { semaphore: self, count })
    }

    /// Adds `count` permits; those that wait get them first. The number of permits stops growing at
    /// `usize::MAX`.
    #[inline]
    pub fn add_permits(&self, count: usize) {
        self.permits.set(self.permits.get().saturating_add(count));
        self.grant();
    }

    /// Takes up to `count` of the permits that nobody holds away for good, and returns how many
    /// that were.
    pub fn forget_permits(&self, count: usize) -> usize {
        let taken = self.permits.get().min(count);
        self.permits.set(self.permits.get() - taken);
        taken
    }

    /// Ends all waiting: present and later waiters get an error. Permits that are
    /// held stay valid.
    pub fn close(&self) {
        self.closed.set(true);
        self.waiters.tell_all(PermitRequest::Refused);
    }

    /// Whether [`Semaphore::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    #[inline]
    fn try_take(&self, count: usize) -> Result<(), TryAcquireError> {
        if self.closed.get() {
            return Err(TryAcquireError::Closed);
        }
        match self.permits.get().checked_sub(count) {
            Some(left) if self.waiters.is_empty() => {
                self.permits.set(left);
                Ok(())
            }
            _ => Err(TryAcquireError::NoPermits),
        }
    }

    /// Grants those at the head of the queue what they wait for, as far as it goes.
    #[inline]
    fn grant(&self) {
        // Each round leaves everything consistent before it wakes: the waker may come back here.
        while let Some(PermitRequest::Wants(count)) = self.waiters.front() {
            let Some(left) = self.permits.get().checked_sub(count) else { break };
            self.permits.set(left);
            wake_all(self.waiters.tell_front(PermitRequest::Granted));
        }
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("permits", &self.permits)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The future of [`Semaphore::acquire`] and [`Semaphore::acquire_many`]. Its place in the queue
    /// is that of its first poll.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless awaited"]
    pub struct SemaphoreAcquire<'a> {
        semaphore: &'a Semaphore,
        count: usize,
        #[pin]
        waiter: ListWaiter<'a, PermitRequest>,
    }

    impl PinnedDrop for SemaphoreAcquire<'_> {
        fn drop(this: Pin<&mut Self>) {
            match this.waiter.leave() {
                // It may have held up others that want less.
                Left::Waiting => this.semaphore.grant(),
                Left::Told(PermitRequest::Granted) => this.semaphore.add_permits(this.count),
                Left::Idle | Left::Told(_) => {}
            }
        }
    }
}

impl<'a> Future for SemaphoreAcquire<'a> {
    type Output = Result<SemaphorePermit<'a>, AcquireError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (semaphore, count) = (*this.semaphore, *this.count);
        let waiter = this.waiter.as_ref();
        if waiter.is_idle() {
            match semaphore.try_take(count) {
                Ok(()) => return Poll::Ready(Ok(SemaphorePermit { semaphore, count })),
                Err(TryAcquireError::Closed) => return Poll::Ready(Err(AcquireError)),
                Err(TryAcquireError::NoPermits) => {}
            }
            // User code, after which everything may have changed.
            let waker = cx.waker().clone();
            return match semaphore.try_take(count) {
                Ok(()) => Poll::Ready(Ok(SemaphorePermit { semaphore, count })),
                Err(TryAcquireError::Closed) => Poll::Ready(Err(AcquireError)),
                Err(TryAcquireError::NoPermits) => {
                    waiter.wait(PermitRequest::Wants(count), waker);
                    noted(semaphore.what, Poll::Pending)
                }
            };
        }
        noted(semaphore.what, waiter.poll_told(cx)).map(|told| match told {
            PermitRequest::Granted if semaphore.is_closed() => {
                semaphore.add_permits(count);
                Err(AcquireError)
            }
            PermitRequest::Granted => Ok(SemaphorePermit { semaphore, count }),
            PermitRequest::Wants(_) | PermitRequest::Refused => Err(AcquireError),
        })
    }
}

/// Permits of a [`Semaphore`], which go back when this is dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the permits back"]
pub struct SemaphorePermit<'a> {
    semaphore: &'a Semaphore,
    count: usize,
}

impl SemaphorePermit<'_> {
    /// How many permits these are.
    pub fn num_permits(&self) -> usize {
        self.count
    }

    /// Does not give the permits back, so that the semaphore has that many fewer.
    pub fn forget(mut self) {
        self.count = 0;
    }

    /// Splits `count` permits off; `None` if there are fewer.
    pub fn split(&mut self, count: usize) -> Option<Self> {
        self.count = self.count.checked_sub(count)?;
        Some(Self { semaphore: self.semaphore, count })
    }

    /// Adds the permits of `other` to these.
    ///
    /// # Panics
    ///
    /// If they are of different semaphores.
    #[track_caller]
    pub fn merge(&mut self, mut other: Self) {
        assert!(std::ptr::eq(self.semaphore, other.semaphore), "permits of different semaphores");
        self.count += std::mem::take(&mut other.count);
    }
}

impl Drop for SemaphorePermit<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.count > 0 {
            self.semaphore.add_permits(self.count);
        }
    }
}

/// Permits of a [`Semaphore`] that they keep alive; they go back when this is dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the permits back"]
pub struct OwnedSemaphorePermit {
    semaphore: Rc<Semaphore>,
    count: usize,
}

impl OwnedSemaphorePermit {
    /// How many permits these are.
    pub fn num_permits(&self) -> usize {
        self.count
    }

    /// Does not give the permits back, so that the semaphore has that many fewer.
    pub fn forget(mut self) {
        self.count = 0;
    }

    /// Splits `count` permits off; `None` if there are fewer.
    pub fn split(&mut self, count: usize) -> Option<Self> {
        self.count = self.count.checked_sub(count)?;
        Some(Self { semaphore: Rc::clone(&self.semaphore), count })
    }

    /// Adds the permits of `other` to these.
    ///
    /// # Panics
    ///
    /// If they are of different semaphores.
    #[track_caller]
    pub fn merge(&mut self, mut other: Self) {
        assert!(Rc::ptr_eq(&self.semaphore, &other.semaphore), "permits of different semaphores");
        self.count += std::mem::take(&mut other.count);
    }

    /// The semaphore they are of.
    pub fn semaphore(&self) -> &Rc<Semaphore> {
        &self.semaphore
    }
}

impl Drop for OwnedSemaphorePermit {
    fn drop(&mut self) {
        if self.count > 0 {
            self.semaphore.add_permits(self.count);
        }
    }
}
