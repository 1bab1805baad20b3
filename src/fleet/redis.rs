//! The group's ledger in a Redis server: leave is given by one script, and settled by another. Both go by EVAL, as those
//! of `leases` do: there is no NOSCRIPT after a failover, and no permission for SCRIPT to give.
//!
//! Everything lies under `defib:{GROUP}:fleet:`, in database 0 whatever the URL says, because that is where all nodes of
//! a bus meet; the braces keep it in one slot of a cluster. Every key has an end.
//!
//! | key | what | ends |
//! |---|---|---|
//! | `token` | the last fencing token: the server's microseconds, and more than the one before | a day after the last |
//! | `next` | the last restart of anybody | with `spacing` |
//! | `down` | peer -> who is healing it | with the longest lease |
//! | `known` | peers that leave was given for, by when that is forgotten | an hour after the last |
//! | `budget:PEER` | id -> a restart that counts | with its window |
//! | `done:PEER` | rung and life -> who does, or did, this to it | with the lease; a day after one that was carried out |
//! | `gone:ID` | this was given back: it is not taken any more, however late its request comes | an hour later |
//!
//! A record is `UNTIL TOKEN ID STATEMENT`: the server's part, then the node's own words (JSON: node, boot, peer,
//! incarnation, rung), which a later version may sign. Whoever may write these keys can at worst delay, or lift, what the
//! group adds to a node's own budgets.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::Identity;
use crate::engine::outside::{InTheWay, LeaseAnswer, Mark, Reservation, Settlement};
use crate::redis_client::acl::FLEET;
use crate::redis_client::failure::{Failure, Loss};
use crate::redis_client::resp::Value;
use crate::redis_client::{Asker, Server};

pub(super) const TAKE: &str = include_str!("take.lua");
const SETTLE: &str = include_str!("settle.lua");
/// How long a rung that was carried out is not done again on the same life, and a token is remembered.
const KEPT: Duration = Duration::from_secs(86_400);
/// No request is under way for so long.
const GONE: Duration = Duration::from_secs(3600);
/// Bytes of a life's name in a field: it may be anybody's words.
const MAX_LIFE: usize = 256;

/// The server, asked over a connection of its own.
pub(super) struct Remote {
    asker: Asker,
    user: String,
    prefix: String,
    identity: Identity,
}

/// What the statement of another node is read for.
#[derive(Deserialize)]
struct Said {
    node: String,
}

impl Remote {
    pub(super) fn new(server: Server, group: &str, identity: Identity) -> Self {
        Self {
            user: server.dial.login().user_name().to_owned(),
            asker: Asker::new(server, "fleet"),
            prefix: prefix(group),
            identity,
        }
    }

    pub(super) async fn reserve(&mut self, reservation: &Reservation, within: Duration) -> LeaseAnswer {
        let group = reservation.group;
        let arguments = [
            Identity::id(reservation),
            self.identity.peer(reservation),
            field(reservation),
            self.identity.statement(reservation),
            millis(reservation.lasting),
            reservation.budget.count.to_string(),
            millis(reservation.budget.window),
            millis(group.spacing),
            group.down_percent.to_string(),
            reservation.peers.to_string(),
            if reservation.only_look { "look" } else { "take" }.to_owned(),
            millis(KEPT),
        ];
        let (id, peer) = (&arguments[0], &arguments[1]);
        let keys = [
            self.key("token"),
            self.key("next"),
            self.key("down"),
            self.key("known"),
            self.key(&format!("budget:{peer}")),
            self.key(&format!("done:{peer}")),
            self.key(&format!("gone:{id}")),
        ];
        match self.eval(TAKE, &keys, &arguments, within, answer).await {
            Ok(answer) => answer,
            Err(failure) => self.unavailable(failure),
        }
    }

    /// # Errors
    /// Nobody knows whether it was done.
    pub(super) async fn settle(&mut self, settlement: &Settlement, within: Duration) -> Result<(), Failure> {
        let reservation = &settlement.reservation;
        let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        let mark = match settlement.mark {
            Mark::Leave => "leave",
            Mark::Keep => "keep",
            Mark::Clear => "clear",
        };
        let arguments = [
            Identity::id(reservation),
            self.identity.peer(reservation),
            field(reservation),
            mark.to_owned(),
            yes(settlement.refund),
            yes(settlement.over),
            millis(KEPT),
            millis(GONE),
        ];
        let (id, peer) = (&arguments[0], &arguments[1]);
        let keys = [
            self.key("down"),
            self.key(&format!("budget:{peer}")),
            self.key(&format!("done:{peer}")),
            self.key(&format!("gone:{id}")),
        ];
        let settled = |value: &Value<'_>| matches!(value, Value::Integer(1)).then_some(());
        self.eval(SETTLE, &keys, &arguments, within, settled).await
    }

    async fn eval<T>(
        &mut self,
        script: &str,
        keys: &[String],
        arguments: &[String],
        within: Duration,
        read: impl Fn(&Value<'_>) -> Option<T>,
    ) -> Result<T, Failure> {
        let count = keys.len().to_string();
        let mut words: Vec<&[u8]> = vec![b"EVAL", script.as_bytes(), count.as_bytes()];
        words.extend(keys.iter().chain(arguments).map(String::as_bytes));
        let asked = self.asker.ask("EVAL", &words, within, read);
        // The whole of it: connecting, and a second try on a connection that was closed meanwhile.
        tokio::time::timeout(within, asked).await.unwrap_or_else(|_| {
            Err(Failure::down(
                Loss::Silent,
                format!("no answer within {} ms", within.as_millis()),
            ))
        })
    }

    fn unavailable(&self, failure: Failure) -> LeaseAnswer {
        let place = self.asker.place();
        match failure {
            Failure::Down { reason, .. } => LeaseAnswer::Unavailable {
                why: format!("the group cannot be asked: {place}: {reason}"),
                away: true,
            },
            Failure::Refused { cure } => LeaseAnswer::Unavailable {
                why: self.cure(&place, &cure),
                away: false,
            },
        }
    }

    /// Several permissions are needed, and a server names the first that is missing.
    fn cure(&self, place: &str, said: &str) -> String {
        if said.contains("NOPERM") || said.contains("can't run this command") {
            let (user, rules) = (&self.user, rules(&self.prefix));
            return format!(
                "user '{user}' of {place} may not do what the group's leases need: ACL SETUSER {user} {rules}"
            );
        }
        if said.contains("does not know EVAL") {
            return format!(
                "{place} runs no scripts, as the embedded bus of another node: that node heals what it watches; for more \
                 than one that heals, the group needs a Redis"
            );
        }
        if said.contains("WRONGTYPE") {
            return format!(
                "{place} has a key of another kind under {}: delete it",
                self.prefix
            );
        }
        format!("the group cannot be asked: {place}: {said}")
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// What the group's keys begin with. Braces would end the tag.
pub fn prefix(group: &str) -> String {
    format!("defib:{{{}}}:fleet:", group.replace(['{', '}'], "_"))
}

/// The rules that the scripts need, as ACL SETUSER takes them.
pub(super) fn rules(prefix: &str) -> String {
    let mut rules = format!("~{prefix}*");
    for command in FLEET {
        let _ = write!(rules, " +{command}");
    }
    rules
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

fn field(reservation: &Reservation) -> String {
    let life: String = reservation.incarnation.0.chars().take(MAX_LIFE).collect();
    format!("{} {life}", reservation.rung)
}

fn answer(value: &Value<'_>) -> Option<LeaseAnswer> {
    let Value::List(items) = value else { return None };
    match items.as_slice() {
        [Value::Integer(1), token] => {
            let token = std::str::from_utf8(token.text()?).ok()?.parse().ok()?;
            Some(LeaseAnswer::Granted { token })
        }
        [Value::Integer(0), why, after, record] => {
            let after = std::str::from_utf8(after.text()?).ok()?.parse().ok()?;
            no(why.text()?, Duration::from_millis(after), record.text()?)
        }
        _ => None,
    }
}

fn no(why: &[u8], after: Duration, record: &[u8]) -> Option<LeaseAnswer> {
    let who = node_of(record);
    let refused = |by, why| {
        Some(LeaseAnswer::Refused {
            by,
            why,
            after: Some(after),
        })
    };
    match why {
        b"healing" => refused(InTheWay::Healing, format!("{who} is healing it")),
        b"done" => Some(LeaseAnswer::Done {
            why: format!("{who} has carried this out on this life already"),
        }),
        b"spent" => refused(
            InTheWay::Spent,
            "this peer's restarts are used up in the group".to_owned(),
        ),
        b"spacing" => refused(
            InTheWay::Others,
            "a peer of the group was restarted a moment ago".to_owned(),
        ),
        b"down" => refused(
            InTheWay::Others,
            "other peers of the group are down by our hand".to_owned(),
        ),
        b"gone" => Some(LeaseAnswer::Unavailable {
            why: "it was given back before it was taken".to_owned(),
            away: false,
        }),
        _ => None,
    }
}

/// Whoever can write the key can write anything there.
fn node_of(record: &[u8]) -> String {
    let statement = record.splitn(4, |byte| *byte == b' ').nth(3).unwrap_or_default();
    let said = serde_json::from_slice::<Said>(statement);
    let printable = |name: &str| name.len() <= 63 && name.bytes().all(|byte| byte.is_ascii_graphic());
    match said {
        Ok(Said { node }) if printable(&node) => format!("node {node}"),
        _ => "another node".to_owned(),
    }
}

impl Identity {
    /// Nobody else's, also after a restart of this node.
    fn id(reservation: &Reservation) -> String {
        format!("{}.{}", reservation.run, reservation.number)
    }

    /// What the peer is called in the group.
    fn peer(&self, reservation: &Reservation) -> String {
        if self.own_peers && reservation.local {
            format!("{}/{}", self.node, reservation.name)
        } else {
            reservation.name.to_string()
        }
    }

    fn statement(&self, reservation: &Reservation) -> String {
        serde_json::json!({
            "node": &*self.node,
            "boot": &*reservation.run,
            "peer": self.peer(reservation),
            "incarnation": &*reservation.incarnation.0,
            "rung": reservation.rung,
        })
        .to_string()
    }
}

/// The settlement with its number, for logs.
pub(super) fn shown(reservation: &Arc<Reservation>) -> String {
    format!("leave {} for {}", reservation.number, reservation.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_can_be_pasted_and_name_every_command_of_the_scripts() {
        let prefix = prefix("base{x}station");
        assert_eq!(prefix, "defib:{base_x_station}:fleet:");
        let rules = rules(&prefix);
        for script in [TAKE, SETTLE] {
            for call in script.split("redis.call(\"").skip(1) {
                let command = call.split('"').next().unwrap();
                assert!(rules.contains(&format!(" +{command}")), "{command}");
            }
        }
    }

    #[test]
    fn a_record_of_somebody_elses_names_nobody() {
        let named = br#"17 18 b.1 {"node":"node-b","boot":"b"}"#;
        assert_eq!(node_of(named), "node node-b");
        for forged in [
            &b""[..],
            b"17 18 b.1 ",
            b"17 18 b.1 {\"node\":\"\x1b[2J\"}",
            b"\xff\xff\xff",
            br#"17 18 b.1 {"node":7}"#,
        ] {
            assert_eq!(node_of(forged), "another node");
        }
    }
}
