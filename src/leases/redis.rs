//! Leases in a Redis server: one script a step. Values are as everybody writes them who locks by `SET key token NX PX`,
//! extends and deletes by comparison: such a program can hold the same lock against us, and we against it.
//!
//! Scripts go by EVAL, not EVALSHA: at one call in a third of a lease's time the bytes are nothing, and there is neither
//! a NOSCRIPT after a failover nor a permission for SCRIPT to give.
//!
//! # The fencing token
//!
//! A counter would not do: every key written has an end, and a counter that has ended, or was flushed, begins anew.
//! So the token is the server's time in microseconds, and at least one more than the last one, which is kept beside
//! the lease (`KEY:fence`, with the number of its taking) for a day longer than the lease. It goes back only if that key was
//! lost *and* the server's clock is behind what it was at the last taking: a failover that lost the last write to a
//! server whose clock is behind by more than the time between the two takings.

use std::time::Duration;

use super::store::{Anew, Done, Step};
use super::{FENCE, preflight};
use crate::redis_client::failure::{Failure, Loss};
use crate::redis_client::resp::Value;
use crate::redis_client::{Asker, Server};

/// The last fencing token is kept for so much longer than its lease.
const FENCE_OUTLIVES: Duration = Duration::from_secs(86_400);

/// ARGV: token, milliseconds, number of the taking, milliseconds of the mark, whether it may be taken anew. Integers in
/// Lua are exact below 2^53, which microseconds reach in the year 2255.
const TAKE: &str = r#"
local held = redis.call("get", KEYS[1])
if held and held ~= ARGV[1] then
  return {0, redis.call("pttl", KEYS[1])}
end
if not held and ARGV[5] == "no" then
  return {2, 0}
end
local mark, fence, taking = redis.call("get", KEYS[2]), 0, 0
if mark then
  fence, taking = string.match(mark, "^(%d+) (%d+)$")
  fence, taking = tonumber(fence), tonumber(taking)
  if not fence or fence > 9000000000000000 then
    return redis.error_reply("FENCE " .. KEYS[2] .. " holds no fencing token of defib's: delete it")
  end
end
if not held or tonumber(ARGV[3]) > taking then
  local time = redis.call("time")
  fence = math.max(fence + 1, time[1] * 1000000 + time[2])
  taking = tonumber(ARGV[3])
end
if held then
  if redis.call("pttl", KEYS[1]) < tonumber(ARGV[2]) then
    redis.call("pexpire", KEYS[1], ARGV[2])
  end
else
  redis.call("set", KEYS[1], ARGV[1], "NX", "PX", ARGV[2])
end
fence = string.format("%.0f", fence)
redis.call("set", KEYS[2], fence .. " " .. string.format("%.0f", taking), "PX", ARGV[4])
return {1, fence}
"#;

/// ARGV: token, milliseconds, milliseconds of the mark.
const EXTEND: &str = r#"
if redis.call("get", KEYS[1]) ~= ARGV[1] then
  return 0
end
if redis.call("pttl", KEYS[1]) < tonumber(ARGV[2]) then
  redis.call("pexpire", KEYS[1], ARGV[2])
end
redis.call("pexpire", KEYS[2], ARGV[3])
return 1
"#;

/// ARGV: token, number of the taking. The mark stays: the next fencing token is greater than it.
const RELEASE: &str = r#"
if redis.call("get", KEYS[1]) ~= ARGV[1] then
  return 0
end
local mark = redis.call("get", KEYS[2])
if mark and (tonumber(string.match(mark, "%d+$")) or 0) > tonumber(ARGV[2]) then
  return 0
end
return redis.call("del", KEYS[1])
"#;

/// Of a value nothing is told but that it is there.
const LOOK: &str = r#"
if redis.call("get", KEYS[1]) then
  return {1, redis.call("pttl", KEYS[1])}
end
return {0, 0}
"#;

/// The server, asked over a connection of its own.
pub(super) struct Remote {
    asker: Asker,
    user: String,
    prefixes: Vec<String>,
}

impl Remote {
    pub(super) fn new(server: Server, prefixes: &[String]) -> Self {
        Self {
            user: server.dial.login().user_name().to_owned(),
            asker: Asker::of_keys(server, "lease"),
            prefixes: prefixes.to_vec(),
        }
    }

    pub(super) async fn run(&mut self, step: &Step, within: Duration) -> Result<Done, Failure> {
        let asked = self.ask(step, within);
        // The whole of it: connecting, and a second try on a connection that was closed meanwhile. A connection that is
        // dropped in the middle is not used again.
        let done = tokio::time::timeout(within, asked).await.unwrap_or_else(|_| {
            Err(Failure::down(
                Loss::Silent,
                format!("the server did not answer within {} ms", within.as_millis()),
            ))
        });
        done.map_err(|failure| self.with_cure(failure))
    }

    async fn ask(&mut self, step: &Step, within: Duration) -> Result<Done, Failure> {
        match step {
            Step::Take(claim, ttl, anew) => {
                let arguments = [
                    claim.token.to_string(),
                    millis(*ttl),
                    claim.taking.to_string(),
                    millis(*ttl + FENCE_OUTLIVES),
                    if *anew == Anew::Yes { "yes" } else { "no" }.to_owned(),
                ];
                self.eval(TAKE, &claim.key, &arguments, within, taken).await
            }
            Step::Extend(claim, ttl) => {
                let arguments = [
                    claim.token.to_string(),
                    millis(*ttl),
                    millis(*ttl + FENCE_OUTLIVES),
                ];
                let extended = |value: &Value<'_>| yes(value, Done::Extended, Done::Gone);
                self.eval(EXTEND, &claim.key, &arguments, within, extended).await
            }
            Step::Release(claim) => {
                let arguments = [claim.token.to_string(), claim.taking.to_string()];
                let released = |value: &Value<'_>| yes(value, Done::Released, Done::Gone);
                self.eval(RELEASE, &claim.key, &arguments, within, released).await
            }
            Step::Look(key) => self.eval(LOOK, key, &[], within, looked).await,
        }
    }

    async fn eval(
        &mut self,
        script: &str,
        key: &str,
        arguments: &[String],
        within: Duration,
        read: impl Fn(&Value<'_>) -> Option<Done>,
    ) -> Result<Done, Failure> {
        let fence = format!("{key}{FENCE}");
        let mut words: Vec<&[u8]> = vec![b"EVAL", script.as_bytes(), b"2", key.as_bytes(), fence.as_bytes()];
        words.extend(arguments.iter().map(String::as_bytes));
        self.asker.ask("EVAL", &words, within, read).await
    }

    /// Several permissions are needed, and a server names the first that is missing.
    fn with_cure(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Refused { cure }
                if cure.contains("NOPERM") || cure.contains("can't run this command") =>
            {
                let rules = preflight::rules(&self.prefixes);
                let user = &self.user;
                Failure::refused(format!(
                    "user '{user}' may not do what leases need: ACL SETUSER {user} {rules}"
                ))
            }
            other => other,
        }
    }
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

fn taken(value: &Value<'_>) -> Option<Done> {
    let Value::List(items) = value else { return None };
    match items.as_slice() {
        [Value::Integer(1), fence] => {
            let fence = std::str::from_utf8(fence.text()?).ok()?;
            fence.parse().ok().map(Done::Taken)
        }
        [Value::Integer(0), Value::Integer(pttl)] => Some(Done::Others(span(*pttl))),
        [Value::Integer(2), _] => Some(Done::Gone),
        _ => None,
    }
}

fn looked(value: &Value<'_>) -> Option<Done> {
    let Value::List(items) = value else { return None };
    match items.as_slice() {
        [Value::Integer(1), Value::Integer(pttl)] => Some(Done::Others(span(*pttl))),
        [Value::Integer(0), _] => Some(Done::Free),
        _ => None,
    }
}

const fn yes(value: &Value<'_>, yes: Done, no: Done) -> Option<Done> {
    match value {
        Value::Integer(1) => Some(yes),
        Value::Integer(0) => Some(no),
        _ => None,
    }
}

/// PTTL's answer; -1 is a key without an end.
fn span(pttl: i64) -> Option<Duration> {
    u64::try_from(pttl).ok().map(Duration::from_millis)
}
