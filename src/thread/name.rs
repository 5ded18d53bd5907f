//! Names of coroutines for their tasks.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// How many names there are at most. They are kept forever.
const MAX_TASK_NAMES: usize = 1024;
/// The name of the task of a coroutine that has no name, or one too many.
pub(super) const UNNAMED: &str = "coroutine";

/// The names that tasks of coroutines have.
static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

thread_local! {
    /// Those that this thread asked for, so that it takes the lock once for each.
    static KNOWN: RefCell<Known> = const { RefCell::new(Known { names: BTreeSet::new(), all: false }) };
}

struct Known {
    names: BTreeSet<&'static str>,
    /// There will be no others.
    all: bool,
}

/// `name` for the task of a coroutine: in the dump of tasks, a task's name is static.
pub(super) fn task_name(name: &str) -> &'static str {
    let known = KNOWN.try_with(|known| known.borrow_mut().get(name));
    // In a destructor at the end of the thread.
    known.unwrap_or_else(|_| intern(name, &NAMES).unwrap_or(UNNAMED))
}

impl Known {
    fn get(&mut self, name: &str) -> &'static str {
        if let Some(known) = self.names.get(name) {
            return known;
        }
        if self.all {
            return UNNAMED;
        }
        if let Some(name) = intern(name, &NAMES) {
            self.names.insert(name);
            return name;
        }
        self.names.clone_from(&NAMES.lock().unwrap_or_else(PoisonError::into_inner));
        self.all = true;
        UNNAMED
    }
}

/// The static copy of `name`; `None` if there are too many already.
fn intern(name: &str, names: &Mutex<BTreeSet<&'static str>>) -> Option<&'static str> {
    let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return Some(known);
    }
    if names.len() == MAX_TASK_NAMES {
        return None;
    }
    let kept: &'static str = Box::leak(name.into());
    names.insert(kept);
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_up_to_a_limit_and_a_known_one_takes_no_lock() {
        let first = task_name("the first");
        assert!(std::ptr::eq(first, task_name(&["the", "first"].join(" "))));
        let elsewhere = std::thread::spawn(|| task_name("from another thread")).join().expect("no panic");
        let numbers: Vec<String> = (0..MAX_TASK_NAMES).map(|number| format!("number {number}")).collect();
        let named = numbers.iter().filter(|name| task_name(name) == **name).count();
        // Other tests of this process may have some.
        assert!(named <= MAX_TASK_NAMES - 2 && named > MAX_TASK_NAMES / 2, "{named}");
        assert_eq!(task_name("one too many"), UNNAMED);
        let lock = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        // Each of these would wait forever for the lock.
        assert!(std::ptr::eq(first, task_name("the first")));
        assert!(std::ptr::eq(elsewhere, task_name("from another thread")));
        assert_eq!(task_name("number 0"), "number 0");
        assert_eq!(task_name("another one too many"), UNNAMED);
        drop(lock);
    }
}
