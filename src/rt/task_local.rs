//! Values that belong to a task: a thread-local's counterpart.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;

use super::scheduler::in_core;
use super::tasks::Locals;

/// Declares values of which every task has its own.
///
/// ```
/// use boson::rt;
///
/// boson::rt::task_local! {
///     /// The request that a task works on.
///     pub static REQUEST: u64;
/// }
/// # fn main() {
/// boson::run(async {
///     REQUEST.set(7);
///     assert_eq!(REQUEST.get(), Some(7));
///     // Not inherited: a new task starts without a value.
///     assert_eq!(rt::named("other").spawn(async { REQUEST.get() }).await.expect("no panic"), None);
/// });
/// # }
/// ```
#[macro_export]
#[doc(hidden)]
macro_rules! __boson_task_local {
    ($($(#[$attribute:meta])* $visibility:vis static $name:ident: $type:ty;)*) => {
        $($(#[$attribute])* $visibility static $name: $crate::rt::task::TaskLocal<$type> =
            $crate::rt::task::TaskLocal::new();)*
    };
}

#[doc(inline)]
pub use crate::__boson_task_local as task_local;

/// A value of which every task has its own. Declared with [`task_local!`](task_local).
///
/// It belongs to the task, whatever that polls: futures in a `join!`, or a coroutine. A new task
/// starts without one (nothing is inherited), and the future given to
/// [`Core::block_on`](super::Core::block_on) is a task too. Values are dropped with the end of
/// their task.
///
/// Every method panics outside a core.
pub struct TaskLocal<T: 'static> {
    /// A static that is not empty has an address of its own: that is its key.
    _address: u8,
    value: PhantomData<fn() -> T>,
}

impl<T: 'static> TaskLocal<T> {
    /// For [`task_local!`](task_local).
    #[doc(hidden)]
    pub const fn new() -> Self {
        Self { _address: 0, value: PhantomData }
    }

    fn key(&'static self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Runs `f` with the task's value, if it has one.
    #[track_caller]
    pub fn with<R>(&'static self, f: impl FnOnce(Option<&T>) -> R) -> R {
        let value = locals().get(self.key());
        f(value.as_deref().and_then(<dyn Any>::downcast_ref))
    }

    /// A copy of the task's value, if it has one.
    #[track_caller]
    pub fn get(&'static self) -> Option<T>
    where
        T: Clone,
    {
        self.with(|value| value.cloned())
    }

    /// Gives the task a value, in the place of the one before.
    #[track_caller]
    pub fn set(&'static self, value: T) {
        // The old value's destructor is user code: it runs with no borrow held.
        drop(locals().replace(self.key(), Some(Rc::new(value))));
    }

    /// Takes the value away from the task.
    #[track_caller]
    pub fn clear(&'static self) {
        drop(locals().replace(self.key(), None));
    }
}

impl<T: 'static> fmt::Debug for TaskLocal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskLocal").finish_non_exhaustive()
    }
}

/// The values of the task that is being polled.
#[track_caller]
fn locals() -> Rc<Locals> {
    in_core("rt::task::TaskLocal", |core| core.locals())
}
