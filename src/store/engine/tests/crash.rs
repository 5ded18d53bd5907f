//! Crashes of the whole engine.
