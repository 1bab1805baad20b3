//! Under construction: runtime.
pub mod clock;
