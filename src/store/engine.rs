//! What runs the parts of the next store: it ties their state machines to each other.

pub(super) mod flush;
