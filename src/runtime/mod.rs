//! Under construction: runtime.
