//! `defib demo`, as a person runs it: nothing differs from what it expects.

use std::process::{Command, Output};

use crate::support::{available, redis_server};

fn demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_defib"))
        .arg("demo")
        .args(arguments)
        .output()
        .unwrap()
}

fn shows_everything(output: &Output) {
    let told = String::from_utf8_lossy(&output.stdout);
    let rows: Vec<&str> = told.lines().filter(|line| line.ends_with("  ok")).collect();
    assert!(
        output.status.success(),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(rows.len(), 5, "{told}");
    assert!(!told.contains("DIFFERS"), "{told}");
}

#[test]
fn every_fault_is_seen_and_healed_on_the_embedded_bus() {
    shows_everything(&demo(&[]));
}

#[test]
fn the_same_on_a_real_redis() {
    if !available("redis-server", redis_server::there()) {
        return;
    }
    let server = redis_server::RedisServer::start();
    shows_everything(&demo(&["--redis", &server.url()]));
}

#[test]
fn a_redis_that_is_not_there_is_said_and_nothing_is_left_behind() {
    let output = demo(&["--redis", "rediss://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(70));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("redis://host:port"), "{said}");
}
