//! What is shipped in deploy/systemd: the unit, run by a real systemd; the rule of polkit; every configuration.

use std::fs;

use crate::support::node::{defib, seem_experienced};
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
    explained_by(machine, "/run/installed/defib")
}

fn explained_by(machine: &Machine, program: &str) -> String {
    let words = [program, "explain", "feed", "--url", "http://127.0.0.1:7337"];
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
fn the_shipped_units_of_a_user_run_under_the_users_manager_and_heal_the_users_units() {
    let Some(machine) = Machine::boot_writable() else {
        return;
    };
    for (file, path) in [
        (env!("CARGO_BIN_EXE_defib").into(), "usr/bin/defib"),
        (
            of_project("deploy/systemd/user/defib.service"),
            "usr/lib/systemd/user/defib.service",
        ),
    ] {
        fs::copy(file, machine.root().join(path)).unwrap();
    }
    let user = machine.add_user("tester");
    user.write(
        ".config/systemd/user/feed.service",
        "[Service]\nType=notify\nNotifyAccess=all\nTimeoutStartSec=infinity\n\
         ExecStart=/bin/sh -c 'test -e /tmp/hang || systemd-notify --ready; exec sleep 100000'\n",
    );
    user.write(
        ".config/defib/defib.toml",
        r#"
        node = "n"
        bus.settle = "1s"
        budget.spacing = "0s"
        http.listen = "127.0.0.1:7337"
        [peer.feed]
        owner = { unit = "feed", user = true }
        grace = "1s"
        backoff = { initial = "200ms" }
        budget = { count = 5, window = "10m" }
        checks.process = { interval = "200ms" }
        checks.systemd = { interval = "200ms", settle_within = "2s", fail_after = "1 of 1" }
        remedies = [{ do = "systemd", verify_within = "20s" }]
        "#,
    );
    // Where systemd has a user's state: from 254 on, and before.
    let state = tempfile::tempdir().unwrap();
    seem_experienced(state.path());
    let state = fs::read_to_string(state.path().join("state.json")).unwrap();
    for dir in [".local/state", ".config"] {
        user.write(&format!("{dir}/defib/state.json"), &state);
    }
    user.must(&["daemon-reload"]);
    user.must(&["start", "feed"]);
    let said = user.run(&["/usr/bin/defib", "check-config"]);
    assert_eq!(said.0, Some(0), "{said:?}");
    user.must(&["start", "defib"]);
    let owner = machine.run(&["ps", "-o", "user=", "-p", &user.show("defib", "MainPID")]);
    assert_eq!(owner.1, "tester");
    let explained = || explained_by(&machine, "/usr/bin/defib");
    let is_well = || {
        let said = explained();
        said.contains("feed is alive") && !said.contains("settling      no remedy")
    };
    until("it sees the unit, and trusts itself", is_well);

    // It fails: the user's own manager starts it again, and no rule is needed for that.
    let first = user.show("feed", "InvocationID");
    user.must(&["kill", "-s", "KILL", "feed"]);
    until("it is started again", || {
        user.show("feed", "ActiveState") == "active" && user.show("feed", "InvocationID") != first
    });
    until("that is proven", is_well);

    // A start that hangs, which systemd itself would wait for for ever.
    fs::write(machine.root().join("tmp/hang"), "").unwrap();
    user.must(&["restart", "--no-block", "feed"]);
    until("it hangs", || user.show("feed", "ActiveState") == "activating");
    until("the check says so", || {
        explained().contains("it is being started")
    });
    let hangs = user.show("feed", "InvocationID");
    fs::remove_file(machine.root().join("tmp/hang")).unwrap();
    until("it is started again", || {
        user.show("feed", "ActiveState") == "active" && user.show("feed", "InvocationID") != hangs
    });
    until("that is proven", is_well);

    // What the user stops stays stopped.
    user.must(&["stop", "feed"]);
    until("it is left alone", || explained().contains("it was stopped"));
    user.must(&["stop", "defib"]);
    assert_eq!(user.show("defib", "Result"), "success");
    assert_eq!(user.show("feed", "ActiveState"), "inactive");
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
