//! Under construction: sim.
