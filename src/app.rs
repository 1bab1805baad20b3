//! Under construction: composition root.
