//! Asking cores from a thread that may wait, but not forever.

use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use crate::rt::Handle;

/// How long a core may take for an answer. One that works takes microseconds, or a turn of its
/// loop.
const PATIENCE: Duration = Duration::from_millis(250);

/// The cores of a process.
#[derive(Debug)]
pub(super) struct Cores(Vec<Asked>);

#[derive(Debug)]
struct Asked {
    handle: Handle,
    /// It was asked and has not answered yet: it is not asked again until it does, so that
    /// questions do not pile up.
    is_asked: Arc<AtomicBool>,
}

/// What a core is sent along with a question: it gives word even if the core never runs it.
struct Question<T> {
    core: usize,
    answers: Sender<(usize, Option<T>)>,
    is_asked: Arc<AtomicBool>,
    answer: Option<T>,
}

impl<T> Drop for Question<T> {
    fn drop(&mut self) {
        self.is_asked.store(false, Ordering::Release);
        // Nobody listens any more if the answer is late.
        let _ = self.answers.send((self.core, self.answer.take()));
    }
}

impl Cores {
    pub(super) fn new(handles: Vec<Handle>) -> Self {
        let asked = |handle| Asked { handle, is_asked: Arc::default() };
        Self(handles.into_iter().map(asked).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What a core that does not answer is in: a task's name and creation place.
    pub(super) fn polling(&self, core: usize) -> Option<(&'static str, &'static Location<'static>)> {
        self.0.get(core)?.handle.polling()
    }

    /// Runs `question` on each core of `cores`; `None` for those that are gone, overloaded or
    /// stuck.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        cores: std::ops::Range<usize>,
        question: impl Fn() -> T + Clone + Send + 'static,
    ) -> Vec<Option<T>> {
        let mut answers: Vec<Option<T>> = cores.clone().map(|_| None).collect();
        let (sender, receiver) = channel();
        let mut outstanding = 0;
        for core in cores.clone() {
            let Some(asked) = self.0.get(core) else { continue };
            if asked.is_asked.swap(true, Ordering::Acquire) {
                continue;
            }
            outstanding += 1;
            let is_asked = Arc::clone(&asked.is_asked);
            let mut sent = Question { core, answers: sender.clone(), is_asked, answer: None };
            let question = question.clone();
            drop(asked.handle.run(move || {
                sent.answer = Some(question());
                drop(sent);
            }));
        }
        while outstanding > 0
            && let Ok((core, answer)) = receiver.recv_timeout(PATIENCE)
        {
            answers[core - cores.start] = answer;
            outstanding -= 1;
        }
        answers
    }
}
