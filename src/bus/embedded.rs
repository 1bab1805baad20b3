//! The broker inside this process: one machine, no Redis.
