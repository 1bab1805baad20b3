//! The binary: nothing but a call.

fn main() {}
