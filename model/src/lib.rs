//! The engine itself, three of it, walked through every order of events within bounds by a model checker (stateright).
//!
//! [`world`] is what a choice of the checker does to the engines, [`oracle`] what must hold, [`walk`] the checker's view.
//! Nothing is told anew here that is code already: `engine` is `src/engine`, and `ledger`, what the scripts in Redis do, is
//! the simulation's.

#![allow(clippy::cast_precision_loss)]

#[allow(dead_code, unreachable_pub, missing_docs)]
#[path = "../../src/engine/mod.rs"]
pub mod engine;
#[allow(dead_code)]
#[path = "../../src/sim/ledger.rs"]
mod ledger;
pub mod oracle;
pub mod setting;
pub mod walk;
pub mod world;
