//! Tests of the stack through its public interface, over memory devices and in virtual time.

mod conformance;
mod hostile;
mod limits;
mod raw;
mod wire_behaviour;
mod world;
