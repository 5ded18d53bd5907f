//! Tests of the stack through its public interface, over memory devices and in virtual time.

mod conformance;
mod world;
