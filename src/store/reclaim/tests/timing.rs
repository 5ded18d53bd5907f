//! What a pin costs, beside crossbeam-epoch in a scratch crate. Ignored: it measures.
