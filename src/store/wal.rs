//! The order of writes: sequence numbers, log buffers of the cores, and group commit.
