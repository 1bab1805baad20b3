//! `defib doctor` and the preflight of a running node, against what is really missing.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::geteuid;
use serde_json::Value;

use crate::support::application::{Application, Site};
use crate::support::node::Node;
use crate::support::redis_server::{self, RedisServer};
use crate::support::{available, until};

/// What nobody is called in numbers.
const NOBODY: u32 = 65534;

/// `defib doctor` with this configuration, perhaps as somebody else.
struct Doctor {
    dir: tempfile::TempDir,
    nobody: bool,
}

impl Doctor {
    fn new(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(dir.path().join("defib.toml"), config).unwrap();
        std::fs::create_dir(dir.path().join("own")).unwrap();
        Self { dir, nobody: false }
    }

    fn as_nobody(config: &str) -> Self {
        let doctor = Self {
            nobody: true,
            ..Self::new(config)
        };
        chown(doctor.own(), Some(NOBODY), None).unwrap();
        doctor
    }

    /// Its directory of state and sockets.
    fn own(&self) -> std::path::PathBuf {
        self.dir.path().join("own")
    }

    fn says(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut words = vec![env!("CARGO_BIN_EXE_defib"), "doctor"];
        words.extend(arguments);
        if self.nobody {
            let become_nobody = [
                "setpriv",
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "--",
            ];
            words.splice(0..0, become_nobody);
        }
        let output = Command::new(words[0])
            .args(&words[1..])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("STATE_DIRECTORY", self.own())
            .env("RUNTIME_DIRECTORY", self.own())
            .env("DEFIB_CONFIG", self.dir.path().join("defib.toml"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }

    /// The finding about a part, in words: `ok`, `missing: reason; cure`.
    fn finds(&self, part: &str, name: &str) -> (String, String) {
        let (_, said) = self.says(&["--json"]);
        let report: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
        let items = report["items"].as_array().unwrap();
        let item = items
            .iter()
            .find(|item| item["part"] == part && (name.is_empty() || item["name"] == name))
            .unwrap_or_else(|| panic!("no {part} {name} in {said}"));
        let text = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
        let words = ["note", "reason", "cure"].map(text).join("; ");
        (text("finding"), words)
    }

    fn is(&self, finding: &str, part: &str, name: &str, word: &str) {
        let (found, words) = self.finds(part, name);
        assert_eq!(found, finding, "{part} {name}: {words}");
        assert!(
            words.contains(word),
            "{part} {name}: {words} does not say {word:?}"
        );
    }
}

fn root_and_setpriv() -> bool {
    let there = Command::new("setpriv").arg("--version").output().is_ok();
    available("root with setpriv", there && geteuid().is_root())
}

#[test]
fn nothing_missing_is_exit_0_and_nothing_is_made() {
    let doctor = Doctor::new(
        "[peer.web]\nowner = { command = \"no such process\" }\nremedies = [{ do = \"healthz\" }]\n",
    );
    let (code, said) = doctor.says(&[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("0 cannot"), "{said}");
    doctor.is("ok", "bus", "", "");
    doctor.is("ok", "store", "", "");
    doctor.is("unknown", "owner", "", "no process has");
    doctor.is("unknown", "remedy", "healthz", "defib explain web");
    assert_eq!(doctor.says(&["--strict"]).0, Some(1), "unknown is not ok");
    assert_eq!(std::fs::read_dir(doctor.own()).unwrap().count(), 0);
    let (code, said) = Doctor::new("nonsense = 1").says(&[]);
    assert_eq!(code, Some(78), "{said}");
}

#[test]
fn what_a_running_node_holds_is_said_and_not_missing() {
    let node = Node::run("");
    let lock = std::fs::read_dir(node.dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|ending| ending == "lock"))
        .unwrap();
    let doctor = Doctor::new(&format!(
        "[store]\npath = \"{}\"\n[http]\nadmin_socket = \"{}\"\n",
        lock.with_extension("").display(),
        node.dir().join("admin.sock").display(),
    ));
    doctor.is("ok", "store", "", "`path` of its own in [store]");
    doctor.is("ok", "admin_socket", "", "`admin_socket` of its own in [http]");
    drop(node);
    let (found, words) = doctor.finds("store", "");
    assert_eq!(
        (found.as_str(), words.contains("holds")),
        ("ok", false),
        "{words}"
    );
}

/// The line is pasted as it was printed, and then it works; nobody hears anything of the looking.
#[test]
fn missing_acl_rules_are_named_in_one_line_that_cures() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    let url = server.url().replace("redis://", "redis://alice:pw@");
    let doctor = Doctor::new(&format!(
        "group = \"g\"\nbus.url = \"{url}\"\n\
         [peer.feed]\nchecks.traffic = {{ channels = [\"can_messages\", \"and more\"] }}\n"
    ));
    for rules in [
        "-@all",
        "-@all +ping",
        "+@all resetchannels",
        "-@all +subscribe &defib:g",
        "-@all +ping +subscribe +client|setname &defib:g &can_messages &and?more",
        "-@all +publish &defib:g",
    ] {
        server.tell(&format!("ACL SETUSER alice reset on >pw {rules}"));
        let (code, said) = doctor.says(&[]);
        assert_eq!(code, Some(1), "{rules}: {said}");
        let cure = said.lines().find(|line| line.trim().starts_with("ACL SETUSER"));
        let cure = cure.unwrap_or_else(|| panic!("{rules}: {said}")).trim();
        assert!(server.tell(cure).starts_with("+OK"), "{cure}");
        let (code, said) = doctor.says(&["--strict"]);
        assert_eq!(code, Some(0), "{rules}, then {cure}: {said}");
    }
    let heard = server.tell("INFO commandstats");
    let published = heard.lines().find(|line| line.starts_with("cmdstat_publish:"));
    assert!(
        published.is_none_or(|line| line.contains("calls=0,")),
        "{published:?}"
    );
}

#[test]
fn other_refusals_and_absences_of_the_server_are_told_apart() {
    if !redis_server::there() {
        return;
    }
    let mut server = RedisServer::start_with(&["--requirepass", "secret"]);
    let doctor = Doctor::new(&format!("bus.url = \"{}\"\n", server.url()));
    doctor.is("missing", "bus", "", "NOAUTH");
    let given = Doctor::new(&format!(
        "bus.url = \"{}\"\n",
        server.url().replace("redis://", "redis://:secret@")
    ));
    given.is("ok", "bus", "", "");
    assert!(!given.says(&["--json"]).1.contains("secret"));
    server.kill();
    given.is("unknown", "bus", "", "refused");
}

#[test]
fn a_command_that_is_not_there_and_one_that_may_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("restart");
    std::fs::write(&file, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let with = |command: &str| {
        Doctor::new(&format!(
            "[peer.feed]\nowner = {{ command = \"x\" }}\nremedies = [{{ do = \"exec\", command = [\"{command}\"] }}]\n"
        ))
    };
    with("sh").is("ok", "remedy", "exec", "");
    with("restart-feed").is("missing", "remedy", "exec", "PATH is /usr/bin:/bin");
    with("/opt/restart-feed").is("missing", "remedy", "exec", "there is no program");
    with(file.to_str().unwrap()).is("missing", "remedy", "exec", "chmod a+x");
    let (code, said) = with("restart-feed").says(&[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("MISSING  feed remedy exec"), "{said}");
}

#[test]
fn what_nobody_may_not_is_missing_and_root_may() {
    if !root_and_setpriv() {
        return;
    }
    let feed = Application::start(&["sh", "-c", "while :; do sleep 1; done"]);
    let pid_file = feed.owner();
    let dir = Path::new(pid_file.split('"').nth(1).unwrap()).parent().unwrap();
    let config = format!("[peer.feed]\nowner = {pid_file}\nremedies = [{{ do = \"signal\" }}]\n");
    let (root, nobody) = (Doctor::new(&config), Doctor::as_nobody(&config));
    root.is("ok", "owner", "", "process");
    root.is("ok", "remedy", "signal", "");

    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    nobody.is("ok", "owner", "", "process");
    nobody.is("missing", "remedy", "signal", "CAP_KILL");
    assert_eq!(nobody.says(&[]).0, Some(1));

    let file = dir.join("pid");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    nobody.is("missing", "owner", "", "let uid 65534 read it");
    nobody.is("unknown", "remedy", "signal", "without CAP_KILL");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o646)).unwrap();
    root.is("missing", "owner", "", "chmod o-w");

    chown(nobody.own(), Some(0), None).unwrap();
    nobody.is("missing", "store", "", "chown 65534");
    nobody.is("missing", "runtime_dir", "", "may not write");
    nobody.is("missing", "admin_socket", "", "may not write");
}

#[test]
fn who_listens_out_of_sight_is_known_by_its_socket_and_cannot_be_signalled() {
    if !root_and_setpriv() {
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = format!(
        "[peer.feed]\nowner = {{ listens = {port} }}\nchecks.sockets = {{ to = [\"*:{port}\"] }}\n\
         remedies = [{{ do = \"socket_reset\" }}, {{ do = \"signal\" }}]\n"
    );
    Doctor::new(&config).is("ok", "owner", "", "process");
    let nobody = Doctor::as_nobody(&config);
    nobody.is("ok", "owner", "", "CAP_SYS_PTRACE");
    nobody.is("ok", "check", "sockets", "0 such connections");
    nobody.is("missing", "remedy", "socket_reset", "CAP_NET_ADMIN");
    nobody.is("missing", "remedy", "signal", "CAP_SYS_PTRACE");
    drop(listener);
    Doctor::new(&config).is("unknown", "owner", "", "no process listens");
}

#[test]
fn a_question_that_is_answered_badly_can_be_asked_and_one_that_is_refused_cannot() {
    let site = Site::start();
    let doctor = Doctor::new(&format!(
        "[peer.feed]\nchecks.http = {{ url = \"{}\" }}\n\
         checks.told = {{ type = \"http\", url = \"{}\", bearer = {{ file = \"/no/such/secret\" }} }}\n\
         checks.away = {{ type = \"http\", url = \"http://127.0.0.1:1/\" }}\n\
         checks.lost = {{ type = \"http\", url = \"http://no.such.name.invalid/\" }}\n\
         [when.car]\nhttp = \"{}\"\n",
        site.url("/health"),
        site.url("/health"),
        site.url("/car"),
    ));
    site.set("/health", 503, "");
    site.set("/car", 200, "");
    doctor.is("ok", "check", "http", "fails now: status 503");
    doctor.is("missing", "check", "told", "/no/such/secret");
    doctor.is("ok", "check", "away", "refused");
    doctor.is("unknown", "check", "lost", "cannot resolve");
    doctor.is("ok", "expectation", "car", "");
    site.set("/health", 403, "");
    doctor.is("missing", "check", "http", "bearer");
}

/// The node starts all the same, and says what is missing where alerts look.
#[test]
fn a_node_looks_behind_its_start() {
    let site = Site::start();
    site.set("/restart", 200, "");
    let node = Node::run(&format!(
        "[peer.feed]\nowner = {{ command = \"no such process\" }}\n\
         remedies = [{{ do = \"exec\", command = [\"restart-feed\"] }}]\n\
         [peer.web]\nowner = {{ command = \"no such process\" }}\n\
         remedies = [{{ do = \"http\", url = \"{}\" }}]\n",
        site.url("/restart")
    ));
    node.logs("feed remedy exec cannot work: there is no program restart-feed");
    let mut said = (0, String::new());
    until("the preflight is told", || {
        said = node.get("/readyz?verbose");
        said.1.contains("of 8 parts can work")
    });
    assert_eq!(said.0, 503);
    assert!(
        said.1
            .contains("[-] feed remedy exec: there is no program restart-feed"),
        "{}",
        said.1
    );
    assert_eq!(
        node.count("defib_preflight_ok{name=\"exec\",part=\"remedy\",peer=\"feed\"}"),
        0
    );
    assert_eq!(
        node.count("defib_preflight_ok{name=\"http\",part=\"remedy\",peer=\"web\"}"),
        1
    );
    assert_eq!(
        node.count("defib_preflight_ok{name=\"\",part=\"bus\",peer=\"\"}"),
        1
    );
    assert!(
        !node.get("/metrics").1.contains("part=\"owner\""),
        "nobody can tell"
    );
    assert_eq!(site.asked("/restart"), 0, "a remedy is not tried");
    assert_eq!(node.code("/healthz/feed"), 200);
}

#[test]
fn keys_that_cannot_be_read_are_named_with_the_rule_that_cures() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    server.tell("ACL SETUSER alice on >pw +@all &*");
    let url = server.url().replace("redis://", "redis://alice:pw@");
    let with = |check: &str| Doctor::new(&format!("bus.url = \"{url}\"\n[peer.feed]\nchecks.{check}\n"));
    for (check, name, cure) in [
        (
            "redis_key = { key = \"clients\" }",
            "redis_key",
            "ACL SETUSER alice +pttl ~clients",
        ),
        (
            "status = { type = \"redis_key\", key = \"status\", age = \"ts\", max_age = \"30s\" }",
            "status",
            "ACL SETUSER alice +getrange +pttl ~status",
        ),
        (
            "redis_lock = { pattern = \"lock:*\" }",
            "redis_lock",
            "ACL SETUSER alice +getrange +pttl +scan ~lock:*",
        ),
    ] {
        let doctor = with(check);
        doctor.is("missing", "check", name, cure);
        assert!(server.tell(cure).starts_with("+OK"));
        doctor.is("ok", "check", name, "");
    }
    server.tell("SET clients 3");
    with("redis_key = { key = \"clients\" }").is("ok", "check", "redis_key", "proves no life");
    with("redis_key = { key = \"clients\", ttl_min = \"2s\" }").is(
        "missing",
        "check",
        "redis_key",
        "has no TTL",
    );
    server.tell("SADD status a");
    with("redis_key = { key = \"status\", equals = 1 }").is(
        "missing",
        "check",
        "redis_key",
        "holds no string",
    );
    server.tell("SET lock:a x");
    with("redis_lock = { key = \"lock:a\" }").is("missing", "check", "redis_lock", "outlives its owner");
    let embedded = |check: &str| Doctor::new(&format!("[peer.feed]\nchecks.{check}\n"));
    embedded("redis_key = { key = \"clients\" }").is("missing", "check", "redis_key", "set bus.url");
    embedded(&format!("redis_key = {{ key = \"clients\", redis = \"{url}\" }}")).is(
        "ok",
        "check",
        "redis_key",
        "",
    );
}

#[test]
fn a_checks_command_is_looked_for() {
    let with = |command: &str| {
        Doctor::new(&format!(
            "[peer.feed]\nchecks.exec = {{ command = [\"{command}\"] }}\n"
        ))
    };
    with("sh").is("ok", "check", "exec", "");
    with("check-feed").is("missing", "check", "exec", "there is no program check-feed");
}

#[test]
fn a_node_that_is_to_be_asked_for_votes_is_asked() {
    let node = Node::run("group = \"it\"");
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let [there, nobody] = [node.http(), closed].map(|address| format!("http://{address}"));
    until("its first heartbeat went out", || {
        node.code("/api/v1/heartbeat") == 200
    });
    let with = |group: &str| {
        Doctor::new(&format!(
            "group = \"{group}\"\nquorum.ask = [\"{there}\", \"{nobody}\"]"
        ))
    };
    let doctor = with("it");
    doctor.is("ok", "votes", &there, "");
    doctor.is("unknown", "votes", &nobody, "");
    with("another").is("missing", "votes", &there, "answers for another group");
}
