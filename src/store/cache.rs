//! Memory of the store: the arena of nodes, and the account of bytes.
