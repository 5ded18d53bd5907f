//! A queue pair while the controller makes it, which takes some milliseconds in which its core may
//! end, or its caller may give up.

use std::sync::Arc;

use super::bus::Bus;
use super::control::{ASK_EVERY, Control};
use super::controller::{Request, Ticket};
use super::retirement::{KnownQueues, Retirement};
use crate::error::{ErrorKind, Result};
use crate::rt;

/// Owns what the controller knows of, from the request on. Dropped before it is made, it has the
/// queues deleted.
pub(super) struct Creation<B: Bus> {
    control: Arc<Control<B>>,
    ticket: Option<Ticket>,
    /// `None` once they are made.
    queues: Option<KnownQueues<B>>,
}

impl<B: Bus> Creation<B> {
    pub(super) fn new(control: &Arc<Control<B>>, queues: KnownQueues<B>) -> Self {
        Self { control: Arc::clone(control), ticket: None, queues: Some(queues) }
    }

    /// Asks the controller to make them; false if it has no room for the request now.
    fn ask(&mut self) -> Result<bool> {
        let Some(queues) = &mut self.queues else { return Ok(true) };
        let mut state = self.control.lock();
        queues.pair.mirror(state.controller.capabilities(), state.controller.shadow_doorbells());
        match state.controller.request(Request::CreateQueues(queues.pair.spec()), rt::now()) {
            Ok(ticket) => {
                queues.are_asked_for(state.stops);
                self.ticket = Some(ticket);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::LimitReached => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Has them made.
    ///
    /// # Errors
    ///
    /// What the controller answers.
    pub(super) async fn finish(mut self) -> Result<KnownQueues<B>> {
        self.control.until_ready().await?;
        while !self.ask()? {
            rt::sleep(ASK_EVERY).await;
        }
        if let Some(ticket) = self.ticket {
            let answer = self.control.answer(ticket).await;
            self.ticket = None;
            if let Err(error) = answer {
                // A refusal: it has none of them. A reset is no answer: until it has stopped, the
                // controller may make them, and know them. Dropped, they wait for that.
                if error.kind() != ErrorKind::Cancelled
                    && let Some(mut queues) = self.queues.take()
                {
                    queues.are_forgotten();
                }
                return Err(error);
            }
        }
        Ok(self.queues.take().expect("taken once, here"))
    }
}

impl<B: Bus> Drop for Creation<B> {
    fn drop(&mut self) {
        if let Some(queues) = self.queues.take() {
            Retirement::begin(queues, self.ticket.take());
        }
    }
}
