//! The driver against the modelled controller.

mod canaries;
mod cost;
mod device;
mod host;
mod idle;
mod life;
mod queues;
mod schedules;
