//! The driver against the modelled controller.

mod asleep;
mod canaries;
mod cost;
mod device;
mod forgotten;
mod host;
mod idle;
mod interrupts;
mod life;
mod queues;
mod schedules;
