//! Under construction: config.
