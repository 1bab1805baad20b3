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
//! | `done:PEER` | what is done, and the life -> who does, or did, this to it | with the lease; a day after one that was carried out |
//! | `gone:ID` | this was given back: it is not taken any more, however late its request comes | an hour later |
//!
//! A record is `UNTIL TOKEN ID STATEMENT` (`record.rs`). A script cannot verify what nodes signed. So who is refused gets the
//! records that refuse it, verifies those, and asks again without the ones that it does not believe. Whoever may write these
//! keys can at worst delay, or lift, what the group adds to a node's own budgets.

use std::sync::Arc;
use std::time::Duration;

use super::record::{self, Kind, Seal, Statement};
use crate::engine::outside::{InTheWay, LeaseAnswer, Mark, Reservation, Settlement};
use crate::engine::time::{Clock, Time};
use crate::redis_client::acl::{Asks, Rules};
use crate::redis_client::failure::{Failure, Loss};
use crate::redis_client::resp::Value;
use crate::redis_client::{Asker, Server};
use crate::telemetry::metrics::fleet::FleetMetrics;

pub(super) const TAKE: &str = include_str!("take.lua");
pub(super) const SETTLE: &str = include_str!("settle.lua");
/// How long a rung that was carried out is not done again on the same life, and a token is remembered.
const KEPT: Duration = Duration::from_secs(86_400);
/// No request is under way for so long.
const GONE: Duration = Duration::from_secs(3600);
/// Greatest fencing token: up to there Lua's numbers are exact (year 2255, by the server's microseconds).
const MAX_TOKEN: u64 = 9_000_000_000_000_000;
/// So often one question is asked without what is not believed. Each can bring forth other records.
const ROUNDS: usize = 8;

/// The server, asked over a connection of its own.
pub(super) struct Remote {
    asker: Asker,
    user: String,
    prefix: String,
    node: Arc<str>,
    seal: Option<Seal>,
    clock: Arc<dyn Clock>,
    metrics: FleetMetrics,
    /// What the server's clock said last, in ms, and when.
    dated: Option<(u64, Time)>,
}

/// What a script says.
enum Said {
    /// The token; and the field and record that say so, if it was taken before.
    Granted(Option<u64>, Option<(Vec<u8>, Vec<u8>)>),
    Refused(Refusal),
    /// What lasts must be dated anew: this is now.
    Dated(u64),
}

struct Refusal {
    why: String,
    after: Duration,
    /// The fields and records that are in the way.
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Remote {
    pub(super) fn new(
        server: Server,
        (node, group): (Arc<str>, &str),
        seal: Option<Seal>,
        clock: Arc<dyn Clock>,
        metrics: FleetMetrics,
    ) -> Self {
        Self {
            user: server.dial.login().user_name().to_owned(),
            asker: Asker::new(server, "fleet"),
            prefix: prefix(group),
            node,
            seal,
            clock,
            metrics,
            dated: None,
        }
    }

    pub(super) async fn reserve(&mut self, asked: &Reservation, within: Duration) -> LeaseAnswer {
        match tokio::time::timeout(within, self.take(asked, within)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(failure)) => self.unavailable(failure),
            Err(_) => self.unavailable(silent(within)),
        }
    }

    async fn take(&mut self, asked: &Reservation, within: Duration) -> Result<LeaseAnswer, Failure> {
        let mut disbelieved: Vec<Vec<u8>> = Vec::new();
        for _ in 0..ROUNDS {
            let from = self.from();
            let Some(statement) = self.statement(asked, None, from) else {
                return Ok(cannot_sign());
            };
            let (keys, arguments) = self.taking(asked, &statement, from);
            let mut words: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
            words.extend(disbelieved.iter().map(Vec::as_slice));
            match self.eval(TAKE, &keys, &words, within, said).await? {
                Said::Dated(now) => self.dated = Some((now, self.clock.now())),
                Said::Granted(None, _) => {
                    self.give_back(asked, within).await?;
                    return Ok(self.no_token());
                }
                Said::Granted(Some(token), landed) => {
                    let forged = landed.filter(|record| !self.believes(Kind::Done, asked, record));
                    let Some((_, forged)) = forged else {
                        return Ok(LeaseAnswer::Granted { token });
                    };
                    self.disbelieve(&mut disbelieved, vec![forged]);
                }
                Said::Refused(refusal) => {
                    let Some(kind) = refusal.kind() else {
                        return Ok(refusal.answer());
                    };
                    let believed = |record: &(Vec<u8>, Vec<u8>)| self.believes(kind, asked, record);
                    let forged: Vec<Vec<u8>> = refusal
                        .records
                        .iter()
                        .filter(|record| !believed(record))
                        .map(|(_, record)| record.clone())
                        .collect();
                    if forged.is_empty() {
                        return Ok(refusal.answer());
                    }
                    self.disbelieve(&mut disbelieved, forged);
                }
            }
        }
        let why = format!(
            "somebody who is no node of this group writes under {} of {}: nothing is restarted while it goes on",
            self.prefix,
            self.asker.place()
        );
        Ok(LeaseAnswer::Unavailable { why, away: false })
    }

    /// Leave that cannot be used: it must not be in anybody's way.
    async fn give_back(&mut self, asked: &Reservation, within: Duration) -> Result<(), Failure> {
        let settlement = Settlement {
            reservation: Arc::new(asked.clone()),
            mark: Mark::Clear,
            refund: true,
            over: true,
        };
        self.tell(&settlement, within).await
    }

    fn believes(&self, kind: Kind, asked: &Reservation, (field, record): &(Vec<u8>, Vec<u8>)) -> bool {
        let seal = self.seal.as_ref();
        record::is_believed(seal, &self.prefix, kind, &asked.known_as, field, record)
    }

    fn disbelieve(&self, disbelieved: &mut Vec<Vec<u8>>, forged: Vec<Vec<u8>>) {
        self.metrics.disbelieved.inc_by(forged.len() as u64);
        tracing::warn!(
            "{} records under {} were written by no node of this group, and count for nothing",
            forged.len(),
            self.prefix
        );
        disbelieved.extend(forged);
    }

    fn taking(&self, asked: &Reservation, statement: &str, from: u64) -> ([String; 7], [String; 13]) {
        let (group, peer) = (asked.group, &asked.known_as);
        let arguments = [
            id(asked),
            peer.to_string(),
            record::field(&asked.does, &asked.incarnation.0),
            statement.to_owned(),
            millis(asked.lasting),
            asked.budget.count.to_string(),
            millis(asked.budget.window),
            millis(group.spacing),
            group.down_percent.to_string(),
            asked.peers.to_string(),
            if asked.only_look { "look" } else { "take" }.to_owned(),
            millis(KEPT),
            from.to_string(),
        ];
        let keys = [
            self.key("token"),
            self.key("next"),
            self.key("down"),
            self.key("known"),
            self.key(&format!("budget:{peer}")),
            self.key(&format!("done:{peer}")),
            self.key(&format!("gone:{}", arguments[0])),
        ];
        (keys, arguments)
    }

    /// # Errors
    /// Nobody knows whether it was done.
    pub(super) async fn settle(&mut self, settlement: &Settlement, within: Duration) -> Result<(), Failure> {
        tokio::time::timeout(within, self.tell(settlement, within))
            .await
            .unwrap_or_else(|_| Err(silent(within)))
    }

    async fn tell(&mut self, settlement: &Settlement, within: Duration) -> Result<(), Failure> {
        let asked = &settlement.reservation;
        let peer = &asked.known_as;
        let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        let keys = [
            self.key("down"),
            self.key(&format!("budget:{peer}")),
            self.key(&format!("done:{peer}")),
            self.key(&format!("gone:{}", id(asked))),
            self.key("next"),
        ];
        for _ in 0..ROUNDS {
            let from = self.from();
            // Without a key what was done is not kept; the rest ends all the same.
            let statement = self.statement(asked, Some(KEPT), from);
            let mark = match settlement.mark {
                Mark::Keep if statement.is_some() => "keep",
                Mark::Leave | Mark::Keep => "leave",
                Mark::Clear => "clear",
            };
            let arguments = [
                id(asked),
                peer.to_string(),
                record::field(&asked.does, &asked.incarnation.0),
                mark.to_owned(),
                yes(settlement.refund),
                yes(settlement.over),
                millis(KEPT),
                millis(GONE),
                from.to_string(),
                statement.unwrap_or_default(),
            ];
            let words: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
            let settled = |value: &Value<'_>| match value {
                Value::Integer(1) => Some(None),
                value => match said(value)? {
                    Said::Dated(now) => Some(Some(now)),
                    Said::Granted(..) | Said::Refused(_) => None,
                },
            };
            match self.eval(SETTLE, &keys, &words, within, settled).await? {
                None => return Ok(()),
                Some(now) => self.dated = Some((now, self.clock.now())),
            }
        }
        Err(Failure::down(Loss::Protocol, "its clock cannot be followed"))
    }

    /// The server's clock by ours, in ms; 0: by its own, as there is nothing to be signed.
    fn from(&self) -> u64 {
        let since = |at: Time| u64::try_from(self.clock.now().since(at).as_millis()).unwrap_or(u64::MAX);
        match (&self.seal, self.dated) {
            (None, _) => 0,
            (Some(_), Some((then, at))) => then.saturating_add(since(at)),
            // It will say.
            (Some(_), None) => 1,
        }
    }

    /// This node's own words. `None`: it cannot sign them.
    fn statement(&self, asked: &Reservation, kept: Option<Duration>, from: u64) -> Option<String> {
        let statement = Statement::of(&self.node, asked, kept, from);
        statement.written(self.seal.as_ref(), &self.prefix, self.clock.wall())
    }

    async fn eval<T>(
        &mut self,
        script: &str,
        keys: &[String],
        arguments: &[&[u8]],
        within: Duration,
        read: impl Fn(&Value<'_>) -> Option<T>,
    ) -> Result<T, Failure> {
        let count = keys.len().to_string();
        let mut words: Vec<&[u8]> = vec![b"EVAL", script.as_bytes(), count.as_bytes()];
        words.extend(keys.iter().map(String::as_bytes));
        words.extend(arguments);
        self.asker.ask("EVAL", &words, within, read).await
    }

    fn no_token(&self) -> LeaseAnswer {
        LeaseAnswer::Unavailable {
            why: format!(
                "{} has a fencing token under {} that is none of defib's: delete what is there",
                self.asker.place(),
                self.prefix
            ),
            away: false,
        }
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
    Rules::of(Asks::Fleet(prefix)).to_string()
}

/// The whole of it: connecting, a second try on a connection that was closed meanwhile, and asking without what is not
/// believed.
fn silent(within: Duration) -> Failure {
    Failure::down(
        Loss::Silent,
        format!("no answer within {} ms", within.as_millis()),
    )
}

fn cannot_sign() -> LeaseAnswer {
    LeaseAnswer::Unavailable {
        why: "this group signs, and this node has no key to sign with: `defib doctor` says why".to_owned(),
        away: false,
    }
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

/// Nobody else's, also after a restart of this node.
fn id(asked: &Reservation) -> String {
    format!("{}.{}", asked.run, asked.number)
}

fn said(value: &Value<'_>) -> Option<Said> {
    let Value::List(items) = value else { return None };
    let text = |value: &Value<'_>| Some(str::from_utf8(value.text()?).ok()?.to_owned());
    match items.as_slice() {
        [Value::Integer(1), token, landed @ ..] => {
            // Whoever can write there can write any digits.
            let digits = text(token).and_then(|digits| digits.parse().ok());
            let token = digits.filter(|token| *token <= MAX_TOKEN);
            Some(Said::Granted(token, records(landed)?.pop()))
        }
        [Value::Integer(2), now] => Some(Said::Dated(text(now)?.parse().ok()?)),
        [Value::Integer(0), why, after, in_the_way @ ..] => Some(Said::Refused(Refusal {
            why: text(why)?,
            after: Duration::from_millis(text(after)?.parse().ok()?),
            records: records(in_the_way)?,
        })),
        _ => None,
    }
}

fn records(values: &[Value<'_>]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let pairs = values.chunks_exact(2);
    pairs
        .map(|pair| Some((pair[0].text()?.to_vec(), pair[1].text()?.to_vec())))
        .collect()
}

impl Refusal {
    /// What its records are.
    fn kind(&self) -> Option<Kind> {
        match self.why.as_str() {
            "healing" | "down" => Some(Kind::Down),
            "done" => Some(Kind::Done),
            "spent" => Some(Kind::Budget),
            "spacing" => Some(Kind::Next),
            _ => None,
        }
    }

    fn answer(self) -> LeaseAnswer {
        let who = || record::node_of(self.records.first().map_or(&[], |(_, record)| record));
        let (by, why) = match self.why.as_str() {
            "healing" => (InTheWay::Healing, format!("{} is healing it", who())),
            "done" => {
                return LeaseAnswer::Done {
                    why: format!("{} has carried this out on this life already", who()),
                    after: Some(self.after),
                };
            }
            "spent" => {
                let why = "this peer's restarts are used up in the group";
                (InTheWay::Spent, why.to_owned())
            }
            "spacing" => {
                let why = "a peer of the group was restarted a moment ago";
                (InTheWay::Others, why.to_owned())
            }
            "down" => {
                let why = "other peers of the group are down by our hand";
                (InTheWay::Others, why.to_owned())
            }
            _ => {
                return LeaseAnswer::Unavailable {
                    why: "it was given back before it was taken".to_owned(),
                    away: false,
                };
            }
        };
        LeaseAnswer::Refused {
            by,
            why,
            after: Some(self.after),
        }
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
        assert!(rules.ends_with(" ~defib:{base_x_station}:fleet:*"), "{rules}");
        for script in [TAKE, SETTLE] {
            for call in script.split("redis.call(\"").skip(1) {
                let command = call.split('"').next().unwrap();
                assert!(rules.contains(&format!("+{command} ")), "{command}");
            }
        }
    }

    #[test]
    fn a_token_that_is_none_is_no_leave() {
        let granted = |token: &[u8]| {
            let token = token.to_vec();
            let value = Value::List(vec![Value::Integer(1), Value::Bulk(&token)]);
            match said(&value) {
                Some(Said::Granted(token, None)) => token,
                _ => panic!("{value:?}"),
            }
        };
        assert_eq!(granted(b"0"), Some(0));
        assert_eq!(granted(b"1770000000000000"), Some(1_770_000_000_000_000));
        let broken: [&[u8]; 7] = [
            b"nan",
            b"inf",
            b"-1",
            b"18446744073709551615",
            b"18446744073709551616",
            b"9000000000000001",
            b"",
        ];
        for broken in broken {
            assert_eq!(granted(broken), None, "{broken:?}");
        }
    }
}
