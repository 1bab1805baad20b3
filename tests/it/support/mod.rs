//! What the tests share: real servers, namespaces, clients, and the rule for parts that a machine lacks.

#![allow(unreachable_pub, reason = "a module of one test binary")]

pub mod python;
pub mod redis_server;
pub mod snapshots;

/// True if `part` is there. If it is not: says so where the test summary shows it, and fails under
/// `DEFIB_REQUIRE_ALL=1` (as CI sets it), so that nothing is skipped silently.
pub fn available(part: &str, there: bool) -> bool {
    if there {
        return true;
    }
    assert!(
        std::env::var_os("DEFIB_REQUIRE_ALL").is_none_or(|value| value != "1"),
        "{part} is missing on this machine, and DEFIB_REQUIRE_ALL=1 forbids skipping"
    );
    eprintln!("SKIPPED: {part} is missing on this machine");
    false
}
