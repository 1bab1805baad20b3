//! `defib probe`: one question, one line, exit 0 or 1; for exec probes and HEALTHCHECK.

use std::process::ExitCode;
use std::time::Duration;

use super::api::{self, Node};
use super::args::{
    ProbeCommand, ProbeFileArgs, ProbeHealthzArgs, ProbeHttpArgs, ProbeRedisArgs, Unreachable,
};
use super::exit;
use crate::bus::Backend;
use crate::engine::time::Clock as _;
use crate::heartbeat_file::{self, Beat, Content, MAX_BYTES, Stamp, Unread};
use crate::http::explain::span;
use crate::http_client::encoded;
use crate::http_client::{self, Answer, Expect, JsonCondition, Question};
use crate::redis_client::{self as server, Endpoint, Probed};
use crate::runtime::clock;
use crate::telemetry::logs::printable;

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
        ProbeCommand::Healthz(args) => match Node::public(&args.node) {
            Ok(node) => (waited(healthz(&node, args)), args.unreachable),
            Err(unknown) => return ExitCode::from(api::told(&unknown)),
        },
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

async fn healthz(node: &Node, args: &ProbeHealthzArgs) -> Found {
    let path = match &args.peer {
        Some(peer) => format!("/healthz/{}", encoded(peer)),
        None => "/healthz".to_owned(),
    };
    match node.get(&path, args.timeout).await {
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
    let shown = args.path.display();
    match heartbeat_file::read(&args.path) {
        Ok(content) => match judge(&content, clock::MonotonicClock::start().wall(), args.max_age) {
            Ok(why) => Found::Pass(why),
            Err(why) => Found::Fail(format!("{shown}: {why}")),
        },
        Err(Unread::Absent(why)) => Found::Fail(format!("{shown}: {why}")),
        Err(why @ (Unread::Refused(_) | Unread::Failed(_))) => Found::Unreachable(format!("{shown}: {why}")),
    }
}

/// Whether a file is life, at first sight. One that begins like an object is a heartbeat and must be a whole one:
/// a writer that died while writing leaves a truncated file with a fresh modification time. Of any other file,
/// the modification time counts (`touch`). An age of exactly `max_age` is alive, a date in the future is not.
fn judge(content: &Content, now: Duration, max_age: Duration) -> Result<String, String> {
    let heartbeat = content.bytes.trim_ascii_start().starts_with(b"{");
    let (at, what) = if heartbeat {
        (stamped(content)?, "its timestamp")
    } else {
        (content.modified(), "it was modified")
    };
    let Some(age) = now.checked_sub(at) else {
        let ahead = span(at.saturating_sub(now));
        return Err(format!(
            "{what} {ahead} in the future: a date that has not come is no life"
        ));
    };
    if age > max_age {
        return Err(format!("{what} {} ago, more than {}", span(age), span(max_age)));
    }
    Ok(format!("{what} {} ago", span(age)))
}

fn stamped(content: &Content) -> Result<Duration, String> {
    if content.cut {
        return Err(format!("longer than {MAX_BYTES} bytes: not a heartbeat file"));
    }
    match Beat::parse(&content.bytes)?.stamp("timestamp")? {
        Some(Stamp::At(at)) => Ok(at),
        Some(Stamp::Naive) => Err("its timestamp has no offset, so that its age is not known".to_owned()),
        None => Err("it has no `timestamp`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_AGE: Duration = Duration::from_secs(30);

    fn now() -> Duration {
        match Stamp::parse(&"2026-11-22T03:00:30Z".into()) {
            Ok(Stamp::At(now)) => now,
            other => panic!("{other:?}"),
        }
    }

    /// This content, modified at that time.
    fn content(bytes: &[u8], modified: Duration) -> Content {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file.as_file()
            .set_modified(std::time::UNIX_EPOCH + modified)
            .unwrap();
        heartbeat_file::read(file.path()).unwrap()
    }

    fn seen(text: &str) -> Result<String, String> {
        // Modified long ago: only the timestamp can make it alive.
        judge(&content(text.as_bytes(), Duration::ZERO), now(), MAX_AGE)
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
        let other_zone = stamped("2026-11-22T05:00:20+02:00").unwrap();
        assert_eq!(other_zone, "its timestamp 10.0 s ago");
    }

    #[test]
    fn s30_what_is_no_heartbeat_is_no_life() {
        for (text, why) in [
            ("{", "not a whole JSON object"),
            ("{\"timestamp\": \"2026", "not a whole JSON object"),
            (r#"{"pid": 1}"#, "it has no `timestamp`"),
            (r#"{"timestamp": true}"#, "is not ISO 8601"),
            (r#"{"timestamp": "now"}"#, "is not ISO 8601"),
            (r#"{"timestamp": "2026-11-22T03:00:20"}"#, "has no offset"),
            (r#"{"timestamp": "2026-11-22T03:00:31Z"}"#, "in the future"),
        ] {
            let error = seen(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        let error = judge(&content(b"{\xff\xfe}", now()), now(), MAX_AGE).unwrap_err();
        assert!(error.contains("not UTF-8"), "{error}");
        let mut long = vec![b' '; 70_000];
        long[0] = b'{';
        let error = judge(&content(&long, now()), now(), MAX_AGE).unwrap_err();
        assert!(error.contains("longer than"), "{error}");
    }

    #[test]
    fn s30_a_plain_file_lives_by_its_modification() {
        let touched = |text: &[u8], ago| {
            let modified = now() - Duration::from_secs(ago);
            judge(&content(text, modified), now(), MAX_AGE)
        };
        assert_eq!(touched(b"", 30).unwrap(), "it was modified 30.0 s ago");
        assert!(touched(b"ok", 31).unwrap_err().contains("more than 30.0 s"));
        assert_eq!(
            touched(&vec![b'x'; 100_000], 1).unwrap(),
            "it was modified 1.0 s ago"
        );
        let ahead = judge(&content(b"ok", now() + MAX_AGE), now(), MAX_AGE);
        assert!(ahead.unwrap_err().contains("in the future"));
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
