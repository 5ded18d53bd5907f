//! The local values of one task or one core.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

/// The values of one task or one core, which are dropped on that core when the owner ends.
#[derive(Default)]
pub(in crate::rt) struct Locals(RefCell<Vec<(usize, Rc<dyn Any>)>>);

impl Locals {
    pub(in crate::rt) fn get(&self, key: usize) -> Option<Rc<dyn Any>> {
        self.0.borrow().iter().find(|(other, _)| *other == key).map(|(_, value)| Rc::clone(value))
    }

    /// All values, in the order in which they came; none are left.
    pub(in crate::rt) fn take_all(&self) -> Vec<Rc<dyn Any>> {
        self.0.take().into_iter().map(|(_, value)| value).collect()
    }

    pub(in crate::rt) fn replace(&self, key: usize, value: Option<Rc<dyn Any>>) -> Option<Rc<dyn Any>> {
        let mut values = self.0.borrow_mut();
        let at = values.iter().position(|(other, _)| *other == key);
        match (at, value) {
            (Some(at), Some(value)) => Some(std::mem::replace(&mut values[at].1, value)),
            (Some(at), None) => Some(values.swap_remove(at).1),
            (None, Some(value)) => {
                values.push((key, value));
                None
            }
            (None, None) => None,
        }
    }
}
