//! Tests that break the store on purpose.

mod crash;
