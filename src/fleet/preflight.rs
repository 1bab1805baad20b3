//! Whether the group can be asked, and the blockers: nothing is taken.

use std::time::Duration;

use super::blockers::Blocked;
use super::redis::{prefix, rules};
use super::{Group, Settings};
use crate::engine::settings::Settings as Names;
use crate::preflight::{Finding, Look, Part, Subject};
use crate::redis_client::failure::Failure;
use crate::redis_client::resp::Value;
use crate::redis_client::{Asker, Server};

/// Bound on one question; the whole look is bounded by whoever runs it.
const PATIENCE: Duration = Duration::from_secs(5);

/// ARGV: a key of the group's. Answers with the commands that are not permitted on it; with "?" before Redis 7, which
/// cannot be asked so. The key is not declared, because EVAL itself would be refused for it.
const ASK: &str = r#"
if not redis.acl_check_cmd then
  return {"?"}
end
local key, lacks = ARGV[1], {}
for _, words in ipairs({{"time"}, {"get", key}, {"set", key, "x", "PX", "1"}, {"hget", key, "f"}, {"hset", key, "f", "x"},
                        {"hdel", key, "f"}, {"hgetall", key}, {"pttl", key}, {"pexpire", key, "1"}, {"zadd", key, "1", "m"},
                        {"zscore", key, "m"}, {"zcount", key, "0", "1"}, {"zremrangebyscore", key, "0", "1"}}) do
  if not redis.acl_check_cmd(unpack(words)) then
    lacks[#lacks + 1] = words[1]
  end
end
return lacks
"#;

/// The looks at what the guards ask of the outside; none if they ask nobody, as where no remedy restarts anything.
pub fn preflight(settings: &Settings, names: &Names, redis: Option<&Server>) -> Vec<Look> {
    let mut looks = Vec::new();
    if let (true, Some(server)) = (asks_redis(settings, names), redis) {
        let leases = leases(server.clone(), prefix(&names.group));
        looks.push(Subject::node(Part::Fleet).look(leases));
    }
    for blocker in &settings.blockers {
        let asked = blocker.clone();
        let look = async move {
            match asked.look().await {
                Some(Blocked::Unknown(why)) => {
                    Finding::missing(why, "nothing that it may block is healed until it can be asked")
                }
                Some(Blocked::Told(why)) => Finding::noted(format!("blocks now: {why}")),
                None => Finding::OK,
            }
        };
        looks.push(Subject::peer(Part::Blocker, "", blocker.name.as_str()).look(look));
    }
    looks
}

/// The server of the bus is asked for leave: not where no remedy restarts anything.
pub fn asks_redis(settings: &Settings, names: &Names) -> bool {
    let mut rungs = names.peers.iter().flat_map(|peer| &peer.remedies);
    settings.group == Group::Redis && rungs.any(|rung| rung.restarts)
}

async fn leases(server: Server, prefix: String) -> Finding {
    let user = server.dial.login().user_name().to_owned();
    let cure = format!("ACL SETUSER {user} {}", rules(&prefix));
    let place = server.dial.place();
    match lacks(server, &prefix).await {
        Ok(lacks) => match lacks.as_slice() {
            [] => Finding::OK,
            [old] if old == "?" => {
                Finding::noted(format!("{place} is too old to tell; it takes {}", rules(&prefix)))
            }
            lacks => Finding::missing(
                format!(
                    "user '{user}' of {place} may not: {}, under {prefix}",
                    lacks.join(", ")
                ),
                cure,
            ),
        },
        Err(Failure::Refused { cure: said }) if said.contains("NOPERM") => {
            Finding::missing(format!("user '{user}' of {place} may not EVAL"), cure)
        }
        Err(Failure::Refused { cure: said }) if said.contains("does not know EVAL") => Finding::missing(
            format!("{place} runs no scripts, as the embedded bus of another node"),
            "nothing is restarted from here; for more than one node that heals, the group needs a Redis",
        ),
        Err(Failure::Refused { cure }) => Finding::missing(format!("{place} refuses"), cure),
        Err(Failure::Down { reason, .. }) if reason.contains(&place) => Finding::unknown(reason),
        Err(Failure::Down { reason, .. }) => Finding::unknown(format!("{place}: {reason}")),
    }
}

async fn lacks(server: Server, prefix: &str) -> Result<Vec<String>, Failure> {
    let key = format!("{prefix}x");
    let words: &[&[u8]] = &[b"EVAL", ASK.as_bytes(), b"0", key.as_bytes()];
    let mut asker = Asker::new(server, "fleet");
    let read = |value: &Value<'_>| {
        let Value::List(items) = value else { return None };
        let text = |item: &Value<'_>| Some(String::from_utf8_lossy(item.text()?).into_owned());
        items.iter().map(text).collect::<Option<Vec<String>>>()
    };
    asker.ask("EVAL", words, PATIENCE, read).await
}

#[cfg(test)]
mod tests {
    use super::ASK;
    use crate::redis_client::acl::FLEET;

    #[test]
    fn it_is_asked_for_every_command_of_the_scripts() {
        // (Who may not EVAL cannot ask.)
        for command in FLEET.iter().filter(|command| **command != "eval") {
            assert!(ASK.contains(&format!("{{\"{command}\"")), "{command}");
        }
        assert_eq!(ASK.matches("{\"").count(), FLEET.len(), "\"?\" and each of them");
    }
}
