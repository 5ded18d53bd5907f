//! A queue pair while the controller makes it, which takes some milliseconds in which its core may
//! end, or its caller may give up.

use std::any::Any;
use std::mem;
use std::sync::Arc;

use super::bus::Bus;
use super::control::Control;
use super::controller::{Request, Ticket};
use super::port::NvmePort;
use super::queue_pair::QueuePair;
use crate::error::Result;
use crate::rt;

/// Owns what the controller knows of, from the request on. Dropped before it is made, it has the
/// queues deleted first.
pub(super) struct Creation<B: Bus> {
    control: Arc<Control<B>>,
    number: u16,
    /// How often the controller had stopped when it was asked.
    stops: u32,
    ticket: Option<Ticket>,
    /// `None` once they belong to a port.
    memory: Option<(QueuePair<B::Registers>, Box<dyn Any>)>,
}

impl<B: Bus> Creation<B> {
    /// Asks the controller to make the queues of `pair`, which has a number of its own that goes
    /// back if this fails. `reached` keeps the memory that its commands may name.
    ///
    /// # Errors
    ///
    /// The controller takes no request.
    pub(super) fn begin(
        control: &Arc<Control<B>>,
        mut pair: QueuePair<B::Registers>,
        reached: Box<dyn Any>,
    ) -> Result<Self> {
        let spec = pair.spec();
        let mut state = control.lock();
        pair.mirror(state.controller.capabilities(), state.controller.shadow_doorbells());
        let asked = state.controller.request(Request::CreateQueues(spec), rt::now());
        let stops = state.stops;
        drop(state);
        match asked {
            Ok(ticket) => Ok(Self {
                control: Arc::clone(control),
                number: spec.number,
                stops,
                ticket: Some(ticket),
                memory: Some((pair, reached)),
            }),
            Err(error) => {
                control.give_number(spec.number);
                Err(error)
            }
        }
    }

    /// Waits until they are made.
    ///
    /// # Errors
    ///
    /// What the controller answers.
    pub(super) async fn finish(mut self) -> Result<NvmePort<B>> {
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
