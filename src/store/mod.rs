//! What survives a restart of the node, on disk: atomic, versioned, and honest about what it found.
