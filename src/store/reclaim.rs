//! Memory that other cores may still read is freed when they no longer can.
