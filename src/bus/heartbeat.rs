//! The wire format of heartbeats.
