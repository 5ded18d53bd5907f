//! Values that belong to a core and end with it.

use std::any::Any;
use std::marker::PhantomData;
use std::rc::Rc;

use super::scheduler::in_core;

/// A value of which every core has its own, declared as a static. The layers above keep in it what
/// a core opens once. It is dropped when the core ends, after the core's tasks and inside the core.
///
/// Every method panics outside a core.
pub(crate) struct CoreLocal<T: 'static> {
    /// A static that is not empty has an address of its own: that is its key.
    _address: u8,
    value: PhantomData<fn() -> T>,
}

impl<T: 'static> CoreLocal<T> {
    pub(crate) const fn new() -> Self {
        Self { _address: 0, value: PhantomData }
    }

    fn key(&'static self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The core's value, if it has one.
    #[track_caller]
    pub(crate) fn get(&'static self) -> Option<Rc<T>> {
        let value: Rc<dyn Any> = in_core("a core's value", |core| core.core_locals().get(self.key()))?;
        value.downcast().ok()
    }

    /// Gives the core a value, and drops the one before.
    #[track_caller]
    pub(crate) fn set(&'static self, value: Rc<T>) {
        // Dropped out here: `in_core` runs no destructor.
        drop(in_core("a core's value", |core| core.core_locals().replace(self.key(), Some(value))));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::CoreLocal;
    use crate::rt::{self, Core, CoreConfig};

    static NUMBER: CoreLocal<Cell<u32>> = CoreLocal::new();
    static OTHER: CoreLocal<Cell<u32>> = CoreLocal::new();

    fn core() -> Core {
        Core::new(&CoreConfig::default()).expect("a core")
    }

    #[test]
    fn every_core_has_its_own_value() {
        let (first, second) = (core(), core());
        first.block_on(async { NUMBER.set(Rc::new(Cell::new(1))) });
        second.block_on(async { assert!(NUMBER.get().is_none()) });
        first.block_on(async {
            assert_eq!(NUMBER.get().map(|value| value.get()), Some(1));
            assert!(OTHER.get().is_none());
            let task = rt::spawn(async { NUMBER.get().map(|value| value.get()) });
            assert_eq!(task.await.expect("no panic"), Some(1));
        });
    }

    #[test]
    fn a_value_ends_with_its_core_and_inside_it() {
        struct Ends(Rc<Cell<bool>>);
        impl Drop for Ends {
            fn drop(&mut self) {
                self.0.set(rt::is_in_core());
            }
        }
        static ENDS: CoreLocal<Ends> = CoreLocal::new();

        let ended_inside = Rc::new(Cell::new(false));
        let core = core();
        core.block_on(async { ENDS.set(Rc::new(Ends(Rc::clone(&ended_inside)))) });
        assert!(!ended_inside.get());
        drop(core);
        assert!(ended_inside.get());
    }
}
