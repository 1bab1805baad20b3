//! Everything that is tested from outside: one binary, themed modules, real parts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod acl;
mod answers;
mod asks;
mod beat;
mod bus_embedded;
mod bus_redis;
mod captures;
mod checks;
mod cli;
mod config;
mod container;
mod demo;
mod deploy;
mod detectors;
mod docker;
mod docs;
mod doctor;
mod drill;
mod files;
mod fleet;
mod forged;
mod http;
mod init;
mod keys;
mod layers;
mod leases;
mod measures;
mod notify;
mod remedies;
mod runtime;
mod scenarios;
mod sim;
mod sockets;
mod store;
mod support;
mod units;
