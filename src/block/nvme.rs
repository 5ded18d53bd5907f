//! boson's own NVMe driver, without any I/O of its own: registers, memory for DMA and time come in
//! through small traits, so that the same code drives a mapped BAR and the [`model`] of a
//! controller in memory. `docs/nvme.md` has the state tables.
//!
//! In reading order:
//!
//! - [`Registers`]: the controller's registers, and what they say ([`Capabilities`]).
//! - [`DmaMemory`], [`DmaRegion`], [`Regions`]: memory that the controller reaches, and under which
//!   address.
//! - [`Controller`]: brings a controller up, asks what it is, makes and deletes queues, resets it,
//!   shuts it down.
//! - `QueuePair`: one core's submission and completion queue.
//! - [`Status`]: how a command ended, in the specification's words.
//!
//! Sections named here are those of the NVM Express Base Specification 2.0c and, where it says so,
//! of the NVM Command Set Specification 1.0c.

mod bus;
pub(super) mod command;
mod command_id;
mod control;
mod controller;
mod creation;
mod device;
mod dma;
mod identify;
mod interrupt;
mod io;
pub mod model;
mod port;
mod queue_pair;
mod registers;
mod retirement;
mod rings;
mod shadow;
mod status;
mod transfer;

#[cfg(test)]
mod tests;

pub use command::{Completion, Entry};
pub use controller::{
    Controller, ControllerOptions, Event, Phase, QueueSpec, Reply, Request, ResetCause, Ticket,
};
pub use device::{ModelledDevice, ModelledNamespace, NvmeDevice, NvmeNamespace};
pub use dma::{DmaMemory, DmaRegion, Region, Regions};
pub use identify::{ControllerIdentity, HealthLog, NamespaceIdentity};
pub use registers::{Capabilities, Registers};
pub use shadow::ShadowDoorbells;
pub use status::Status;
