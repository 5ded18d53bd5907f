//! A value that a task of one core makes once, and the others wait for.

use std::cell::OnceCell as StdOnceCell;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;

use super::SetError;
use super::semaphore::Semaphore;

/// A value that is made once, asynchronously, by the first task of a core that needs it.
///
/// Tasks that come while it is made wait, first come, first served: if making it fails or the task
/// that does is dropped, the one that has waited longest tries.
///
/// ```
/// # use std::time::Duration;
/// use boson::rt;
/// use boson::sync::local::OnceCell;
/// # boson::run(async {
/// let address = OnceCell::new();
/// let never = address.get_or_init(std::future::pending);
/// assert!(rt::timeout(Duration::from_millis(1), never).await.is_err());
/// assert_eq!(*address.get_or_init(async || 7).await, 7);
/// assert_eq!(address.get(), Some(&7));
/// # });
/// # Ok::<(), boson::Error>(())
/// ```
pub struct OnceCell<T> {
    value: StdOnceCell<T>,
    /// Its one permit is the right to make the value; closed once there is one.
    right: Semaphore,
}

impl<T> OnceCell<T> {
    /// A cell without a value.
    pub const fn new() -> Self {
        Self { value: StdOnceCell::new(), right: Semaphore::inside_of("a value that is being made", 1) }
    }

    /// The value, if there is one.
    pub fn get(&self) -> Option<&T> {
        self.value.get()
    }

    /// The value, to change it, if there is one.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        self.value.get_mut()
    }

    /// The value, if there is one.
    pub fn into_inner(self) -> Option<T> {
        self.value.into_inner()
    }

    /// Sets the value.
    ///
    /// # Errors
    ///
    /// If there is one or one is being made: `value` comes back.
    pub fn set(&self, value: T) -> Result<(), SetError<T>> {
        if self.initialized() {
            return Err(SetError::AlreadyInitializedError(value));
        }
        let Ok(permit) = self.right.try_acquire() else { return Err(SetError::InitializingError(value)) };
        let result = self.value.set(value);
        self.right.close();
        drop(permit);
        result.map_err(SetError::AlreadyInitializedError)
    }

    /// Whether there is a value.
    pub fn initialized(&self) -> bool {
        self.value.get().is_some()
    }

    /// The value; made by `make` if there is none and nobody else makes it.
    pub async fn get_or_init<F: Future<Output = T>>(&self, make: impl FnOnce() -> F) -> &T {
        let made = self.get_or_try_init(|| async { Ok::<T, Infallible>(make().await) }).await;
        match made {
            Ok(value) => value,
            Err(never) => match never {},
        }
    }

    /// The value; made by `make` if there is none and nobody else makes it.
    ///
    /// # Errors
    ///
    /// That of `make`, if this call ran it. The next one tries again.
    pub async fn get_or_try_init<E, F: Future<Output = Result<T, E>>>(
        &self,
        make: impl FnOnce() -> F,
    ) -> Result<&T, E> {
        if let Some(value) = self.value.get() {
            return Ok(value);
        }
        // An error says that there is a value now.
        let permit = self.right.acquire().await;
        if let Some(value) = self.value.get() {
            return Ok(value);
        }
        let made = make().await?;
        let value = self.value.get_or_init(|| made);
        self.right.close();
        drop(permit);
        Ok(value)
    }
}

impl<T> Default for OnceCell<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> From<T> for OnceCell<T> {
    fn from(value: T) -> Self {
        let right = Semaphore::inside_of("a value that is being made", 0);
        right.close();
        Self { value: StdOnceCell::from(value), right }
    }
}

impl<T: fmt::Debug> fmt::Debug for OnceCell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnceCell").field("value", &self.value).finish_non_exhaustive()
    }
}
