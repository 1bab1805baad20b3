//! Whether leases can work here: the server is asked what it would permit, and nothing is written.

use std::time::Duration;

use super::Settings;
use crate::preflight::{Finding, Look, Part, Subject};
use crate::redis_client::acl::{Asks, Rules};
use crate::redis_client::failure::Failure;
use crate::redis_client::resp::Value;
use crate::redis_client::{Asker, Server};

/// Bound on one question; the whole look is bounded by whoever runs it.
const PATIENCE: Duration = Duration::from_secs(5);

/// ARGV: a key of each prefix. Answers with the commands that are not permitted on it; with nothing before Redis 7,
/// which cannot be asked so. The keys are not declared, because EVAL itself would be refused for them.
const ASK: &str = r#"
local lacks = {}
if not redis.acl_check_cmd then
  return {"?"}
end
for _, key in ipairs(ARGV) do
  for _, words in ipairs({{"get", key}, {"set", key, "x", "NX", "PX", "1"}, {"pttl", key},
                          {"pexpire", key, "1"}, {"del", key}, {"time"}}) do
    if not redis.acl_check_cmd(unpack(words)) then
      lacks[#lacks + 1] = words[1] .. " " .. (words[2] or "")
    end
  end
end
return lacks
"#;

/// The looks at what leases need; none if there are none, or if they are in this process.
pub fn preflight(settings: &Settings, redis: Option<&Server>) -> Vec<Look> {
    let (false, Some(server)) = (settings.prefixes.is_empty(), redis) else {
        return Vec::new();
    };
    let (server, prefixes) = (server.clone(), settings.prefixes.clone());
    let look = async move {
        let user = server.dial.login().user_name().to_owned();
        let cure = format!("ACL SETUSER {user} {}", rules(&prefixes));
        let place = server.dial.place();
        match lacks(server, &prefixes).await {
            Ok(lacks) => match lacks.as_slice() {
                [] => Finding::OK,
                [old] if old == "?" => Finding::noted(format!(
                    "{place} is too old to tell; they need {}",
                    rules(&prefixes)
                )),
                lacks => Finding::missing(
                    format!("user '{user}' of {place} may not: {}", lacks.join(", ")),
                    cure,
                ),
            },
            Err(Failure::Refused { cure: said }) if said.contains("NOPERM") => {
                Finding::missing(format!("user '{user}' of {place} may not EVAL"), cure)
            }
            Err(Failure::Refused { cure }) => Finding::missing(format!("{place} refuses"), cure),
            Err(Failure::Down { reason, .. }) => Finding::unknown(format!("{place}: {reason}")),
        }
    };
    vec![Subject::node(Part::Leases).look(look)]
}

async fn lacks(server: Server, prefixes: &[String]) -> Result<Vec<String>, Failure> {
    let keys: Vec<String> = prefixes.iter().map(|prefix| format!("{prefix}x")).collect();
    let mut words: Vec<&[u8]> = vec![b"EVAL", ASK.as_bytes(), b"0"];
    words.extend(keys.iter().map(String::as_bytes));
    let mut asker = Asker::new(server, "lease");
    let read = |value: &Value<'_>| {
        let Value::List(items) = value else { return None };
        let text = |item: &Value<'_>| Some(String::from_utf8_lossy(item.text()?).trim().to_owned());
        items.iter().map(text).collect::<Option<Vec<String>>>()
    };
    asker.ask("EVAL", &words, PATIENCE, read).await
}

/// The rules that leases need, as ACL SETUSER takes them.
pub(super) fn rules(prefixes: &[String]) -> String {
    Rules::of(Asks::Leases(prefixes)).to_string()
}
