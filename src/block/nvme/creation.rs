//! A queue pair while the controller makes it, which takes some milliseconds in which its core may
//! end, or its caller may give up.

use std::any::Any;
use std::mem;
use std::sync::Arc;

use super::bus::Bus;
use super::control::{ASK_EVERY, Control};
use super::controller::{Request, Ticket};
use super::port::NvmePort;
use super::queue_pair::QueuePair;
use crate::error::{ErrorKind, Result};
use crate::rt;

/// A queue pair, and what keeps the memory that its commands may name.
type Known<B> = (QueuePair<<B as Bus>::Registers>, Box<dyn Any>);

/// Owns what the controller knows of, from the request on. Dropped before it is made, it has the
/// queues deleted first.
pub(super) struct Creation<B: Bus> {
    control: Arc<Control<B>>,
    number: u16,
    /// How often the controller had stopped when it was asked.
    stops: u32,
    ticket: Option<Ticket>,
    /// The controller may know of them.
    is_asked: bool,
    /// `None` once they belong to a port.
    memory: Option<Known<B>>,
}

impl<B: Bus> Creation<B> {
    /// Of the queues of `pair`, which has a number of its own that goes back if this fails.
    /// `reached` keeps the memory that its commands may name.
    pub(super) fn new(
        control: &Arc<Control<B>>,
        pair: QueuePair<B::Registers>,
        reached: Box<dyn Any>,
    ) -> Self {
        let number = pair.spec().number;
        let control = Arc::clone(control);
        Self { control, number, stops: 0, ticket: None, is_asked: false, memory: Some((pair, reached)) }
    }

    /// Asks the controller to make them; false if it has no room for the request now.
    fn ask(&mut self) -> Result<bool> {
        let Some((pair, _)) = &mut self.memory else { return Ok(true) };
        let mut state = self.control.lock();
        pair.mirror(state.controller.capabilities(), state.controller.shadow_doorbells());
        match state.controller.request(Request::CreateQueues(pair.spec()), rt::now()) {
            Ok(ticket) => {
                self.stops = state.stops;
                (self.ticket, self.is_asked) = (Some(ticket), true);
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
    pub(super) async fn finish(mut self) -> Result<NvmePort<B>> {
        self.control.until_ready().await?;
        while !self.ask()? {
            rt::sleep(ASK_EVERY).await;
        }
        if let Some(ticket) = self.ticket {
            let answer = self.control.answer(ticket).await;
            self.ticket = None;
            if let Err(error) = answer {
                // It has none of them, or was stopped.
                drop(self.memory.take());
                self.control.give_number(self.number);
                return Err(error);
            }
        }
        let (pair, reached) = self.memory.take().expect("taken once, here");
        let control = Arc::clone(&self.control);
        Ok(NvmePort::new(pair, control, reached, self.stops, rt::now()))
    }
}

impl<B: Bus> Drop for Creation<B> {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else { return };
        if !self.is_asked {
            self.control.give_number(self.number);
            return;
        }
        // What is being made cannot be deleted.
        let is_known = self.ticket.take().is_none_or(|ticket| self.control.wait_for(ticket));
        if is_known && self.control.delete_queues(self.number, self.stops) {
            self.control.give_number(self.number);
        } else {
            // The controller may know them still, or yet.
            mem::forget(memory);
        }
    }
}
