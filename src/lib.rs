//! defib finds half-dead Redis pub/sub subscribers and stuck processes, says why they went silent, and heals
//! them with the smallest shock that works, without ever making an outage worse.
//!
//! # Layers
//!
//! An arrow is an allowed import; nothing else is (a test keeps it so):
//!
//! ```text
//! main -> cli -> app -> runtime -> { bus checks remedies leases fleet notify http store } -> engine
//! config -> settings types of the edges and of the engine
//! telemetry, secret, http_client, redis_client, sock_diag, socket_file, exposition, task, owner_table, docker, systemd,
//! condemned, allowance, preflight, heartbeat_file, lease_desk, reload_desk, command, audit, calendar, signing
//!     <- everyone but engine (leaves: of ours they import the engine's words at most)
//! ```
//!
//! `engine` is pure; the edges (`bus`, `checks`, `remedies`, `leases`, `fleet`, `notify`, `http`, `store`) turn the world into events and
//! decisions into the world, never import each other, and hold no policy; `runtime` owns the engine.

#![forbid(unsafe_code)]

pub mod allowance;
pub mod app;
pub mod audit;
pub mod bus;
pub mod calendar;
pub mod checks;
pub mod cli;
pub mod command;
pub mod condemned;
pub mod config;
pub mod docker;
pub mod engine;
pub mod exposition;
pub mod fleet;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod heartbeat_file;
pub mod http;
pub mod http_client;
pub mod lease_desk;
pub mod leases;
pub mod notify;
pub mod owner_table;
pub mod preflight;
pub mod redis_client;
mod regular_file;
pub mod reload_desk;
pub mod remedies;
pub mod runtime;
pub mod secret;
pub mod signing;
pub mod sim;
pub mod sock_diag;
pub mod socket_file;
pub mod store;
pub mod systemd;
pub mod task;
pub mod telemetry;
