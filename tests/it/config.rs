//! The configuration from outside: what is accepted, what is reported, and that nothing else happens.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use defib::bus::Backend;
use defib::checks::connections::Connections;
use defib::checks::file::{Condition, File, Format, Pid, Progress};
use defib::checks::memory::{Growth, Memory, Of};
use defib::checks::metric::{Aggregate, Bound, Metric};
use defib::checks::page::Exposed;
use defib::checks::{Owner, Probe};
use defib::config::{Config, LogFormat, Report, Sources, load};
use defib::docker::{Host, Identity, Selector};
use defib::engine::event::PeerId;
use defib::engine::settings::{
    BackoffSettings, BreakerSettings, Budget, CheckKind, ChenSettings, Decides, DetectorSettings, FailAfter,
    GroupBudget, PhiSettings, Plane, QuorumSettings, RemedyKind, Source,
};
use defib::http_client::Expect;
use defib::redis_client::Address;
use defib::remedies::{Action, Remedy, Signal};
use defib::secret::Secret;
use proptest::prelude::*;

/// Sources of this text, on a machine that has nothing but a home.
pub(crate) fn sources(text: &str) -> Sources {
    Sources {
        file: Some(("defib.toml".into(), text.to_owned())),
        env: BTreeMap::from([
            ("HOME".to_owned(), "/home/test".to_owned()),
            ("XDG_RUNTIME_DIR".to_owned(), "/run/user/1".to_owned()),
            ("POD_NAME".to_owned(), "node-a".to_owned()),
        ]),
        ..Sources::default()
    }
}

fn env(mut sources: Sources, name: &str, value: &str) -> Sources {
    sources.env.insert(name.to_owned(), value.to_owned());
    sources
}

fn set(mut sources: Sources, set: &str) -> Sources {
    sources.set.push(set.to_owned());
    sources
}

fn good(sources: &Sources) -> Config {
    load(sources).unwrap_or_else(|report| panic!("{report}"))
}

fn bad(sources: &Sources) -> Report {
    load(sources).expect_err("this should have been refused")
}

/// The only mistake of a text.
fn rule(text: &str) -> String {
    only_rule(&sources(text))
}

fn only_rule(sources: &Sources) -> String {
    let report = bad(sources);
    assert_eq!(report.count(), 1, "{report}");
    let text = report.to_string();
    text.split("error[")
        .nth(1)
        .and_then(|rest| rest.split(']').next())
        .unwrap()
        .to_owned()
}

#[test]
fn s37_five_mistakes_are_reported_at_once_with_line_column_and_cure() {
    let text = r#"group = "base-station"

[heartbeat]
intervall = "1s"

[http]
listen = ":7337"

[peer.feed]
owner = { listens = 9080 }
grace = 10
checks.heartbeat = { channel = "telemetry_heartbeat", suspect_after = "5s", dead_after = "5s" }
stopped_when = "x"
"#;
    let report = bad(&sources(text));
    let expected = r#"defib.toml:4:1: error[unknown_key]: there is no key `intervall` in `heartbeat`
  4 | intervall = "1s"
    | ^^^^^^^^^
    = did you mean `interval`?
defib.toml:7:10: error[value]: `listen`: ":7337" is not an address
  7 | listen = ":7337"
    |          ^^^^^^^
    = write "127.0.0.1:7337", or "0.0.0.0:7337" for every interface
defib.toml:11:9: error[value]: `grace`: 10 has no unit
  11 | grace = 10
     |         ^^
     = write "10s" or "10ms"; takes a time from 0s to 1h
defib.toml:12:90: error[dead_after]: `dead_after` (5s) must be more than `suspect_after` (5s)
  12 | checks.heartbeat = { channel = "telemetry_heartbeat", suspect_after = "5s", dead_after = "5s" }
     |                                                                                          ^^^^
defib.toml:13:1: error[not_in_this_version]: `stopped_when` in `peer.feed` is not in this version
  13 | stopped_when = "x"
     | ^^^^^^^^^^^^
     = this version has grace, single_observer, when_bus_down, blockers, leave_within, healthz_hold, owner, checks, remedies, backoff, budget
5 mistakes in the configuration"#;
    assert_eq!(report.to_string(), expected);
    assert_eq!(report.count(), 5);
}

/// The design's example without what later versions bring.
const CANONICAL: &str = r#"
group = "base-station"
dry_run = true

[bus]
url = "${REDIS_URL:-embedded}"

[http]
listen = "0.0.0.0:7337"

[when.car]
http = "http://127.0.0.1:8080/health"
json = "car.seen_s_ago"
below = 5

[peer.feed]
owner = { listens = 9080 }
checks.heartbeat = { channel = "telemetry_heartbeat" }
checks.data = { type = "traffic", channels = ["can_messages"], needs = "car", decides = "nothing" }
remedies = [
  { do = "signal", signal = "SIGTERM", then = "SIGKILL", after = "5s", for = ["peer_exited", "peer_stuck"], verify_within = "5s" },
]

[peer.archive]
owner = { command = "archive.py" }
checks.api = { type = "http", url = "http://127.0.0.1:8080/health", json = "healthy", equals = true, ignore = ["gps"] }
remedies = [{ do = "http", url = "http://127.0.0.1:8080/__internal/drain", until = { url = "http://127.0.0.1:8080/n", json = "open", below = 1, deadline = "20s" } }]
"#;

#[test]
fn the_canonical_example_becomes_settings() {
    let config = good(&env(sources(CANONICAL), "REDIS_URL", "redis://u:p@redis:7000/1"));
    let engine = config.engine_settings("boot".into());
    assert_eq!(
        (&*config.node, &*config.group, config.dry_run),
        ("node-a", "base-station", true)
    );
    assert_eq!(
        (&*engine.boot, &*engine.group_channel),
        ("boot", "defib:base-station")
    );
    let Backend::Redis(endpoint) = &config.bus.backend else {
        panic!("{:?}", config.bus)
    };
    assert_eq!(
        endpoint.address,
        Address::Tcp {
            host: "redis".to_owned(),
            port: 7000
        }
    );
    assert_eq!((endpoint.user.as_deref(), endpoint.db), (Some("u"), 1));
    let channels: Vec<&str> = config.bus.channels.iter().map(|channel| &**channel).collect();
    assert_eq!(
        channels,
        ["defib:base-station", "telemetry_heartbeat", "can_messages"]
    );
    assert_eq!(&*config.bus.publish_channel, "defib:base-station");

    let names: Vec<&str> = engine.peers.iter().map(|peer| &*peer.name).collect();
    assert_eq!(names, ["feed", "archive"], "in the order of the file");
    let feed = &engine.peers[0];
    assert!(feed.local);
    let checks: Vec<(&str, Plane, Decides)> = feed
        .checks
        .iter()
        .map(|check| (&*check.name, check.plane, check.decides))
        .collect();
    assert_eq!(
        checks,
        [
            ("heartbeat", Plane::Bus, Decides::Liveness),
            ("data", Plane::Bus, Decides::Nothing),
            ("process", Plane::Local, Decides::Liveness),
        ]
    );
    assert_eq!(
        feed.checks[1]
            .needs
            .map(|id| &*engine.expectations[usize::from(id.0)]),
        Some("car")
    );
    assert_eq!(
        feed.checks[0].kind,
        CheckKind::Passive {
            source: Source::Channels(vec!["telemetry_heartbeat".into()]),
            detector: DetectorSettings::default(),
            cause: defib::engine::cause::Cause::PeerSilent,
        }
    );
    assert_eq!(feed.remedies[0].kind, RemedyKind::Signal);
    assert_eq!(
        feed.remedies[0].act_within,
        Duration::from_secs(10),
        "5 s before SIGKILL and slack"
    );
    assert_eq!(
        config.remedies.values().next(),
        Some(&Remedy::Signal {
            signal: Signal(15),
            then: Some((Duration::from_secs(5), Signal(9)))
        })
    );

    let (_, owner, check, _) = &config.checks.owners[0];
    assert_eq!(
        (owner, check.map(|check| check.index)),
        (&Owner::Listens(9080), Some(2))
    );
    let (check, Probe::Http(question), _) = &config.checks.probes[0] else {
        panic!("{:?}", config.checks.probes)
    };
    assert_eq!((check.peer.0, check.index), (1, 0));
    assert_eq!(question.ignore, ["gps"]);
    assert!(matches!(&question.json, Some(json) if json.expect == Expect::Equals(true.into())));
    assert_eq!(config.checks.expectations.len(), 1);
    let drain = &engine.peers[1].remedies[0];
    assert!(!drain.restarts, "a drain makes no new incarnation");
    assert_eq!(drain.act_within, Duration::from_secs(5 + 20 + 1 + 5));

    let embedded = good(&sources(CANONICAL));
    assert_eq!(embedded.bus.backend, Backend::Embedded { listen: None });
}

#[test]
fn a_container_becomes_an_owner_a_check_and_a_remedy() {
    let config = good(&sources(
        r#"
        [docker]
        host = "tcp://docker:2376"
        ca = "/ca.pem"
        cert = "/cert.pem"
        key = "/key.pem"
        [peer.app]
        owner = { compose = "stack/app" }
        checks.docker = { fail_after = "1 of 1" }
        remedies = [
          { do = "docker", action = "kill", signal = "SIGHUP" },
          { do = "docker", stop_timeout = "20s" },
          { do = "docker", container = "bridge" },
        ]
        "#,
    ));
    let identity = Identity {
        cert: "/cert.pem".into(),
        key: "/key.pem".into(),
    };
    assert_eq!(
        config.docker.host,
        Host::Tls {
            host: "docker".to_owned(),
            port: 2376,
            ca: "/ca.pem".into(),
            identity: Some(identity)
        }
    );
    let (selector, check, _) = &config.checks.containers[0];
    assert_eq!(selector.to_string(), "service app of the compose project stack");
    assert_eq!(check.index, 1, "the implied `process`");
    assert_eq!(config.checks.probes[0].1, Probe::Docker);
    let act = |rung| match &config.remedies[&(PeerId(0), rung)] {
        Remedy::Docker(act) => act.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(act(0).action, Action::Kill(Signal(1)));
    assert_eq!((&act(1).target, act(1).is_owner), (selector, true));
    assert_eq!(act(1).stop_timeout, Some(Duration::from_secs(20)));
    assert_eq!(act(2).target, Selector::Name("bridge".to_owned()));
    assert!(!act(2).is_owner);
    let settings = config.engine_settings("b".into());
    let rung = &settings.peers[0].remedies[1];
    assert!(
        rung.act_within > Duration::from_secs(20) + Duration::from_secs(120),
        "{rung:?}"
    );
}

#[test]
fn nothing_at_all_is_a_configuration() {
    let config = good(&sources(""));
    let engine = config.engine_settings("b".into());
    assert_eq!(
        (&*config.group, &*engine.group_channel),
        ("default", "defib:default")
    );
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:7337");
    assert_eq!(
        config.http.admin_socket.as_deref(),
        Some(Path::new("/run/user/1/defib/admin.sock"))
    );
    assert_eq!(
        config.store,
        Path::new("/home/test/.local/state/defib/state.json")
    );
    assert_eq!(config.log.format, LogFormat::Auto);
    assert_eq!(config.shutdown_deadline, Duration::from_secs(10));
    assert_eq!(config.warnings, ["no peer is configured: nobody is watched"]);
    let no_file = Sources {
        file: None,
        ..sources("")
    };
    assert_eq!(good(&no_file), config);
}

#[test]
fn defaults_are_those_of_the_engine() {
    let config = good(&sources(
        "[peer.a]\nowner = { pid = 1 }\nchecks.heartbeat = { channel = \"a\" }\nchecks.traffic = { channels = [\"d\"] }\n\
         checks.http = { url = \"http://h/\" }\nremedies = [{ do = \"healthz\" }]",
    ));
    let engine = config.engine_settings("b".into());
    assert_eq!(engine.interval, Duration::from_secs(1));
    assert_eq!(engine.bus_settle, Duration::from_secs(60));
    assert_eq!(engine.group_budget, GroupBudget::default());
    assert_eq!(engine.breaker, BreakerSettings::default());
    assert_eq!(engine.quorum, QuorumSettings::default());
    let peer = &engine.peers[0];
    assert_eq!(
        (peer.backoff, peer.budget),
        (BackoffSettings::default(), Budget::default())
    );
    assert_eq!(
        (peer.grace, peer.healthz_hold),
        (Duration::from_secs(10), Duration::from_secs(45))
    );
    assert!(!peer.single_observer);
    assert_eq!(peer.remedies[0].verify_within, Duration::from_secs(60));
    for check in &peer.checks {
        assert_eq!(
            (check.decides, check.grace),
            (Decides::Liveness, Duration::from_secs(10))
        );
        match &check.kind {
            CheckKind::Passive { detector, .. } => assert_eq!(*detector, DetectorSettings::default()),
            CheckKind::Active {
                fail_after, interval, ..
            }
            | CheckKind::Process { fail_after, interval } => {
                assert_eq!(
                    (*fail_after, *interval),
                    (FailAfter::default(), Duration::from_secs(1))
                );
            }
        }
    }
}

#[test]
fn variables_override_the_file_and_set_overrides_both() {
    let file =
        sources("group = \"file\"\n[heartbeat]\ninterval = \"1s\"\n[peer.feed]\nowner = { listens = 1 }");
    let file = env(file, "DEFIB__GROUP", "env");
    let file = env(file, "DEFIB__HEARTBEAT__INTERVAL", "500ms");
    let file = env(file, "DEFIB__PEER__FEED__OWNER__LISTENS", "9080");
    let file = env(file, "DEFIB__PEER__OTHER__OWNER", "{ pid = 7 }");
    let file = env(file, "DEFIB__HTTP__LISTEN", "[::1]:7400");
    let file = set(file, "group=7");
    let config = good(&set(file, r#"peer."feed".grace = "3s""#));
    let engine = config.engine_settings("b".into());
    assert_eq!(&*config.group, "7", "letter by letter, not as a number");
    assert_eq!(engine.interval, Duration::from_millis(500));
    assert_eq!(config.http.listen.to_string(), "[::1]:7400");
    assert_eq!(engine.peers[0].grace, Duration::from_secs(3));
    let owners: Vec<&Owner> = config.checks.owners.iter().map(|(_, owner, ..)| owner).collect();
    assert_eq!(owners, [&Owner::Listens(9080), &Owner::Pid(7)]);
}

#[test]
fn mistakes_outside_of_the_file_name_their_source() {
    let wrong = env(sources("group = \"UPPER\""), "DEFIB__BUS__URLL", "x");
    let wrong = env(wrong, "DEFIB_BUS_URL", "redis://h");
    let wrong = env(wrong, "DEFIB__HEARTBEAT__INTERVAL", "5");
    let mut wrong = set(set(wrong, "http.listen=nowhere"), "nonsense");
    wrong.peers = vec!["fed".to_owned()];
    let report = bad(&wrong).to_string();
    let expected = r#"defib.toml:1:9: error[value]: `group`: "UPPER" is not such a name
  1 | group = "UPPER"
    |         ^^^^^^^
    = takes a name: a-z, 0-9, then also _ . -; at most 63
DEFIB_BUS_URL: error[unknown_key]: this variable is not read
  = write DEFIB__BUS__URL
DEFIB__BUS__URLL: error[unknown_key]: there is no key `urll` in `bus`
  = did you mean `DEFIB__BUS__URL`?
DEFIB__HEARTBEAT__INTERVAL: error[value]: `interval`: 5 has no unit
  = write "5s" or "5ms"; takes a time from 100ms to 1m
--set http.listen: error[value]: `listen`: "nowhere" is not an address
  = takes an IP address and a port, as in 127.0.0.1:7337 or [::1]:7337
--set nonsense: error[syntax]: there is no value
  = --set KEY=VALUE, as in --set bus.url=embedded
--peers: error[unknown_peer]: there is no peer `fed`
  = the configuration has no peers
7 mistakes in the configuration"#;
    assert_eq!(report, expected);
}

#[test]
fn a_quorum_is_of_two_at_least_its_votes_outlast_a_lost_heartbeat_and_who_is_asked_has_an_address() {
    assert_eq!(rule("quorum.k = 1"), "value");
    assert_eq!(rule("quorum.lifetime = \"1900ms\""), "vote_lifetime");
    for wrong in [
        "node-b:7337",
        "http://node-b:7337/api",
        "http://user@node-b",
        "http://node-b/?x",
        "ftp://b",
    ] {
        assert_eq!(
            rule(&format!("quorum.ask = [\"http://a\", \"{wrong}\"]")),
            "vote_address",
            "{wrong}"
        );
    }
    let config = good(&sources(
        "heartbeat.interval = \"500ms\"\nquorum = { k = 3, fast = false, ask = [\"http://node-b:7337\", \"https://c/\"] }",
    ));
    let quorum = config.engine_settings("b".into()).quorum;
    assert_eq!(
        (quorum.k, quorum.fast, quorum.lifetime),
        (3, false, Duration::from_millis(1_500))
    );
    assert_eq!(
        config.ask,
        ["http://node-b:7337".into(), "https://c/".into()] as [std::sync::Arc<str>; 2]
    );
}

#[test]
fn variables_of_others_are_left_alone() {
    let mut others = sources("");
    for name in [
        "DEFIB_CONFIG",
        "DEFIB_LOG",
        "DEFIB_TOKEN",
        "DEFIB_REQUIRE_ALL",
        "DEFIB_TEST_VENV",
        "DEFIB_PORT",
        "DEFIB_SERVICE_HOST",
        "DEFIB_PORT_7337_TCP_ADDR",
        "DEFIB_HTTP_PORT",
        "DEFIB_PEER",
        "DEFIB_CAUSE",
        "DEFIB_NODE",
    ] {
        others.env.insert(name.to_owned(), "x".to_owned());
    }
    good(&others);
    assert_eq!(
        only_rule(&env(others, "DEFIB_DRY_RUN", "true")),
        "unknown_key",
        "it would be ignored in silence"
    );
}

#[test]
fn strings_read_variables() {
    let text = "group = \"${A}-${B:-b}-$${C}\"";
    assert_eq!(
        &*good(&env(sources("group = \"${A}-${B:-b}\""), "A", "x")).group,
        "x-b"
    );
    assert_eq!(rule("group = \"${A}\""), "missing_variable");
    assert!(
        bad(&sources("group = \"${POD_NAM}\""))
            .to_string()
            .contains("did you mean `POD_NAME`")
    );
    assert!(
        bad(&env(sources(text), "A", "x"))
            .to_string()
            .contains("\"x-b-${C}\" is not such a name")
    );
    assert_eq!(rule("group = \"${A\""), "syntax");
    assert_eq!(
        rule("[peer.a]\nowner = { pid_file = \"${NOWHERE}/x\" }"),
        "missing_variable"
    );
}

#[test]
fn secrets_are_never_shown() {
    let text = r#"
[bus]
url = "rediss://user:hunter2@redis"
[http]
admin_listen = "127.0.0.1:7338"
admin_token = "hunter2"
[peer.a]
owner = { pid = 1 }
checks.http = { url = "http://h/", bearer = { env = "TOKEN" } }
remedies = [{ do = "http", url = "http://h/", bearer = { file = "/run/x" } }]
"#;
    let config = good(&env(sources(text), "TOKEN", "hunter2"));
    let Probe::Http(question) = &config.checks.probes[0].1 else {
        panic!("{:?}", config.checks.probes)
    };
    assert_eq!(question.bearer, Some(Secret::Env("TOKEN".to_owned())));
    assert!(!format!("{config:?}").contains("hunter2"));
    for text in [
        "[bus]\nurl = \"redis://user:hunter2@h:port\"",
        "[bus]\nurl = \"http://user:hunter2@h\"",
        "[bus]\npassword = \"hunter2\"",
        "[bus]\npasswrd = \"hunter2\"",
        "[bus]\nkennwort = \"hunter2\"",
        "[bus]\npassword = hunter2",
        "[bus]\nurl = \"redis://h\"\npassword = [\"hunter2\"]",
        "[bus]\nurl = \"redis://:hunter2@h\"\npassword = \"hunter2\"",
        "[http]\nadmin_token = \"hunter2\"",
        "[http]\nadmin_token = \"hunter2",
        "[peer.a.checks.http]\nurl = \"http://u:hunter2@h/\"",
    ] {
        let report = bad(&sources(text));
        assert!(!report.to_string().contains("hunter2"), "{report}");
    }
    let report = bad(&env(
        sources("[bus]\nurl = \"${R}\""),
        "R",
        "redis://u:hunter2@:0",
    ));
    assert!(!report.to_string().contains("hunter2"), "{report}");
}

#[test]
fn broken_toml_is_reported_with_the_mistakes_elsewhere() {
    let report = bad(&sources("group = \ndry_run = \"yes\"\n[bus]\nurll = \"x\"\n")).to_string();
    assert!(report.contains("defib.toml:1:"), "{report}");
    assert!(report.contains("error[syntax]"), "{report}");
    assert!(report.contains("defib.toml:2:11: error[value]"), "{report}");
    assert!(report.contains("defib.toml:4:1: error[unknown_key]"), "{report}");
    assert!(report.ends_with("3 mistakes in the configuration"), "{report}");
    assert_eq!(rule("group = \"a\"\ngroup = \"b\"\n[bus]").as_str(), "syntax");
}

#[test]
fn a_broken_header_blames_nothing_of_what_stands_below_it() {
    let report = bad(&sources(
        "[bus]\nurl = \"embedded\"\n[peer.a\ngrace = \"1s\"\nchecks.x = 1\n[log]\nlevell = 1\n",
    ));
    let report = report.to_string();
    assert!(report.contains("defib.toml:3:"), "{report}");
    assert!(report.contains("defib.toml:7:1: error[unknown_key]"), "{report}");
    assert!(report.ends_with("2 mistakes in the configuration"), "{report}");
}

#[test]
fn one_mistake_is_told_once_and_hides_no_other() {
    let report = bad(&sources("[peer.a]\nowner = { contaner = \"x\" }")).to_string();
    assert!(
        report.contains("error[unknown_key]: there is no key `contaner`"),
        "{report}"
    );
    assert!(report.ends_with("1 mistake in the configuration"), "{report}");
    let text =
        "[peer.a.checks.x]\ntype = \"htp\"\nurll = \"http://h\"\nurl = \"http://h\"\nneeds = \"nothing\"";
    let report = bad(&sources(text)).to_string();
    for word in ["`htp`", "no key `urll`", "nothing"] {
        assert!(report.contains(word), "{word}: {report}");
    }
    assert!(report.ends_with("3 mistakes in the configuration"), "{report}");
    let report = bad(&sources("[peer.a.checks.file]\npath = \"heartbeat.json\"")).to_string();
    assert!(
        report.contains("relative to wherever the node is started"),
        "{report}"
    );
}

#[test]
fn observing_keeps_what_could_be_read() {
    let report = bad(&sources(
        "[http]\nlisten = \"127.0.0.1:7444\"\n[log]\nformat = \"json\"\n[peer.x]\n",
    ));
    assert_eq!(
        (report.http.listen.port(), report.log.format),
        (7444, LogFormat::Json)
    );
    assert_eq!(bad(&sources("[http]\nlisten = 1")).http.listen.port(), 7337);
    for beside in [
        "max_connections = 0",
        "nonsense = 1",
        "admin_listen = \"127.0.0.1:1\"",
        "admin_token = { env = \"NOT_SET\" }",
    ] {
        let text = format!("[http]\nlisten = \"0.0.0.0:7444\"\n{beside}\n");
        let report = bad(&sources(&text));
        assert_eq!(report.http.listen.to_string(), "0.0.0.0:7444", "{beside}");
    }
}

#[test]
fn rules_have_names() {
    let owner = "[peer.a]\nowner = { listens = 1 }\n";
    let with = |more: &str| format!("{owner}{more}");
    for (text, expected) in [
        ("[heartbeat]\ninterval = \"2s\"\n[peer.a.checks.heartbeat]\nchannel = \"x\"\nsuspect_after = \"3s\"".to_owned(), "suspect_after"),
        ("[peer.a.checks.heartbeat]\nchannel = \"x\"\ndead_after = \"1s\"".to_owned(), "dead_after"),
        ("[peer.a.checks.heartbeat]\nchannel = \"x\"\nphi = 9".to_owned(), "detector_field"),
        ("[peer.a.checks.heartbeat]\nchannel = \"x\"\nwindow = 9".to_owned(), "detector_field"),
        ("[peer.a.checks.heartbeat]\nchannel = \"x\"\ndetector = \"phi\"\nmargin = \"1s\"".to_owned(), "detector_field"),
        ("[peer.a.checks.heartbeat]\nchannel = \"x\"\ndetector = \"chen\"\ndead_phi = 9".to_owned(), "detector_field"),
        ("[peer.a.checks.heartbeat]\nchannel = \"x\"\ndetector = \"phi\"\nphi = 0.1".to_owned(), "phi"),
        ("[peer.a.checks.heartbeat]\nchannel = \"x\"\ndetector = \"phi\"\nphi = 9\ndead_phi = 9".to_owned(), "phi"),
        ("[peer.a.checks.heartbeat]\nchannel = \"x\"\ndetector = \"phi\"\nphi = nan".to_owned(), "value"),
        ("[peer.a.checks.heartbeat]\nchannel = \"x\"\ndetector = \"phi\"\nwindow = 1001".to_owned(), "value"),
        ("[peer.a.checks.heartbeat]\nchannel = \"x\"\ndetector = \"chen\"\nmargin = \"4s\"\ndead_margin = \"4s\"".to_owned(), "margin"),
        ("[peer.a.checks.heartbeat]\nchannel = \"x\"\ndetector = \"chen\"\nsuspect_after = \"1s\"".to_owned(), "suspect_after"),
        ("[peer.a.checks.traffic]\nchannels = [\"x\"]\ndetector = \"phy\"".to_owned(), "value"),
        ("[peer.a.checks.heartbeat]".to_owned(), "heartbeat_source"),
        ("[peer.a.checks.heartbeat]\nchannel = \"x\"\npeer = \"b\"".to_owned(), "heartbeat_source"),
        ("[peer.a.checks.heartbeat]\nchannel = \"x\"\nnode = \"b\"".to_owned(), "heartbeat_source"),
        ("[peer.a.checks.heartbeat]\nchannel = \"defib:default\"".to_owned(), "channel_clash"),
        ("[peer.a.checks.traffic]\nchannels = [\"defib:default\"]".to_owned(), "channel_clash"),
        ("[peer.a.checks]\nheartbeat = { channel = \"x\" }\ntraffic = { channels = [\"y\", \"x\"] }".to_owned(), "channel_clash"),
        ("[peer.a.checks.heartbeat]\nnode = \"node-b\"".to_owned(), "two_groups"),
        ("[peer.a.checks.heartbeat]\nnode = \"node-a\"".to_owned(), "watches_itself"),
        ("[peer.a]".to_owned(), "nothing_to_watch"),
        ("[peer.A]\nowner = { pid = 1 }".to_owned(), "name"),
        ("[peer.a]\nowner = { }".to_owned(), "one_owner"),
        ("[peer.a]\nowner = { pid = 1, listens = 2 }".to_owned(), "one_owner"),
        ("[peer.a]\nowner = { listens = \"localhost:9080\" }".to_owned(), "value"),
        ("[peer.a]\nowner = { listens = \"127.0.0.1:0\" }".to_owned(), "value"),
        ("[peer.a]\nowner = { listens = 65536 }".to_owned(), "value"),
        ("[peer.a]\nowner = { pod = \"x\" }".to_owned(), "not_in_this_version"),
        ("[peer.a]\nowner = { container = \"a/b\" }".to_owned(), "value"),
        ("[peer.a]\nowner = { compose = \"a/b/c\" }".to_owned(), "value"),
        ("[peer.a]\nowner = { label = \"=x\" }".to_owned(), "value"),
        ("[peer.a]\nowner = { container = \"x\", label = \"y\" }".to_owned(), "one_owner"),
        ("[peer.a]\nowner = { container = \"x\" }\nremedies = [{ do = \"signal\" }]".to_owned(), "signal_needs_owner"),
        ("[docker]\nhost = \"/var/run/docker.sock\"".to_owned(), "value"),
        ("[docker]\nca = \"/ca.pem\"".to_owned(), "tls_only"),
        ("[docker]\nhost = \"tcp://d:2376\"\nca = \"/ca.pem\"\nkey = \"/key.pem\"".to_owned(), "tls_only"),
        ("[docker]\nhost = \"tcp://d:2376\"\ncert = \"/c.pem\"\nkey = \"/key.pem\"".to_owned(), "tls_only"),
        ("[peer.a.checks.process]".to_owned(), "process_needs_owner"),
        (with("checks.process = {}\nchecks.p2 = { type = \"process\" }"), "one_process"),
        (with("checks.x = {}"), "value"),
        (with("checks.htp = { url = \"http://h\" }"), "value"),
        (with("checks.docker = {}"), "docker_needs_container"),
        ("[when.car]\nbelow = 5".to_owned(), "when_which"),
        ("[when.car]\nhttp = \"http://h\"\nredis_key = \"k\"".to_owned(), "when_which"),
        ("[when.car]\nhttp = \"http://h\"\nmax_age = \"5s\"".to_owned(), "when_which"),
        ("[when.car]\nredis_key = \"k\"\nbearer = \"x\"".to_owned(), "when_which"),
        ("[when.car]\nredis_key = \"k\"\nage = \"ts\"".to_owned(), "redis_key_age"),
        (with("checks.tcp = { to = \"9080\" }"), "value"),
        (with("checks.tcp = { to = \"feed:0\" }"), "value"),
        (with("checks.tcp = { to = \"a b:1\" }"), "value"),
        (with("checks.tcp = { to = \"::1:9080\" }"), "value"),
        (with("checks.tcp = { to = \"[::x]:9080\" }"), "value"),
        (with("checks.tcp = { to = \"feed:1\", expect_at = \"start\" }"), "tcp_expect"),
        (with("checks.exec = { command = \"check\" }"), "value"),
        (with("checks.exec = { command = [\"check\"], pass = [0, 126] }"), "value"),
        (with("checks.exec = { command = [\"check\"], pass = [3] }"), "exec_codes"),
        (with("checks.redis_key = { }"), "missing"),
        (with("checks.redis_key = { key = \"k\", age = \"ts\" }"), "redis_key_age"),
        (with("checks.redis_key = { key = \"k\", json = \"ok\" }"), "json_condition"),
        (with("checks.redis_key = { key = \"k\", equals = 1, below = 2 }"), "json_condition"),
        (with("checks.redis_key = { key = \"k\", redis = \"http://x\" }"), "value"),
        (with("checks.redis_key = { key = \"k\", password = \"pw\" }"), "password_of_what"),
        (with("checks.redis_key = { key = \"k\", redis = \"redis://:pw@h\", password = \"pw\" }"), "two_passwords"),
        (with("checks.redis_lock = { }"), "redis_lock_which"),
        (with("checks.redis_lock = { key = \"k\", pattern = \"k*\" }"), "redis_lock_which"),
        (with("checks.redis_lock = { pattern = \"k*\", held = true }"), "redis_lock_held"),
        (with("checks.redis_lock = { pattern = \"k*\", max_keys = 0 }"), "value"),
        ("[peer.a]\nchecks.redis_key = { key = \"k\" }\nremedies = [{ do = \"healthz\" }]".to_owned(), "local_only"),
        (with("checks.process = { needs = \"car\" }"), "unknown_expectation"),
        (with("checks.process = { fail_after = \"4 of 3\" }"), "value"),
        (with("checks.process = { fail_after = 3 }"), "value"),
        (with("checks.http = { url = \"ftp://h\" }"), "value"),
        (with("checks.http = { }"), "missing"),
        (with("checks.http = { url = \"http://h\", json = \"a\" }"), "json_condition"),
        (with("checks.http = { url = \"http://h\", below = 1 }"), "json_condition"),
        (with("checks.http = { url = \"http://h\", json = \"a\", below = 1, above = 0 }"), "json_condition"),
        (with("checks.http = { url = \"http://h\", status = 99 }"), "value"),
        (with("checks.http = { url = \"http://h\", bearer = { env = \"NO\" } }"), "missing_variable"),
        (with("remedies = [{ do = \"kubernetes\" }]"), "not_in_this_version"),
        (with("remedies = [{ do = \"systemd\" }]"), "systemd_needs_unit"),
        (with("checks.systemd = {}"), "systemd_needs_unit"),
        (with("remedies = [{ do = \"systemd\", unit = \"a.timer\" }]"), "value"),
        (
            with("remedies = [{ do = \"systemd\", unit = \"a\", signal = \"SIGKILL\" }]"),
            "kill_signal",
        ),
        (with("remedies = [{ do = \"systemd\", user = true }]"), "user_unit"),
        (
            "[peer.a]\nowner = { listens = 1, user = true }".to_owned(),
            "user_unit",
        ),
        (with("remedies = [{ do = \"docker\" }]"), "docker_needs_container"),
        (with("remedies = [{ do = \"docker\", container = \"../x\" }]"), "value"),
        (with("remedies = [{ do = \"docker\", container = \"x\", signal = \"SIGHUP\" }]"), "kill_signal"),
        (with("remedies = [{ do = \"docker\", container = \"x\", action = \"start\", stop_timeout = \"1s\" }]"), "stop_timeout"),
        (with("checks.sockets = { to = [] }"), "value"),
        (with("checks.sockets = { to = [\"db:5432\"] }"), "value"),
        (with("checks.sockets = { to = [\"*:0\"] }"), "value"),
        (with("checks.sockets = { to = [\"*:5432\", \"[::1]:5432\"], min = 0 }"), "value"),
        (with("remedies = [{ do = \"socket_reset\" }]"), "reset_needs_sockets"),
        ("[peer.a]\nchecks.sockets = { to = [\"*:1\"] }\nremedies = [{ do = \"socket_reset\" }]".to_owned(), "remedy_needs_incarnation"),
        (with("remedies = [{ do = \"signl\" }]"), "value"),
        (with("remedies = [{ }]"), "missing"),
        (with("remedies = { do = \"log\" }"), "value"),
        (with("remedies = [{ do = \"signal\", after = \"1s\" }]"), "signal_then"),
        (with("remedies = [{ do = \"signal\", for = [\"self_deaf\"] }]"), "value"),
        (with("remedies = [{ do = \"exec\", command = \"reboot\" }]"), "value"),
        (with("remedies = [{ do = \"exec\", command = [] }]"), "value"),
        (with("remedies = [{ do = \"log\", timeout = \"1s\" }]"), "unknown_key"),
        (with("backoff = { initial = \"10m\", max = \"5m\" }\nbudget = { window = \"1h\" }"), "backoff_bounds"),
        (with("backoff = { initial = \"5m\" }"), "backoff_evades_budget"),
        (with("healthz_hold = \"10m\""), "healthz_hold"),
        (with("checks.subscription = {}"), "missing"),
        (with("checks.subscription = { channels = [] }"), "value"),
        (with("checks.subscription = { channels = [\"c\"], window = \"3s\", interval = \"2s\" }"), "window"),
        (with("checks.subscription = { channels = [\"c\"], redis = \"http://h\" }"), "value"),
        (with("remedies = [{ do = \"client_kill\" }]"), "client_kill_needs_check"),
        (with("stopped_when = \"x\""), "not_in_this_version"),
        (with("when_bus_down = \"never\""), "value"),
        (with("blockers = [\"deploys\"]"), "unknown_blocker"),
        ("[blocker.d]\ntimeout = \"1s\"".to_owned(), "blocker_which"),
        ("[blocker.d]\nhttp = \"http://h\"\nquery = \"up\"".to_owned(), "blocker_which"),
        ("[blocker.d]\nprometheus = \"http://h\"".to_owned(), "blocker_which"),
        ("[blocker.D]\nhttp = \"http://h\"".to_owned(), "name"),
        ("[bus]\nurl = \"redis://h\"\n[fleet]\nsize = 3".to_owned(), "fleet_size"),
        ("[fleet]\nsize = 3\nturn = \"10s\"".to_owned(), "fleet_turn"),
        ("[peer.a]\nchecks.heartbeat = { channel = \"x\" }\nremedies = [{ do = \"signal\" }]".to_owned(), "signal_needs_owner"),
        ("[peer.a]\nchecks.heartbeat = { channel = \"x\" }\nremedies = [{ do = \"healthz\" }]".to_owned(), "local_only"),
        ("[peer.a]\nchecks.http = { url = \"http://h\" }\nremedies = [{ do = \"healthz\" }]".to_owned(), "remedy_needs_incarnation"),
        ("[peer.a]\nchecks.traffic = { channels = [\"x\"] }\nremedies = [{ do = \"exec\", command = [\"x\"] }]".to_owned(), "remedy_needs_incarnation"),
        ("[bus]\nuser = \"x\"".to_owned(), "redis_only"),
        ("[bus]\nurl = \"redis://h\"\nca = \"/x\"".to_owned(), "tls_only"),
        ("[bus]\nurl = \"redis://h\"\nlisten = \"127.0.0.1:1\"".to_owned(), "embedded_only"),
        ("[bus]\nurl = \"redis://u@h\"\nuser = \"x\"".to_owned(), "given_twice"),
        ("[bus]\nlisten = \"0.0.0.0:7379\"".to_owned(), "loopback_only"),
        ("[peer.a.checks.push]\nsuspect_after = \"1m\"\ndead_after = \"1m\"".to_owned(), "dead_after"),
        ("[peer.a.checks.notify]\nwatchdog = \"1h\"".to_owned(), "max_watchdog"),
        ("[peer.a.checks.notify]\nsocket = \"here.sock\"".to_owned(), "value"),
        (format!("[peer.a.checks.notify]\nsocket = \"/{}\"", "x".repeat(103)), "socket_path"),
        ("[peer.a.checks.notify]\nmode = \"0777\"".to_owned(), "value"),
        ("[peer.a.checks.notify]\nusers = [\"me\"]".to_owned(), "value"),
        ("[peer.a.checks.notify]\nusers = [4294967295]".to_owned(), "value"),
        ("[peer.a.checks.notify]\nsocket = \"/run/x\"\n[peer.b.checks.notify]\nsocket = \"/run/x\"".to_owned(), "socket_clash"),
        ("[bus]\nlisten = \"127.0.0.1:7337\"".to_owned(), "duplicate_listener"),
        ("[http]\nadmin_listen = \"127.0.0.1:1\"".to_owned(), "admin_token"),
        ("[http]\nadmin_token = \"x\"".to_owned(), "admin_token"),
        ("[http]\nadmin_listen = \"127.0.0.1:7337\"\nadmin_token = \"x\"".to_owned(), "duplicate_listener"),
        ("[http]\nmax_connections = 0".to_owned(), "value"),
        ("[log]\nformat = \"xml\"".to_owned(), "value"),
        ("[log]\nlevel = \"a=b=c\"".to_owned(), "value"),
        ("[topology]\nall_to_all_below = 3".to_owned(), "not_in_this_version"),
        ("[fleet]\nsize = 0".to_owned(), "value"),
        ("peer = 3".to_owned(), "value"),
        ("bus = \"embedded\"".to_owned(), "value"),
        ("group = 99999999999999999999".to_owned(), "value"),
    ] {
        assert_eq!(rule(&text), expected, "{text}\n{}", bad(&sources(&text)));
    }
}

#[test]
fn another_node_may_be_heard_where_there_is_a_way() {
    let text = "[bus]\nlisten = \"127.0.0.1:7379\"\n[peer.b]\nchecks.heartbeat = { node = \"node-b\", peer = \"app\" }";
    let config = good(&sources(text));
    let engine = config.engine_settings("b".into());
    assert!(!engine.peers[0].local);
    good(&set(
        sources("[peer.b]\nchecks.heartbeat = { node = \"node-b\" }"),
        "bus.url=redis://h",
    ));
}

#[test]
fn one_file_serves_several_nodes() {
    let mut two = sources(
        "[peer.a]\nowner = { pid = 1 }\nchecks.heartbeat = { channel = \"a\" }\n[peer.b]\nowner = { pid = 2 }",
    );
    two.peers = vec!["b".to_owned()];
    let config = good(&two);
    let engine = config.engine_settings("x".into());
    assert_eq!(engine.peers.len(), 1);
    assert_eq!(engine.peer_id("b").map(|id| id.0), Some(0));
    assert_eq!(
        config.bus.channels.len(),
        1,
        "channels of others are not subscribed to"
    );
    two.peers = vec!["c".to_owned()];
    assert!(bad(&two).to_string().contains("--peers: error[unknown_peer]"));
}

#[test]
fn a_slow_node_gets_slower_defaults() {
    let config = good(&sources(
        "[heartbeat]\ninterval = \"5s\"\n[peer.a.checks.heartbeat]\nchannel = \"x\"",
    ));
    let engine = config.engine_settings("x".into());
    let CheckKind::Passive { detector, .. } = &engine.peers[0].checks[0].kind else {
        panic!()
    };
    let DetectorSettings::Deadline {
        suspect_after,
        dead_after,
    } = detector
    else {
        panic!()
    };
    assert_eq!((suspect_after.as_secs(), dead_after.as_secs()), (10, 25));
}

#[test]
fn a_detector_that_learns_is_what_its_fields_say() {
    let detector = |more: &str| {
        let text =
            format!("[heartbeat]\ninterval = \"500ms\"\n[peer.a.checks.heartbeat]\nchannel = \"x\"\n{more}");
        let config = good(&sources(&text));
        let engine = config.engine_settings("x".into());
        let CheckKind::Passive { detector, .. } = engine.peers[0].checks[0].kind else {
            panic!()
        };
        let words = defib::config::explain::explain(&config);
        let line = words
            .lines()
            .find(|line| line.starts_with("  heartbeat: "))
            .unwrap();
        (detector, line.to_owned())
    };
    let half = Duration::from_millis(500);
    let (settings, words) = detector("detector = \"phi\"");
    assert_eq!(settings, DetectorSettings::Phi(PhiSettings::at(half)));
    assert_eq!(
        words,
        "  heartbeat: any message on `x`; suspect from phi 8 of silence on, dead from 16, as learned from the last 200 \
         heartbeats, never before 1s and 2s 500ms nor after 5s and 15s (peer_silent)"
    );
    let (settings, words) =
        detector("detector = \"chen\"\nmargin = \"3s\"\nwindow = 50\nsuspect_after = \"8s\"");
    let mut expected = ChenSettings::at(half);
    expected.bounds.window = 50;
    expected.bounds.suspect_after = Duration::from_secs(8);
    expected.bounds.dead_after = Duration::from_secs(24);
    expected.margin = Duration::from_secs(3);
    expected.dead_margin = Duration::from_millis(7_500);
    assert_eq!(settings, DetectorSettings::Chen(expected));
    assert!(
        words.contains("suspect 3s after the next was expected, dead 7s 500ms after it"),
        "{words}"
    );
}

#[test]
fn more_peers_than_a_node_bears_are_refused() {
    use std::fmt::Write;
    let mut text = String::new();
    for n in 0..4097 {
        writeln!(text, "peer.p{n}.owner = {{ pid = 1 }}").unwrap();
    }
    assert_eq!(rule(&text), "too_many");
    assert_eq!(rule(&format!("group = \"{}\"", "x".repeat(2 << 20))), "too_large");
}

#[test]
fn warnings_say_what_is_probably_not_meant() {
    let text = r#"
dry_run = true
[http]
listen = "0.0.0.0:7337"
[when.unused]
http = "http://h"
[peer.a]
owner = { pid = 1 }
healthz_hold = "5s"
checks.process = { decides = "nothing" }
remedies = [{ do = "healthz" }]
[peer.b]
checks.heartbeat = { channel = "x", decides = "readiness" }
checks.key = { type = "redis_key", key = "k" }
remedies = [{ do = "exec", command = ["x"] }]
[peer.c]
owner = { pid = 1 }
remedies = [{ do = "log", for = ["peer_silent"] }]
"#;
    let warnings = good(&sources(text)).warnings;
    assert_eq!(
        warnings,
        [
            "dry_run is on: remedies are decided and shown, and none is carried out",
            "http.listen (0.0.0.0:7337) is open to every machine that can reach this one; it shows status and metrics, and changes nothing",
            "[when.unused] is needed by no check",
            "checks listen to channels, but the embedded bus has no bus.listen: no other process can publish on it",
            "peer b: its check `key` reads keys, and the embedded bus has none: it will say unknown. Set bus.url to a Redis, or its `redis`",
            "peer a: healthz_hold (5s) is less than a kubelet's default period × failureThreshold (30s): such a probe would not see the pulse",
            "peer a: its remedy `healthz` will never be used: none of its checks decides liveness",
            "peer b: its remedy `exec` will never be used: other observers vote on heartbeats and messages, none of which decides whether this peer lives, and single_observer is false",
            "peer c: its remedy `log` will never be used: it is for peer_silent, which none of its checks can prove",
        ]
    );
}

/// `defib ARGS` with an empty environment, in a directory of its own that holds this configuration.
fn defib(text: &str, args: &[&str]) -> (Option<i32>, String, String) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("defib.toml"), text).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_defib"))
        .args(args)
        .env_clear()
        .env("HOME", dir.path())
        .env("POD_NAME", "node-a")
        .env("XDG_RUNTIME_DIR", "/run/user/1")
        .current_dir(dir.path())
        .output()
        .unwrap();
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, 1, "nothing was written");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn s37_check_config_exits_78_and_says_why() {
    let check = ["check-config", "--config", "defib.toml"];
    let (code, out, err) = defib("grup = \"a\"\n[peer.a]\n", &check);
    assert_eq!((code, out.as_str()), (Some(78), ""));
    assert!(err.starts_with("defib.toml:1:1: error[unknown_key]"), "{err}");
    assert!(err.ends_with("2 mistakes in the configuration\n"), "{err}");
    let (code, _, err) = defib("", &["check-config", "--config", "nowhere.toml"]);
    assert_eq!(code, Some(78));
    assert!(
        err.starts_with("nowhere.toml: error[unreadable]: cannot be read: No such file"),
        "{err}"
    );
    let (code, out, err) = defib("group = \"g\"", &["check-config"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(
        out.starts_with("OK: node node-a of group default: 0 peers, 0 checks"),
        "no file is found: {out}"
    );
    assert_eq!(defib("", &["check-config", "--nonsense"]).0, Some(2));
}

#[test]
fn checks_by_which_a_peer_reports_are_read_and_explained() {
    let text = r#"
        [peer.bot]
        checks.notify = { watchdog = "20s", users = [1000] }
        checks.second = { type = "notify", watchdog_required = true }
        remedies = [{ do = "exec", command = ["restart", "bot"] }]
        [peer.job]
        checks.push = { suspect_after = "1h", run_within = "2h" }
    "#;
    let config = good(&sources(text));
    let runtime = config.runtime_dir.display();
    let sockets: Vec<String> = config
        .checks
        .notifies
        .iter()
        .map(|(_, notify)| notify.socket.display().to_string())
        .collect();
    assert_eq!(
        sockets,
        [
            format!("{runtime}/notify/bot.sock"),
            format!("{runtime}/notify/bot.second.sock")
        ]
    );
    let (code, out, _) = defib(text, &["check-config", "-c", "defib.toml", "--explain"]);
    assert_eq!(code, Some(0), "{out}");
    for words in [
        "/notify/bot.sock (of root, this node's user, uid 1000); pings are expected from the first one on, or as it \
         tells, of at most 10m; suspect after 15s of silence, dead after 20s (peer_silent)",
        "/notify/bot.second.sock (of root, this node's user); pings are expected from READY on",
        "push: beats by POST /api/v1/beat/job on the admin listener; a run that was started must end within 2h; suspect \
         after 1h of silence, dead after 2h 30m (peer_silent)",
    ] {
        assert!(out.contains(words), "{words}\n{out}");
    }
}

#[test]
fn explain_says_in_words_what_may_happen() {
    let (code, out, err) = defib(CANONICAL, &["check-config", "-c", "defib.toml", "--explain"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let expected = r"OK: node node-a of group base-station: 2 peers, 5 checks
warning: dry_run is on: remedies are decided and shown, and none is carried out
warning: http.listen (0.0.0.0:7337) is open to every machine that can reach this one; it shows status and metrics, and changes nothing
warning: checks listen to channels, but the embedded bus has no bus.listen: no other process can publish on it
warning: peer feed: once it has exited, nothing of its ladder can be done (`signal` acts on what runs): somebody else must bring it back

The bus is inside this process, and nobody else can join it.
This node says that it lives every 1s on `defib:base-station`, and judges others only while it hears itself.
Probes and metrics are on 0.0.0.0:7337; orders are taken on the socket /run/user/1/defib/admin.sock.

feed (on this machine: the process that listens on port 9080)
  heartbeat: any message on `telemetry_heartbeat`; suspect after 2s of silence, dead after 5s (peer_silent)
  data: any message on `can_messages`; suspect after 2s of silence, dead after 5s (peer_silent); only while `car` is met; decides nothing, is shown
  process: its exit condemns at once (peer_exited); stopped in 3 of 3 looks, one every 1s, condemns (peer_stuck)
  When it is dead, for peer_exited or peer_stuck: SIGTERM to that very process, and SIGKILL if it is still there after 5s. Then it has 5s for its own proof of life.
  After each, its failures do not count for 10s or until its first pass.
  At most 3 remedies that restart in 10m, all at least 10s apart, doubling to 5m; the whole group has one every 10s.

archive (on this machine: the process whose command line contains `archive.py`)
  api: http://127.0.0.1:8080/health answers 200 to 299 within 1s, `healthy` is true (whatever gps say), asked every 1s; 3 failures of 3 condemn (peer_stuck)
  process: its exit condemns at once (peer_exited); stopped in 3 of 3 looks, one every 1s, condemns (peer_stuck)
  When it is dead, for whatever cause lies in it: POST http://127.0.0.1:8080/__internal/drain within 5s, then up to 20s until http://127.0.0.1:8080/n answers as it should. It restarts nothing. Then it has 1m for its own proof of life.
  After each, its failures do not count for 10s or until its first pass.
  None restarts anything, so no budget is charged; at least 10s apart, doubling to 5m.

Never:
- is any remedy carried out: dry_run is on
- is anybody blamed for a silence while this node cannot hear itself, or was stopped
- is any remedy carried out while the bus is away, nor for 1m after it is back or this node has started
- is a failed measurement taken for a death, or a peer restarted that never lived, unless its exit was seen
- is every peer healed at once: more than max(2, 5 %) of the remote peers, or all of them, silent within 1m are held, and one is tried after 5m
- is a remote peer restarted unless 2 observers agree and no node of the group hears it, but for one with `single_observer`
- is a remedy applied to a later life of a peer than the one that was condemned
";
    assert_eq!(out, expected);
}

#[test]
fn completions_are_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, out, _) = defib("", &["completions", shell]);
        assert_eq!(code, Some(0), "{shell}");
        assert!(out.contains("check-config"), "{shell}");
    }
}

/// Text that often gets past the parser.
fn plausible() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("[peer.a]\n".to_owned()),
        Just("[[peer.a.remedies]]\n".to_owned()),
        Just("checks.heartbeat = ".to_owned()),
        Just("remedies = [{ do = ".to_owned()),
        Just("owner = { ".to_owned()),
        Just("${HOME}".to_owned()),
        Just("bus.url = \"redis://u:p@h\"\n".to_owned()),
        Just("password = ".to_owned()),
        Just(" }\n".to_owned()),
        Just("]\n".to_owned()),
        "[a-z_.]{1,8} = (\"[^\"\n]{0,8}\"|[0-9.e-]{1,6}|true|\\[\\]|\\{\\})\n",
        "\\PC{0,12}",
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_text_panics(text in plausible(), any in ".{0,200}", over in ".{0,30}") {
        for text in [text, any] {
            let all = set(env(sources(&text), "DEFIB__BUS__URL", &over), &over);
            if let Err(report) = load(&all) {
                prop_assert!(report.count() > 0);
                prop_assert!(!report.to_string().contains('\u{1b}'), "no control character reaches a terminal");
            }
        }
    }
}

#[test]
fn the_checks_that_measure_are_read() {
    let config = good(&sources(
        r#"
        [peer.feed]
        owner = { listens = 9080 }
        checks.queue = { type = "metric", url = "http://127.0.0.1:9080/metrics", series = 'depth{queue="out"}', below = 1000, aggregate = "max" }
        checks.work = { type = "metric", url = "http://127.0.0.1:9080/metrics", series = "jobs_total", above = 0, rate_over = "1m", bearer = "sesame" }
        checks.connections = { url = "http://127.0.0.1:9080/metrics", series = "open" }
        checks.memory = { below = "512MiB", growth = "50 MiB", of = "cgroup" }
        "#,
    ));
    let page = |series: &str| Exposed {
        url: "http://127.0.0.1:9080/metrics".into(),
        series: series.parse().unwrap(),
        bearer: None,
        body_limit: 1 << 20,
    };
    let probes: Vec<Probe> = config
        .checks
        .probes
        .iter()
        .map(|(_, probe, _)| probe.clone())
        .collect();
    assert_eq!(
        probes,
        [
            Probe::Metric(Metric {
                page: page("depth{queue=\"out\"}"),
                aggregate: Aggregate::Max,
                rate_over: None,
                bound: Bound::Below(1000.0),
            }),
            Probe::Metric(Metric {
                page: Exposed {
                    bearer: Some(Secret::Inline("sesame".into())),
                    ..page("jobs_total")
                },
                aggregate: Aggregate::Sum,
                rate_over: Some(Duration::from_secs(60)),
                bound: Bound::Above(0.0),
            }),
            Probe::Connections(Connections {
                page: page("open"),
                ports: vec![9080],
                below: 10,
            }),
            Probe::Memory(Memory {
                of: Of::Cgroup,
                below: Some(512 << 20),
                growth: Some(Growth {
                    below: 50 << 20,
                    over: Duration::from_secs(600),
                }),
            }),
        ]
    );
    let words = defib::config::explain::explain(&config);
    for said in [
        "queue: the largest `depth{queue=\"out\"}` of http://127.0.0.1:9080/metrics is below 1000, read every 1s",
        "work: `jobs_total` of http://127.0.0.1:9080/metrics grows a second by a number above 0, over 1m, read every 1s",
        "connections: `open` of http://127.0.0.1:9080/metrics counts fewer than 10 connections that the kernel does not \
         have on port 9080, compared every 1s; 3 failures of 3 condemn (peer_leaking)",
        "memory: its cgroup holds less than 512MiB and grows by less than 50MiB in 10m, measured every 1s",
    ] {
        assert!(words.contains(said), "{words}");
    }
}

#[test]
fn s27_the_check_of_a_file_is_read() {
    let config = good(&sources(
        r#"
        [peer.bot]
        owner = { heartbeat_file = "/run/bot/heartbeat.json" }
        checks.file = { path = "/run/bot/heartbeat.json", progress = { field = "metadata.cycles", max_age = "2m" }, stopped_when = { field = "status", equals = "stopped" } }
        checks.other = { type = "file", path = "/srv/nfs/bot.json", timestamp = "none", any_host = true, max_age = "1m" }
        checks.log = { type = "file", path = "/var/log/bot.log", format = "plain", decides = "nothing" }
        remedies = [{ do = "signal", for = ["peer_stuck"] }]
        "#,
    ));
    let probes: Vec<&Probe> = config.checks.probes.iter().map(|(_, probe, _)| probe).collect();
    let kstlib = File {
        path: "/run/bot/heartbeat.json".into(),
        format: Format::Json {
            timestamp: Some("timestamp".into()),
        },
        max_age: Duration::from_secs(30),
        progress: Some(Progress {
            field: "metadata.cycles".into(),
            max_age: Duration::from_secs(120),
        }),
        stopped_when: Some(Condition {
            field: "status".into(),
            equals: "stopped".into(),
        }),
        pid: Pid::Always,
        any_host: false,
    };
    let bare = |path: &str| File {
        path: path.into(),
        progress: None,
        stopped_when: None,
        pid: Pid::Seen,
        ..kstlib.clone()
    };
    let other = File {
        format: Format::Json { timestamp: None },
        max_age: Duration::from_secs(60),
        any_host: true,
        ..bare("/srv/nfs/bot.json")
    };
    let log = File {
        format: Format::Plain,
        ..bare("/var/log/bot.log")
    };
    assert_eq!(
        probes,
        [&Probe::File(kstlib), &Probe::File(other), &Probe::File(log)]
    );
    assert_eq!(
        config.checks.owners[0].1,
        Owner::HeartbeatFile("/run/bot/heartbeat.json".into())
    );
    let words = defib::config::explain::explain(&config);
    for said in [
        "bot (on this machine: the process of /run/bot/heartbeat.json)",
        "file: /run/bot/heartbeat.json changes within 30s (at first sight: its `timestamp` is not older), and its \
         `metadata.cycles` within 2m, unless its `status` is \"stopped\" (it is left alone then), and its process runs \
         here and is older than it; looked at every 1s; 3 failures of 3 condemn (peer_exited or peer_silent or peer_stuck)",
        "other: /srv/nfs/bot.json changes within 1m, on whatever host; looked at every 1s; 3 failures of 3 condemn (peer_silent)",
        "log: /var/log/bot.log is written within 30s; looked at every 1s; 3 failures of 3 condemn (peer_silent); decides \
         nothing, is shown",
    ] {
        assert!(words.contains(said), "{said}\n{words}");
    }
    for (rest, expected) in [
        (
            "path = \"/f\", format = \"plain\", pid = \"seen\"",
            "plain_has_no_fields",
        ),
        (
            "path = \"/f\", format = \"plain\", progress = { field = \"a\", max_age = \"2m\" }",
            "plain_has_no_fields",
        ),
        (
            "path = \"/f\", any_host = true, pid = \"always\"",
            "pid_of_any_host",
        ),
        ("path = \"/f\", interval = \"20s\"", "window"),
        (
            "path = \"/f\", progress = { field = \"a\", max_age = \"1s\" }",
            "window",
        ),
        ("path = \"/f\", progress = { field = \"a\" }", "missing"),
        ("path = \"/f\", stopped_when = { field = \"a\" }", "missing"),
        ("max_age = \"30s\"", "missing"),
        ("path = \"/f\", pid = \"4711\"", "value"),
    ] {
        let text = format!("[peer.a]\nchecks.file = {{ {rest} }}\n");
        assert_eq!(rule(&text), expected, "{rest}");
    }
}

#[test]
fn a_check_that_measures_says_what_it_lacks() {
    let metric = |rest: &str| {
        format!("[peer.a]\nchecks.metric = {{ url = \"http://127.0.0.1/m\", series = \"a\", {rest} }}\n")
    };
    for (text, expected) in [
        (metric(""), "metric_bound"),
        (metric("above = 0, below = 1"), "metric_bound"),
        (metric("above = 0, rate_over = \"1s\""), "window"),
        (
            metric("above = 0, rate_over = \"1m\", aggregate = \"max\""),
            "rate_is_a_sum",
        ),
        (metric("above = 0").replace("\"a\"", "\"a{b=~'c'}\""), "value"),
        (
            metric("below = 5").replace("metric =", "connections ="),
            "connections_need_ports",
        ),
        (
            "[peer.a]\nchecks.memory = { below = \"1GiB\" }".into(),
            "memory_needs_owner",
        ),
    ] {
        assert_eq!(rule(&text), expected, "{text}");
    }
    let memory = |rest: &str| format!("[peer.a]\nowner = {{ listens = 80 }}\nchecks.memory = {{ {rest} }}\n");
    for (rest, expected) in [
        ("", "memory_bound"),
        ("below = \"1GiB\", over = \"1m\"", "memory_bound"),
        ("growth = \"1MiB\", over = \"15s\"", "window"),
        ("below = \"512MB\"", "value"),
        ("below = \"512\"", "value"),
        ("below = 512", "value"),
        ("below = \"-1MiB\"", "value"),
        ("below = \"1KiB\"", "value"),
        ("below = \"99999999999999999999GiB\"", "value"),
        ("below = \"17179869184GiB\"", "value"),
    ] {
        assert_eq!(rule(&memory(rest)), expected, "{rest}");
    }
    let ports =
        |ports: &str| metric(&format!("below = 5, ports = {ports}")).replace("metric =", "connections =");
    for wrong in ["[]", "[0]", "[65536]", "[\"80\"]", "80"] {
        assert_eq!(rule(&ports(wrong)), "value", "{wrong}");
    }
    good(&sources(&ports("[80, 443]")));
}

#[test]
fn the_checks_that_ask_others_are_read_and_explained() {
    // As the design has it, also where there is no Redis yet.
    let canonical = r#"
        [bus]
        url = "${REDIS_URL:-embedded}"
        [when.car]
        redis_key = "car:state"
        json = "seen_s_ago"
        below = 5
        [peer.feed]
        owner = { listens = 9080 }
        checks.clients = { needs = "car", type = "redis_key", key = "websocket_bridge:clients" }
        checks.port = { type = "tcp", to = "[::1]:9080", send = "s3cret\r\n", expect = "+OK", expect_at = "start" }
        checks.plugin = { type = "exec", command = ["check_feed", "-c", "5"], pass = [0, 1] }
        [peer.recorder]
        checks.status = { type = "redis_key", key = "timescale:status", age = "ts", max_age = "30s" }
        checks.said = { type = "redis_key", key = "timescale:status", json = "ok", equals = true, redis = "redis://h/2", password = "s3cret" }
        checks.locks = { type = "redis_lock", pattern = "chat:*:lock" }
        checks.lock = { type = "redis_lock", key = "chat:lock", held = true, ttl_min = "30s" }
    "#;
    let config = good(&sources(canonical));
    let engine = config.engine_settings("boot".into());
    assert!(
        engine.peers[0].local && !engine.peers[1].local,
        "a key may be anybody's"
    );
    let keyless = |config: &Config| {
        let warns = |warning: &&String| warning.contains("the embedded bus has none");
        config.warnings.iter().filter(warns).count()
    };
    assert_eq!(keyless(&config), 5, "{:?}", config.warnings);
    let with_redis = good(&env(sources(canonical), "REDIS_URL", "redis://h"));
    assert_eq!(keyless(&with_redis), 0, "{:?}", with_redis.warnings);
    let said = defib::config::explain::explain(&with_redis);
    for line in [
        "clients: the key `websocket_bridge:clients` of the bus's server is there, read every 1s; 3 failures of 3 condemn (peer_silent or peer_stuck); only while `car` is met",
        "port: [::1]:9080 takes a connection and 8 bytes and its answer begins with \"+OK\" within 1s, tried every 1s",
        "plugin: `check_feed -c 5` ends with status 0 or 1 (3: unknown; after 1s it is ended, which is unknown), run every 1s",
        "status: the key `timescale:status` of the bus's server is there, has a `ts` that is no older than 30s, read every 1s",
        "said: the key `timescale:status` of redis://h:6379 is there, has a `ok` that is true, read every 1s",
        "locks: the locks `chat:*:lock` of the bus's server, 1000 at most, have a TTL; one that is not extended as usual is suspect, no more; sampled every 1s",
        "lock: the lock `chat:lock` of the bus's server has a TTL, is held; one with less than 30s left is suspect, no more; sampled every 1s; 3 failures of 3 condemn (peer_silent or peer_leaking)",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    assert!(!said.contains("s3cret"), "{said}");
}

#[test]
fn s35_maintenance_windows_are_read_and_what_is_no_window_is_refused_with_its_place() {
    let peer = "[peer.feed]\nowner = { listens = 9080 }\n";
    let window = |fields: &str| format!("{peer}[[maintenance]]\nreason = \"backup\"\n{fields}\n");
    let config = good(&sources(&format!(
        "{}[[maintenance]]\nreason = \"the rack\"\nfrom = \"2026-12-24 22:00\"\nto = \"2026-12-25 06:00:30\"\nzone = \"-03:30\"\n",
        window("from = \"22:00\"\nto = \"02:00\"\ndays = [\"sat\", \"sun\"]\npeers = [\"feed\"]")
    )));
    let [nights, once] = &*config.maintenance else {
        panic!("{:?}", config.maintenance)
    };
    assert_eq!(
        (&*nights.reason, &*nights.peers),
        ("backup", &["feed".into()][..])
    );
    assert_eq!((&*once.reason, once.peers.len()), ("the rack", 0));
    let at = |text: &str| {
        let at = humantime::parse_rfc3339(text).unwrap();
        at.duration_since(std::time::UNIX_EPOCH).unwrap()
    };
    assert!(once.open_for(at("2026-12-25T01:30:00Z")).is_some());
    assert!(once.open_for(at("2026-12-25T09:30:30Z")).is_none());
    // 28 November 2026 is a Saturday.
    assert!(nights.open_for(at("2026-11-28T23:00:00Z")).is_some());
    assert!(nights.open_for(at("2026-11-27T23:00:00Z")).is_none());

    let times = "from = \"22:00\"\nto = \"02:00\"\n";
    for (fields, wanted) in [
        ("from = \"22\"\nto = \"02:00\"".to_owned(), "maintenance_time"),
        (
            "from = \"2026-12-24 22:00\"\nto = \"02:00\"".to_owned(),
            "maintenance_time",
        ),
        (
            "from = \"2026-12-24 22:00\"\nto = \"2026-12-24 21:00\"".to_owned(),
            "maintenance_time",
        ),
        (
            "from = \"2026-12-24 22:00\"\nto = \"2026-12-25 21:00\"\ndays = [\"mon\"]".to_owned(),
            "maintenance_days",
        ),
        (format!("{times}days = [\"mo\"]"), "maintenance_days"),
        (format!("{times}zone = \"CET\""), "maintenance_zone"),
        (format!("{times}peers = [\"fed\"]"), "unknown_peer"),
        (format!("{times}dys = []"), "unknown_key"),
        ("from = \"22:00\"".to_owned(), "missing"),
    ] {
        assert_eq!(rule(&window(&fields)), wanted, "{fields}");
    }
}

#[test]
fn a_capture_keeps_something_within_the_bounds_of_all() {
    let peer = "[peer.a]\nowner = { pid_file = \"/run/a.pid\" }\n";
    for (fields, named) in [
        ("max_size = \"2MiB\"", "capture_size"),
        (
            "max_size = \"1MiB\", sockets = false, logs = 0",
            "capture_nothing",
        ),
        ("max_size = \"1MiB\", command = []", "value"),
        ("max_size = \"1MiB\", timeout = \"11m\"", "value"),
    ] {
        let text =
            format!("capture.max_total = \"1MiB\"\n{peer}remedies = [{{ do = \"capture\", {fields} }}]");
        assert_eq!(rule(&text), named, "{text}");
    }
    let remote = "[peer.a]\nchecks.heartbeat = { channel = \"a\" }\nremedies = [{ do = \"capture\" }]";
    assert_eq!(rule(remote), "capture_nothing");
    let config = good(&sources(&format!(
        "capture = {{ dir = \"/var/evidence\", max_total = \"1MiB\" }}\n{peer}\
         remedies = [{{ do = \"capture\", max_size = \"1MiB\", timeout = \"3s\" }}, {{ do = \"capture\", max_size = \"4KiB\", \
         command = [\"x\"] }}]"
    )));
    let captures: Vec<_> = config.remedies.values().collect();
    let [Remedy::Capture(first), Remedy::Capture(second)] = captures.as_slice() else {
        panic!("{captures:?}")
    };
    assert_eq!(
        (first.dir.to_str(), first.max_total),
        (Some("/var/evidence"), 1 << 20)
    );
    assert_eq!(
        (first.takes(), first.logs, first.sockets),
        (Duration::from_secs(3), 200, true)
    );
    assert_eq!((second.max_size, second.takes()), (4096, Duration::from_secs(10)));
}

#[test]
fn an_audit_has_a_place_wherever_the_node_is_started() {
    let text = |path: &str| format!("[audit]\npath = \"{path}\"\n");
    let report = load(&sources(&text("audit.jsonl"))).unwrap_err().to_string();
    assert!(
        report.contains("audit.jsonl is relative to wherever the node is started"),
        "{report}"
    );
    for good in ["none", "/var/lib/defib/audit.jsonl"] {
        assert!(load(&sources(&text(good))).is_ok(), "{good}");
    }
}

#[test]
fn what_two_nodes_would_restart_by_two_names_is_warned_of() {
    let text = |fleet: &str, bus: &str, remedy: &str| {
        format!(
            r#"
            {bus}
            {fleet}
            [peer.app]
            single_observer = true
            checks.app = {{ type = "heartbeat", node = "node-b", peer = "app" }}
            remedies = [{{ {remedy} }}]
            "#
        )
    };
    let (redis, exec) = (
        "[bus]\nurl = \"redis://redis\"",
        r#"do = "exec", command = ["x"]"#,
    );
    let warned = |fleet: &str, bus: &str, remedy: &str| {
        let warnings = good(&sources(&text(fleet, bus, remedy))).warnings;
        warnings
            .iter()
            .filter(|warning| warning.contains("two names"))
            .count()
    };
    assert_eq!(warned("", redis, exec), 1);
    assert_eq!(warned("[fleet]\npeers = \"shared\"", redis, exec), 0, "one name");
    assert_eq!(warned("", redis, r#"do = "log""#), 0, "it restarts nothing");
    assert_eq!(
        warned("[fleet]\nlease = \"none\"", redis, exec),
        0,
        "nobody is asked"
    );
}

#[test]
fn who_shares_a_peer_follows_its_owner() {
    let peers = r#"
        [peer.port]
        owner = { listens = 9080 }
        [peer.process]
        owner = { pid_file = "/run/app.pid" }
        [peer.unit]
        owner = { unit = "app.service" }
        [peer.container]
        owner = { container = "app" }
        [peer.pulse]
        checks.http = { url = "http://127.0.0.1:8080/health" }
        checks.heartbeat = { channel = "pulse" }
        remedies = [{ do = "healthz" }]
        [peer.notify]
        checks.notify = {}
        [peer.far]
        checks.heartbeat = { node = "node-b" }
    "#;
    let redis = "[bus]\nurl = \"redis://redis\"\n";
    let known = |text: String| -> BTreeMap<String, String> {
        let engine = good(&sources(&text)).engine_settings("b".into());
        let peers = engine.peers.iter();
        peers
            .map(|peer| (peer.name.to_string(), peer.known_as.to_string()))
            .collect()
    };
    let of = |fleet: &str| known(format!("{redis}{fleet}{peers}"));
    let auto = of("");
    for (name, place) in [
        ("port", "net:"),
        ("process", "pid:"),
        ("unit", "host:"),
        ("container", "host:"),
        ("pulse", "net:"),
        ("notify", "pid:"),
    ] {
        let known_as = &auto[name];
        assert!(known_as.starts_with(place), "{name}: {known_as}");
        assert!(known_as.ends_with(&format!("/{name}")), "{name}: {known_as}");
    }
    assert_eq!(auto["far"], "far");
    // Of which machine those containers are, nobody knows here.
    let docker = "[docker]\nhost = \"tcp://docker:2375\"\n";
    assert_eq!(of(docker)["container"], "container");

    let own = of("[fleet]\npeers = \"own\"\n");
    assert_eq!(
        (&*own["port"], &*own["container"], &*own["far"]),
        ("node:node-a/port", "node:node-a/container", "far")
    );
    let shared = of("[fleet]\npeers = \"shared\"\n");
    assert!(
        shared.iter().all(|(name, known_as)| name == known_as),
        "{shared:?}"
    );
}

#[test]
fn every_variable_that_is_read_as_a_secret_is_kept_from_commands() {
    let text = r#"
        [bus]
        url = "redis://redis"
        password = { env = "A" }
        [http]
        admin_listen = "127.0.0.1:7338"
        admin_token = { env = "B" }
        [signing]
        shared = { env = "C" }
        [blocker.deploys]
        http = "http://deployer/"
        bearer = { env = "D" }
        [when.car]
        http = "http://127.0.0.1/"
        bearer = { env = "E" }
        json = "car.seen_s_ago"
        below = 5
        [notify.ops]
        url = { env = "F" }
        bearer = { env = "G" }
        hmac = { env = "H" }
        headers = { "X-Team" = { env = "I" } }
        [peer.feed]
        owner = { listens = 9080 }
        checks.http = { url = "http://127.0.0.1/", bearer = { env = "J" } }
        checks.metric = { url = "http://127.0.0.1/", series = "up", above = 0, bearer = { env = "K" } }
        checks.key = { type = "redis_key", key = "k", redis = "redis://other", password = { env = "L" } }
        remedies = [{ do = "http", url = "http://127.0.0.1/", bearer = { env = "M" } }]
    "#;
    let mut sources = sources(text);
    let names: Vec<String> = ('A'..='M').map(|name| name.to_string()).collect();
    for name in &names {
        sources.env.insert(
            name.clone(),
            "https://secret.example/0123456789abcdef0123456789abcdef".to_owned(),
        );
    }
    let config = good(&sources);
    assert_eq!(config.variables, names);
}
