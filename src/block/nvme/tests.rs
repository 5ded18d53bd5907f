//! The driver against the modelled controller.

mod canaries;
mod host;
mod life;
mod queues;
mod schedules;
