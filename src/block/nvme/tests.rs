//! The driver against the modelled controller.

mod canaries;
mod cost;
mod device;
mod host;
mod idle;
mod interrupts;
mod life;
mod queues;
mod schedules;
