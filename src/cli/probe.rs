//! `defib probe`: one question, one line, exit 0 or 1; for exec probes and HEALTHCHECK.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::api::{self, Node};
use super::args::{
    ProbeCommand, ProbeFileArgs, ProbeHealthzArgs, ProbeHttpArgs, ProbeRedisArgs, Unreachable,
};
use super::exit;
use crate::bus::Backend;
use crate::http::explain::span;
use crate::http_client::{self, Answer, Expect, JsonCondition, Question};
use crate::redis_client::{self as server, Endpoint, Probed};
use crate::runtime::clock;
use crate::telemetry::logs::printable;

/// A heartbeat file is small; what is longer is none.
const MAX_FILE: u64 = 64 * 1024;
/// What is read of a probed answer.
const MAX_BODY: usize = 64 * 1024;

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Pass(String),
    Fail(String),
    /// Could not ask: `--unreachable` decides.
    Unreachable(String),
}

/// Asks, prints one line, and exits 0 if the answer passes.
pub fn execute(command: &ProbeCommand) -> ExitCode {
    let (found, unreachable) = match command {
        ProbeCommand::Http(args) => (waited(http(args)), args.unreachable),
        ProbeCommand::File(args) => (file(args), args.unreachable),
        ProbeCommand::Redis(args) => (waited(redis(args)), args.unreachable),
        ProbeCommand::Healthz(args) => (waited(healthz(args)), args.unreachable),
    };
    let (line, code) = verdict(&found, unreachable);
    api::print(&format!("{}\n", printable(&line)));
    ExitCode::from(code)
}

fn verdict(found: &Found, unreachable: Unreachable) -> (String, u8) {
    match (found, unreachable) {
        (Found::Pass(why), _) => (format!("pass: {why}"), exit::OK),
        (Found::Fail(why), _) => (format!("fail: {why}"), exit::FAILED),
        (Found::Unreachable(why), Unreachable::Pass) => {
            (format!("pass (--unreachable=pass): {why}"), exit::OK)
        }
        (Found::Unreachable(why), Unreachable::Fail) => {
            (format!("fail (could not ask): {why}"), exit::FAILED)
        }
    }
}

fn waited(question: impl Future<Output = Found>) -> Found {
    api::on_one_thread(question).unwrap_or_else(|error| Found::Unreachable(format!("{error:#}")))
}

async fn http(args: &ProbeHttpArgs) -> Found {
    let question = Question {
        url: args.url.clone(),
        statuses: args.status.clone(),
        json: condition(args),
        ignore: Vec::new(),
        body_limit: MAX_BODY,
        bearer: None,
    };
    if args.json.is_some() && question.json.is_none() {
        return Found::Fail("--json needs one of --equals, --below and --above".to_owned());
    }
    let answer = http_client::fetch(&question, args.timeout).await;
    if let Err(error) = &answer
        && error.unreachable()
    {
        return Found::Unreachable(error.to_string());
    }
    match http_client::judge(&question, &answer) {
        Answer::Pass => Found::Pass("it answers as it should".to_owned()),
        Answer::Fail(why) => Found::Fail(why),
        Answer::Unknown(why) => Found::Unreachable(why),
    }
}

fn condition(args: &ProbeHttpArgs) -> Option<JsonCondition> {
    let text = |text: &String| serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into());
    let expect = match (&args.equals, args.below, args.above) {
        (Some(value), _, _) => Expect::Equals(text(value)),
        (None, Some(bound), _) => Expect::Below(bound),
        (None, None, Some(bound)) => Expect::Above(bound),
        (None, None, None) => return None,
    };
    Some(JsonCondition {
        path: args.json.clone()?,
        expect,
    })
}

async fn healthz(args: &ProbeHealthzArgs) -> Found {
    let path = match &args.peer {
        Some(peer) => format!("/healthz/{}", api::encoded(peer)),
        None => "/healthz".to_owned(),
    };
    match Node::public(&args.node).get(&path, args.timeout).await {
        Ok(reply) => {
            let body = String::from_utf8_lossy(&reply.body);
            let said = body.trim_end().trim_start_matches("ok: ").to_owned();
            match reply.status {
                200 => Found::Pass(said),
                503 => Found::Fail(said),
                // Somebody else listens there: that says nothing about the peer.
                status => {
                    Found::Unreachable(format!("{path} answers with status {status}: is that a defib?"))
                }
            }
        }
        Err(error) => Found::Unreachable(format!("{error:#}")),
    }
}

async fn redis(args: &ProbeRedisArgs) -> Found {
    let endpoint = match endpoint(args) {
        Ok(endpoint) => endpoint,
        Err(why) => return Found::Fail(why),
    };
    match server::probe(&endpoint, args.timeout).await {
        Probed::Serves(why) => Found::Pass(why),
        Probed::Replica(why) => Found::Fail(why),
        Probed::Failed(why) => Found::Unreachable(why),
    }
}

fn endpoint(args: &ProbeRedisArgs) -> Result<Endpoint, String> {
    if let Some(url) = &args.url {
        return Endpoint::parse(url).map_err(|error| format!("the URL cannot be read: {error}"));
    }
    match args.config.load(false) {
        Ok(config) => match config.bus.backend {
            Backend::Redis(endpoint) => Ok(endpoint),
            Backend::Embedded { .. } => Err(
                "the configured bus is embedded in the node: ask `defib probe healthz`, or give a URL"
                    .to_owned(),
            ),
        },
        Err(report) => Err(format!(
            "the configuration has {} mistakes (`defib check-config` lists them); give a URL instead",
            report.count()
        )),
    }
}

fn file(args: &ProbeFileArgs) -> Found {
    match read(&args.path) {
        Ok((content, modified)) => match judge(&content, modified, clock::wall_now(), args.max_age) {
            Ok(why) => Found::Pass(why),
            Err(why) => Found::Fail(format!("{}: {why}", args.path.display())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Found::Fail(format!("{} is missing", args.path.display()))
        }
        Err(error) => Found::Unreachable(format!("cannot read {}: {error}", args.path.display())),
    }
}

fn read(path: &Path) -> io::Result<(Vec<u8>, SystemTime)> {
    // A FIFO in its place must not hold the probe for ever.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut content = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut content)?;
    Ok((content, found.modified()?))
}

/// kstlib's format; other fields do not matter.
#[derive(Deserialize)]
struct HeartbeatFile {
    timestamp: String,
}

/// Whether a file is life, at first sight. One that begins like an object is a heartbeat and must be a whole one:
/// a writer that died while writing leaves a truncated file with a fresh modification time. Of any other file,
/// the modification time counts (`touch`). An age of exactly `max_age` is alive, a date in the future is not.
fn judge(content: &[u8], modified: SystemTime, now: SystemTime, max_age: Duration) -> Result<String, String> {
    if content.len() as u64 > MAX_FILE {
        return Err(format!("longer than {MAX_FILE} bytes: not a heartbeat file"));
    }
    let heartbeat = content.trim_ascii_start().starts_with(b"{");
    let (at, what) = if heartbeat {
        let parsed: HeartbeatFile = serde_json::from_slice(content)
            .map_err(|error| format!("not a whole heartbeat (an object with a `timestamp`): {error}"))?;
        (timestamp(&parsed.timestamp)?, "its timestamp")
    } else {
        (modified, "it was modified")
    };
    let age = now.duration_since(at).map_err(|ahead| {
        format!(
            "{what} {} in the future: a date that has not come is no life",
            span(ahead.duration())
        )
    })?;
    if age > max_age {
        return Err(format!("{what} {} ago, more than {}", span(age), span(max_age)));
    }
    Ok(format!("{what} {} ago", span(age)))
}

/// ISO 8601 with an offset, as Python's `datetime.now(UTC).isoformat()` writes it.
fn timestamp(text: &str) -> Result<SystemTime, String> {
    let wrong =
        || format!("its timestamp {text:?} is not ISO 8601 with an offset, as in 2026-11-22T03:00:00+00:00");
    if let Ok(at) = humantime::parse_rfc3339(text) {
        return Ok(at);
    }
    let sign_at = text
        .rfind(['+', '-'])
        .filter(|at| *at >= "2026-11-22T03:00:00".len())
        .ok_or_else(wrong)?;
    let (local, offset) = text.split_at(sign_at);
    let at = humantime::parse_rfc3339(&format!("{local}Z")).map_err(|_| wrong())?;
    let digits: String = offset[1..].chars().filter(|c| *c != ':').collect();
    let whole =
        matches!((digits.len(), offset.len()), (4, 5 | 6)) && digits.bytes().all(|b| b.is_ascii_digit());
    let minutes = digits
        .get(2..)
        .and_then(|minutes| minutes.parse::<u64>().ok())
        .filter(|minutes| *minutes < 60);
    let hours = digits
        .get(..2)
        .and_then(|hours| hours.parse::<u64>().ok())
        .filter(|hours| *hours < 24);
    let (Some(hours), Some(minutes), true) = (hours, minutes, whole) else {
        return Err(wrong());
    };
    let shift = Duration::from_secs(hours * 3600 + minutes * 60);
    let utc = if offset.starts_with('+') {
        at.checked_sub(shift)
    } else {
        at.checked_add(shift)
    };
    utc.ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_AGE: Duration = Duration::from_secs(30);

    fn now() -> SystemTime {
        humantime::parse_rfc3339("2026-11-22T03:00:30Z").unwrap()
    }

    fn seen(content: &str) -> Result<String, String> {
        // Modified long ago: only the timestamp can make it alive.
        judge(content.as_bytes(), SystemTime::UNIX_EPOCH, now(), MAX_AGE)
    }

    fn stamped(timestamp: &str) -> Result<String, String> {
        seen(&format!(
            r#"{{"timestamp": "{timestamp}", "pid": 7, "hostname": "h", "metadata": {{}}, "more": [1]}}"#
        ))
    }

    #[test]
    fn s30_age_equal_to_max_age_is_alive() {
        assert_eq!(
            stamped("2026-11-22T03:00:00+00:00").unwrap(),
            "its timestamp 30.0 s ago"
        );
        assert!(
            stamped("2026-11-22T02:59:59.999999+00:00")
                .unwrap_err()
                .contains("ago, more than 30.0 s")
        );
    }

    #[test]
    fn s30_offsets_are_honoured() {
        for same in [
            "2026-11-22T03:00:20Z",
            "2026-11-22T05:00:20+02:00",
            "2026-11-21T22:30:20.000-0430",
        ] {
            assert_eq!(stamped(same).unwrap(), "its timestamp 10.0 s ago", "{same}");
        }
    }

    #[test]
    fn s30_what_is_no_heartbeat_is_no_life() {
        for timestamp in [
            "",
            "now",
            "2026-11-22",
            "2026-11-22T03:00:20",
            "2026-11-22T03:00:20+2:00",
            "2026-11-22T03:00:20+99:00",
            "2026-11-22T03:00:20+0200x",
            "2026-13-22T03:00:20+00:00",
            "20€6-11-22T03:00:20+00:00",
        ] {
            assert!(
                stamped(timestamp).unwrap_err().contains("ISO 8601"),
                "{timestamp}"
            );
        }
        assert!(
            stamped("2026-11-22T03:00:31+00:00")
                .unwrap_err()
                .contains("in the future")
        );
        for content in [
            "{",
            r#"{"pid": 1}"#,
            r#"{"timestamp": 5}"#,
            "{\"timestamp\": \"2026",
        ] {
            assert!(
                seen(content).unwrap_err().contains("not a whole heartbeat"),
                "{content}"
            );
        }
        let binary = judge(b"{\xff\xfe}", now(), now(), MAX_AGE).unwrap_err();
        assert!(binary.contains("not a whole heartbeat"), "{binary}");
        let long = judge(&vec![b' '; 70_000], now(), now(), MAX_AGE).unwrap_err();
        assert!(long.contains("longer than"), "{long}");
    }

    #[test]
    fn s30_a_plain_file_lives_by_its_modification() {
        let touched = |ago| judge(b"", now() - Duration::from_secs(ago), now(), MAX_AGE);
        assert_eq!(touched(30).unwrap(), "it was modified 30.0 s ago");
        assert!(touched(31).unwrap_err().contains("more than 30.0 s"));
        assert!(
            judge(b"ok", now() + MAX_AGE, now(), MAX_AGE)
                .unwrap_err()
                .contains("in the future")
        );
    }

    #[test]
    fn what_could_not_be_asked_is_for_the_caller_to_judge() {
        let away = Found::Unreachable("connection refused".to_owned());
        assert_eq!(verdict(&away, Unreachable::Pass).1, exit::OK);
        assert_eq!(verdict(&away, Unreachable::Fail).1, exit::FAILED);
        assert_eq!(
            verdict(&Found::Fail("x".to_owned()), Unreachable::Pass).1,
            exit::FAILED
        );
    }
}
