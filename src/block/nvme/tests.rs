//! The driver against the modelled controller.

mod device;
mod host;
mod queues;
