//! What is shipped in deploy/systemd: the unit, run by a real systemd; the rule of polkit; every configuration.

use std::fs;

use crate::support::node::defib;
use crate::support::stack::of_project;
use crate::support::systemd::Machine;
use crate::support::until;
use crate::units::{IDLE, RESTART, config_inside};

/// deploy/systemd/defib.service as it is shipped, but for where the program and its configuration are, and as whom it runs.
fn install(machine: &Machine, toml: &str) {
    let run = machine.run_dir().join("installed");
    fs::create_dir_all(&run).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_defib"), run.join("defib")).unwrap();
    fs::write(run.join("defib.toml"), toml).unwrap();
    let shipped = fs::read_to_string(of_project("deploy/systemd/defib.service")).unwrap();
    let unit = shipped
        .replace("/usr/bin/defib", "/run/installed/defib")
        .replace("/etc/defib/", "/run/installed/")
        .replace("User=defib", "User=nobody")
        .replace("Group=defib", "Group=nogroup");
    assert_ne!(unit, shipped);
    machine.write_unit("defib.service", &unit);
}

fn explained(machine: &Machine) -> String {
    let words = [
        "/run/installed/defib",
        "explain",
        "feed",
        "--url",
        "http://127.0.0.1:7337",
    ];
    machine.run(&words).1
}

#[test]
fn the_shipped_unit_runs_without_privilege_and_heals_once_a_rule_permits_it() {
    let Some(machine) = Machine::boot() else { return };
    machine.service("feed.service", IDLE);
    let toml = config_inside(&machine, RESTART);
    install(
        &machine,
        &format!("{toml}\n[http]\nlisten = \"127.0.0.1:7337\"\n"),
    );
    // Type=notify: this waits for READY=1.
    machine.must(&["start", "defib"]);
    let (_, status) = machine.systemctl(&["status", "--no-pager", "-l", "defib"]);
    let user = machine
        .run(&["ps", "-o", "user=", "-p", &machine.show("defib", "MainPID")])
        .1;
    assert_eq!(user, "nobody", "{status}");
    until("it sees the unit", || {
        explained(&machine).contains("feed is alive")
    });
    until("and trusts itself", || {
        !explained(&machine).contains("settling      no remedy")
    });

    machine.crash("feed");
    until("it is refused, and tells the rule", || {
        let said = machine
            .run(&["journalctl", "--no-pager", "-o", "cat", "-u", "defib"])
            .1;
        said.contains("polkit.addRule") && said.contains("subject.user == \"nobody\"")
    });
    assert_eq!(machine.show("feed", "ActiveState"), "failed");
    let rule = fs::read_to_string(of_project("deploy/systemd/50-defib.rules")).unwrap();
    let rule = rule
        .replace("bot.service", "feed.service")
        .replace("\"defib\"", "\"nobody\"");
    fs::write(machine.rules().join("50-defib.rules"), rule).unwrap();
    machine.until("feed", "ActiveState", |now| now == "active");
    until("it is proven", || explained(&machine).contains("feed is alive"));

    // It ends well, and leaves no more than its state.
    machine.must(&["stop", "defib"]);
    assert_eq!(machine.show("defib", "Result"), "success");
    assert!(!machine.run_dir().join("defib").exists());
    // What is wrong stays so: it is not started again and again.
    install(&machine, "dryrun = true\n");
    machine.systemctl(&["start", "defib"]);
    machine.until("defib", "ActiveState", |now| now == "failed");
    assert_eq!(machine.show("defib", "ExecMainStatus"), "78");
    assert_eq!(machine.show("defib", "NRestarts"), "0");
}

#[test]
fn every_configuration_for_systemd_is_one() {
    let mut count = 0;
    for entry in fs::read_dir(of_project("deploy/systemd")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            let (code, said) = defib(&["check-config", "--explain", "--config", path.to_str().unwrap()]);
            assert_eq!(code, Some(0), "{}: {said}", path.display());
            count += 1;
        }
    }
    assert_eq!(count, 2);
}
