//! What holds of a detector that learns, whatever it hears; `defib record` and `defib simulate`.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use defib::engine::detector::{Detector, Sent};
use defib::engine::settings::{ChenSettings, DetectorSettings, PhiSettings};
use defib::engine::time::Time;
use proptest::prelude::*;

use crate::support::redis_server::{RedisServer, there};
use crate::support::{available, until};

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn phi() -> DetectorSettings {
    DetectorSettings::Phi(PhiSettings::at(S))
}

fn chen() -> DetectorSettings {
    DetectorSettings::Chen(ChenSettings::at(S))
}

fn at(millis: u64) -> Time {
    Time::from_origin(Duration::from_millis(millis))
}

fn slot(slot: u64, interval: Duration, late: Duration) -> Sent {
    Sent { slot, interval, late }
}

/// Anything that a hostile or broken sender can say, at any time.
fn history() -> impl Strategy<Value = Vec<(u64, Option<Sent>, bool)>> {
    let sent = prop::option::weighted(
        0.8,
        (
            prop_oneof![0u64..50, any::<u64>()],
            prop_oneof![Just(1_000u64), Just(100), 0..=3_600_000u64],
            prop_oneof![Just(0u64), 0..5_000u64, any::<u64>()],
        )
            .prop_map(|(slot, interval, late)| Sent {
                slot,
                interval: Duration::from_millis(interval),
                late: Duration::from_millis(late),
            }),
    );
    let gap = prop_oneof![0u64..3_000_000_000, Just(0), any::<u64>()];
    prop::collection::vec((gap, sent, any::<bool>()), 0..120)
}

fn any_settings() -> impl Strategy<Value = DetectorSettings> {
    let extreme = prop_oneof![
        0.0f64..20.0,
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(-1.0),
        Just(1e300)
    ];
    (any::<bool>(), extreme.clone(), extreme, 1u16..300, 0u64..10_000).prop_map(
        |(is_phi, suspect, dead, window, millis)| {
            let length = Duration::from_millis(millis);
            if is_phi {
                let mut settings = PhiSettings::at(S);
                (settings.suspect, settings.dead) = (suspect, dead);
                (settings.pause, settings.min_deviation) = (length, length / 7);
                settings.bounds.window = window;
                DetectorSettings::Phi(settings)
            } else {
                let mut settings = ChenSettings::at(S);
                (settings.margin, settings.dead_margin) = (length, length * 2);
                settings.bounds.window = window;
                DetectorSettings::Chen(settings)
            }
        },
    )
}

proptest! {
    #[test]
    fn bounds_hold_whatever_is_heard(settings in any_settings(), history in history()) {
        let mut detector = Detector::new(settings);
        let mut now = Time::ZERO;
        for (gap, sent, unbroken) in history {
            now = now + Duration::from_nanos(gap);
            detector.arrived(now, sent, unbroken);
            let (suspect, dead) = (detector.suspect_after(), detector.dead_after());
            prop_assert!((2 * S..=10 * S).contains(&suspect), "suspect after {suspect:?}");
            prop_assert!((5 * S..=30 * S).contains(&dead), "dead after {dead:?}");
            prop_assert!(suspect <= dead);
        }
    }

    #[test]
    fn the_order_in_which_samples_came_does_not_matter(
        offs in prop::collection::vec(0u64..300, 1..60), turn in 0usize..60
    ) {
        // The last one is the same: what is expected next is counted from it.
        let hear = |settings, offs: &[u64]| {
            let mut detector = Detector::new(settings);
            detector.arrived(at(0), Some(slot(0, S, Duration::ZERO)), false);
            for (beat, off) in (1u64..).zip(offs) {
                detector.arrived(at(beat * 1_000 + off), Some(slot(beat, S, Duration::ZERO)), true);
            }
            let last = offs.len() as u64 + 1;
            detector.arrived(at(last * 1_000), Some(slot(last, S, Duration::ZERO)), true);
            (detector.suspect_after(), detector.dead_after())
        };
        let mut turned = offs.clone();
        turned.rotate_left(turn % offs.len());
        for settings in [phi(), chen()] {
            prop_assert_eq!(hear(settings, &offs), hear(settings, &turned));
        }
    }

    #[test]
    fn more_jitter_is_never_less_patience(spread in 1u64..200) {
        let hear = |spread: u64| {
            let mut detector = Detector::new(phi());
            for beat in 0..200u64 {
                let off = 400 + if beat % 2 == 0 { spread } else { 0 } - spread / 2;
                detector.arrived(at(beat * 1_000 + off), Some(slot(beat, S, Duration::ZERO)), beat > 0);
            }
            detector.arrived(at(200_400), Some(slot(200, S, Duration::ZERO)), true);
            detector.suspect_after() + MS
        };
        prop_assert!(hear(spread) + MS >= hear(spread - 1));
    }
}

/// `defib` with these arguments and this input: exit code, stdout, stderr.
fn defib(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_defib"))
        .args(arguments)
        .env_remove("DEFIB_CONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // (It may have ended before it has read all.)
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A minute of a sender that beats ten times a second, lost a message, and paused for 1.2 s.
fn emissions() -> String {
    use std::fmt::Write as _;
    let mut csv = "numseq,timestamp_start_send,timestamp_end_send\n".to_owned();
    let mut number = 0;
    for slot in 0..600u64 {
        if (300..312).contains(&slot) {
            continue;
        }
        let sent = 5_000_000_000 + slot * 100_000_000 + slot * 7_919 % 1_000_000;
        writeln!(csv, "{number},{sent},{}", sent + 60_000).unwrap();
        number += if slot == 100 { 2 } else { 1 };
    }
    csv
}

#[test]
fn simulate_says_what_each_detector_would_have_done() {
    let (code, out, err) = defib(&["simulate", "--trace", "-"], &emissions());
    assert_eq!(code, Some(0), "{err}");
    insta::assert_snapshot!(out, @r"
    1 life, 588 heartbeats, 0 of them lost, one every 100ms.
    Emissions, received by a model: delay 300µs plus lognormal (median 200µs, sigma 1), loss 0 %, in order, seed 1.
    A crash is one right after a heartbeat was sent.
    The first 58 heartbeats of each life are learned from and not counted.

    | detector                       |  T_D mean |       p99 |       max | mistakes/h |   T_M mean |       P_A |
    |--------------------------------|----------:|----------:|----------:|-----------:|-----------:|----------:|
    | fixed 2 s                      | 2000.7 ms | 2002.9 ms | 2006.8 ms |          0 |          - |         1 |
    | fixed 5 s                      | 5000.7 ms | 5002.9 ms | 5006.8 ms |          0 |          - |         1 |
    | fixed 2 intervals              |  200.7 ms |  202.9 ms |  206.8 ms |         66 |  1100.4 ms | 0.9796970 |
    | fixed 5 intervals              |  500.7 ms |  502.9 ms |  506.8 ms |         66 |   800.4 ms | 0.9852322 |
    | Chen NFD-E, margin 1 interval  |  112.3 ms |  294.6 ms |  299.3 ms |         66 | 29766.3 ms | 0.4507945 |
    | Bertier                        |  215.9 ms | 1487.7 ms | 1548.2 ms |        199 |   465.9 ms | 0.9742138 |
    | phi as Akka has it (3 s pause) | 3624.7 ms | 3628.3 ms | 3629.5 ms |          0 |          - |         1 |
    | phi as Akka, pause 3 intervals |  453.1 ms |  455.4 ms |  459.5 ms |         66 |   848.1 ms | 0.9843514 |
    | phi as Cassandra has it        | 1850.8 ms | 1871.4 ms | 1875.4 ms |          0 |          - |         1 |
    | ours: deadline, suspect        |  200.7 ms |  202.9 ms |  206.8 ms |         66 |  1100.4 ms | 0.9796970 |
    | ours: deadline, dead           |  500.7 ms |  502.9 ms |  506.8 ms |         66 |   800.4 ms | 0.9852322 |
    | ours: phi, suspect             |  256.7 ms |  257.3 ms |  257.3 ms |         66 |  1043.9 ms | 0.9807393 |
    | ours: phi, dead                |  500.7 ms |  502.9 ms |  506.8 ms |         66 |   800.4 ms | 0.9852322 |
    | ours: chen, suspect            |  250.6 ms |  251.2 ms |  251.2 ms |         66 |  1050.0 ms | 0.9806264 |
    | ours: chen, dead               |  500.8 ms |  502.9 ms |  506.8 ms |         66 |   800.0 ms | 0.9852390 |
    ");
}

#[test]
fn simulate_unpacks_compares_a_configuration_and_draws() {
    let there = Command::new("xz").arg("--version").output().is_ok();
    if !available("xz", there) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(file("send0.csv"), emissions()).unwrap();
    let config = "[peer.feed.checks.heartbeat]\nchannel = \"x\"\ndetector = \"phi\"\n";
    std::fs::write(file("defib.toml"), config).unwrap();
    let plain = defib(&["simulate", "--trace", &file("send0.csv")], "").1;
    let packed = Command::new("xz").arg(file("send0.csv")).status().unwrap();
    assert!(packed.success());
    let (trace, config, svg) = (file("send0.csv.xz"), file("defib.toml"), file("plot.svg"));
    let (code, out, err) = defib(
        &["simulate", "--trace", &trace, "--config", &config, "--svg", &svg],
        "",
    );
    assert_eq!(code, Some(0), "{err}");
    let cells = |out: &str| -> Vec<String> {
        let rows = out
            .lines()
            .filter(|line| line.starts_with("| ours: phi, suspect"));
        rows.flat_map(|row| {
            row.split('|')
                .map(|cell| cell.trim().to_owned())
                .collect::<Vec<_>>()
        })
        .collect()
    };
    assert_eq!(cells(&out), cells(&plain), "{out}");
    assert!(out.contains("| feed/heartbeat, suspect "), "{out}");
    let drawn = std::fs::read_to_string(&svg).unwrap();
    assert_eq!(drawn.matches("<polyline").count(), 7, "{drawn}");

    std::fs::write(file("broken.csv.xz"), "no xz").unwrap();
    let (code, _, err) = defib(&["simulate", "--trace", &file("broken.csv.xz")], "");
    assert_eq!(code, Some(1));
    assert!(err.contains("broken.csv.xz: xz ended with"), "{err}");
}

#[test]
fn simulate_says_what_it_cannot_read() {
    for (arguments, input, expected) in [
        (
            &["simulate", "--trace", "/nowhere"][..],
            "",
            "/nowhere: No such file",
        ),
        (&["simulate", "--trace", "-"], "hello\n", "-: line 1: neither"),
        (
            &["simulate", "--trace", "-"],
            "numseq,timestamp_start_send,timestamp_end_send\n1,2\n",
            "-: line 2: not three numbers",
        ),
        (
            &["simulate", "--trace", "-", "--warm-up", "3"],
            "numseq,timestamp_start_send,timestamp_end_send\n1,5000000000,5000060000\n2,5100000000,5100060000\n\
             3,5200000000,5200060000\n4,5300000000,5300060000\n",
            "too short: the longest life has 4 heartbeats; 5 are needed, 3 of them",
        ),
    ] {
        let (code, out, err) = defib(arguments, input);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        assert!(err.contains(expected), "{err}");
    }
    assert_eq!(
        defib(&["simulate", "--trace", "-", "--loss", "101"], "").0,
        Some(2)
    );
}

struct Recorder(Child);

impl Recorder {
    fn start(arguments: &[&str]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_defib"))
            .arg("record")
            .args(arguments)
            .env_remove("DEFIB_CONFIG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// As Ctrl-C does; what it said.
    fn interrupt(self) -> (Option<i32>, String) {
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.0),
            rustix::process::Signal::INT,
        )
        .unwrap();
        self.end()
    }

    fn end(self) -> (Option<i32>, String) {
        let output = self.0.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

const BEAT: &str = r#"{"v":1,"node":"feed","group":"g","boot":"b7","slot":SLOT,"late_ms":3,"uptime_s":41.5,"wall_ts":1770000000.25,"interval_ms":1000,"peers":[]}"#;

fn publish(redis: &RedisServer, channel: &str, body: &str) {
    let mut stream = std::net::TcpStream::connect(redis.address()).unwrap();
    let (channel_bytes, body_bytes) = (channel.len(), body.len());
    let command =
        format!("*3\r\n$7\r\nPUBLISH\r\n${channel_bytes}\r\n{channel}\r\n${body_bytes}\r\n{body}\r\n");
    stream.write_all(command.as_bytes()).unwrap();
    let mut answer = [0; 64];
    std::io::Read::read(&mut stream, &mut answer).unwrap();
}

fn subscribers(redis: &RedisServer, channel: &str) -> bool {
    redis.tell(&format!("PUBSUB NUMSUB {channel}")).contains('1')
}

#[test]
fn record_writes_what_arrives_and_ends_well_when_interrupted() {
    if !there() {
        return;
    }
    let redis = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.trace");
    let path = file.to_str().unwrap();
    let recorder = Recorder::start(&["--redis", &redis.url(), "--channel", "hb", "-o", path]);
    until("it has subscribed", || subscribers(&redis, "hb"));
    for slot in 0..4 {
        publish(&redis, "hb", &BEAT.replace("SLOT", &slot.to_string()));
    }
    publish(&redis, "hb", "not a heartbeat");
    until("all is in the file", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.lines().count() == 7)
    });
    // The connection is closed under it: it says so in the trace, and goes on.
    redis.tell("CLIENT KILL TYPE pubsub");
    until("it has subscribed again", || subscribers(&redis, "hb"));
    publish(&redis, "hb", &BEAT.replace("SLOT", "9"));
    until("that is in the file, too", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.lines().count() == 9)
    });
    let (code, said) = recorder.interrupt();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("6 heartbeats and other messages from hb written"),
        "{said}"
    );

    let text = std::fs::read_to_string(&file).unwrap();
    let shown: Vec<String> = text
        .lines()
        .map(|line| match line.split_once('\t') {
            Some((arrival, rest)) if !line.starts_with('#') => {
                assert!(arrival.parse::<u64>().is_ok(), "{line}");
                rest.replace('\t', " ")
            }
            _ => line.chars().take(15).collect(),
        })
        .collect();
    assert_eq!(
        [&shown[0], &shown[2], &shown[6], &shown[8]],
        [
            "# defib trace 1",
            "feed b7 0 3 1000 1770000000.250",
            "hb - - - - -",
            "feed b7 9 3 1000 1770000000.250"
        ]
    );
    assert!(shown[7].starts_with("! "), "{shown:?}");
    let (code, out, err) = defib(&["simulate", "--trace", path], "");
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.contains("2 lives, 6 heartbeats") && out.contains("Arrivals, as recorded"),
        "{out}"
    );

    let (code, said) = Recorder::start(&["--redis", &redis.url(), "--channel", "hb", "-o", path]).end();
    assert_eq!(code, Some(1));
    assert!(said.contains("is there already"), "{said}");
}

#[test]
fn record_of_a_group_listens_to_its_channels_and_keeps_within_its_size() {
    if !there() {
        return;
    }
    let redis = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("defib.toml");
    let text = format!(
        "group = \"g\"\nnode = \"n\"\nbus.url = \"{}\"\n[peer.feed.checks.heartbeat]\nchannel = \"hb\"\n",
        redis.url()
    );
    std::fs::write(&config, text).unwrap();
    let file = dir.path().join("out.trace");
    let (config, path) = (config.to_str().unwrap(), file.to_str().unwrap());
    let recorder = Recorder::start(&["--config", config, "-o", path, "--max-size", "1KiB"]);
    until("it has subscribed", || {
        subscribers(&redis, "hb") && subscribers(&redis, "defib:g")
    });
    for slot in 0..40 {
        publish(
            &redis,
            ["hb", "defib:g"][slot % 2],
            &BEAT.replace("SLOT", &slot.to_string()),
        );
    }
    let (code, said) = recorder.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("as large as it may be"), "{said}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        (900..=1_024).contains(&text.len()) && text.ends_with('\n'),
        "{} bytes",
        text.len()
    );

    let (code, said) = Recorder::start(&["--redis", &redis.url(), "--channel", "hb", "--for", "100ms"]).end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the time is over"), "{said}");
    let (code, said) = Recorder::start(&["--redis", "redis://127.0.0.1:1", "--channel", "hb"]).end();
    assert_eq!(code, Some(1));
    assert!(said.contains("127.0.0.1:1: "), "{said}");
}
