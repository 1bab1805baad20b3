//! What each part of a node asks of a Redis, as ACL rules name it. The one list: what tries it out, what says what is
//! missing, and `defib doctor --acl` take it from here, and a test runs a node under it.
//!
//! HELLO and AUTH are in no rule: no ACL can forbid them. On servers without HELLO (before 6, which have no ACLs either) INFO
//! or ROLE take its place.

use std::collections::BTreeSet;
use std::fmt;

/// Of every connection: its name in CLIENT LIST. The node works without it.
const NAMED: &[&str] = &["client|setname"];
/// The two links.
const LINKS: &[&str] = &["ping", "publish", "subscribe"];
/// A subscription of our own beside a peer's.
const LISTEN: &[&str] = &["subscribe"];
/// Who is connected.
const CLIENTS: &[&str] = &["client|list"];
/// Ending a peer's connection, after a last look.
const KILL: &[&str] = &["client|kill", "client|list"];
/// How long a key will be there.
const KEY_LEFT: &[&str] = &["pttl"];
/// The same, and what it holds.
const KEY_READ: &[&str] = &["getrange", "pttl"];
/// The same of all that match.
const KEYS_READ: &[&str] = &["getrange", "pttl", "scan"];
/// Another database than the first.
const SELECT: &[&str] = &["select"];
/// The scripts of leases, and what they do.
const LEASES: &[&str] = &["del", "eval", "get", "pexpire", "pttl", "set", "time"];

/// The scripts of the group's leave, and what they do.
pub(crate) const FLEET: &[&str] = &[
    "eval",
    "time",
    "get",
    "set",
    "hget",
    "hset",
    "hdel",
    "hgetall",
    "pttl",
    "pexpire",
    "zadd",
    "zscore",
    "zcount",
    "zremrangebyscore",
];

/// A part that asks something of a Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks<'a> {
    /// The links: publish on a channel, subscribe to it and to others.
    Links {
        /// Where this node publishes.
        publish: &'a str,
        /// What it is subscribed to.
        subscribe: &'a [std::sync::Arc<str>],
    },
    /// A `subscription` check: other clients, and its channels.
    Subscription(&'a [std::sync::Arc<str>]),
    /// The remedy `client_kill`.
    ClientKill,
    /// How long a key will be there, whatever its type.
    KeyLeft(&'a str),
    /// A key that is read.
    Key(&'a str),
    /// Every key that matches.
    Keys(&'a str),
    /// Another database than the first, for any of those.
    Database,
    /// Leases of applications, on keys with these prefixes.
    Leases(&'a [String]),
    /// The group's leave, kept in keys with this prefix.
    Fleet(&'a str),
}

/// Rules; their `Display` can be pasted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    commands: BTreeSet<&'static str>,
    read: BTreeSet<String>,
    written: BTreeSet<String>,
    channels: BTreeSet<String>,
}

impl Rules {
    /// What that part needs.
    pub fn of(asks: Asks<'_>) -> Self {
        let mut rules = Self::default();
        rules.add(asks);
        rules
    }

    /// The same for one more part.
    pub fn add(&mut self, asks: Asks<'_>) {
        self.commands.extend(match asks {
            Asks::Links { .. } => LINKS,
            Asks::Subscription(_) => LISTEN,
            Asks::ClientKill => KILL,
            Asks::KeyLeft(_) => KEY_LEFT,
            Asks::Key(_) => KEY_READ,
            Asks::Keys(_) => KEYS_READ,
            Asks::Database => SELECT,
            Asks::Leases(_) => LEASES,
            Asks::Fleet(_) => FLEET,
        });
        match asks {
            Asks::Links { publish, subscribe } => {
                self.channels.insert(literal(publish));
                self.channels
                    .extend(subscribe.iter().map(|channel| literal(channel)));
            }
            Asks::Subscription(channels) => {
                self.commands.extend(CLIENTS);
                self.channels
                    .extend(channels.iter().map(|channel| literal(channel)));
            }
            Asks::KeyLeft(key) | Asks::Key(key) => {
                self.read.insert(literal(key));
            }
            Asks::Keys(pattern) => {
                self.read.insert(fit(pattern));
            }
            Asks::Leases(prefixes) => {
                let all = prefixes.iter().map(|prefix| format!("{}*", literal(prefix)));
                self.written.extend(all);
            }
            Asks::Fleet(prefix) => {
                self.written.insert(format!("{}*", literal(prefix)));
            }
            Asks::ClientKill | Asks::Database => {}
        }
    }

    /// With what every connection does, although it can do without.
    #[must_use]
    pub fn named(mut self) -> Self {
        self.commands.extend(NAMED);
        self
    }

    /// Its commands, as ACL rules and in lower case: `client|list`.
    pub fn commands(&self) -> impl Iterator<Item = &'static str> {
        self.commands.iter().copied()
    }
}

/// Commands, keys, channels.
impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Who may write some keys need not be able to write those that it only reads; a rule for that is Redis 7's.
        let read = if self.written.is_empty() { "~" } else { "%R~" };
        let read = self
            .read
            .difference(&self.written)
            .map(|key| format!("{read}{key}"));
        let written = self.written.iter().map(|key| format!("~{key}"));
        let channels = self.channels.iter().map(|channel| format!("&{channel}"));
        let commands = self.commands.iter().map(|command| format!("+{command}"));
        let all: Vec<String> = commands.chain(written).chain(read).chain(channels).collect();
        f.write_str(&all.join(" "))
    }
}

/// A name as a rule can tell it, and as it can be pasted: no rule takes a blank or a quote, and what a pattern takes for
/// itself stands for any character.
fn literal(name: &str) -> String {
    fit(name).replace(['*', '[', ']', '^'], "?")
}

/// A pattern as it can be pasted.
fn fit(pattern: &str) -> String {
    let unfit = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '\\');
    pattern.replace(unfit, "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_can_be_pasted_and_name_nothing_twice() {
        let channels = ["can messages".into(), "odd[*]".into()];
        let mut rules = Rules::of(Asks::Links {
            publish: "defib:base",
            subscribe: &channels,
        });
        rules.add(Asks::Key("a\"b"));
        rules.add(Asks::Keys("chat:*:lock"));
        assert_eq!(
            rules.to_string(),
            "+getrange +ping +pttl +publish +scan +subscribe ~a?b ~chat:*:lock &can?messages &defib:base &odd???"
        );
        let prefixes = ["app:lock:".to_owned(), "odd [name]*".to_owned()];
        rules.add(Asks::Leases(&prefixes));
        let text = rules.named().to_string();
        assert!(
            text.contains(" ~app:lock:* ~odd??name??* %R~a?b %R~chat:*:lock &can?messages"),
            "{text}"
        );
        assert!(text.starts_with("+client|setname +del "), "{text}");
    }
}
