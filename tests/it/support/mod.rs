//! What the tests share: real servers, namespaces, clients, and the rule for parts that a machine lacks.

pub(crate) mod application;
pub(crate) mod docker;
pub(crate) mod feed;
pub(crate) mod forger;
pub(crate) mod netns;
pub(crate) mod node;
pub(crate) mod ports;
pub(crate) mod proxy;
pub(crate) mod python;
pub(crate) mod redis_server;
pub(crate) mod snapshots;
pub(crate) mod stack;
pub(crate) mod systemd;

use std::io::Write as _;
use std::time::Duration;

/// True if `part` is there. If it is not: says so where the test summary shows it (the file named by
/// `DEFIB_SKIPPED_LOG`; the output of a test that passes is hidden), and fails under `DEFIB_REQUIRE_ALL=1` (as CI
/// sets it), so that nothing is skipped silently.
pub(crate) fn available(part: &str, there: bool) -> bool {
    if there {
        return true;
    }
    assert!(
        std::env::var_os("DEFIB_REQUIRE_ALL").is_none_or(|value| value != "1"),
        "{part} is missing on this machine, and DEFIB_REQUIRE_ALL=1 forbids skipping"
    );
    eprintln!("SKIPPED: {part} is missing on this machine");
    if let Some(log) = std::env::var_os("DEFIB_SKIPPED_LOG") {
        let test = std::env::var("NEXTEST_TEST_NAME")
            .unwrap_or_else(|_| std::thread::current().name().unwrap_or("a test").to_owned());
        let line = format!("SKIPPED: {part} is missing on this machine ({test})\n");
        let mut log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        log.write_all(line.as_bytes()).unwrap();
    }
    false
}

/// Waits for what no event tells.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited in vain until {what}");
}
