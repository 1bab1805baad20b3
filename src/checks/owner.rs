//! The owner watch: finds a peer's process, holds it by a pidfd, and tells of its end at once.
