//! Why a link does not work: nothing there, or a server that answers and refuses; and then, what to change.
//!
//! No text of the server's about HELLO or AUTH is ever repeated: an old server answers an unknown command with
//! "with args beginning with: …", the password among them.

use crate::engine::event::LinkStatus;

/// Longest text of a server's that is repeated, in bytes.
const MAX_TEXT: usize = 160;

/// Why a connection ended, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// It did not come about.
    Connect,
    /// The server ended it.
    Closed,
    /// A PING or PUBLISH went unanswered.
    Silent,
    /// The socket failed.
    Io,
    /// What came was not RESP, or not an answer to what was asked.
    Protocol,
    /// The server says that it cannot serve now (LOADING, MASTERDOWN), or refused.
    Server,
    /// The engine asked for another one.
    Replaced,
}

impl Loss {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Closed => "closed",
            Self::Silent => "silent",
            Self::Io => "io",
            Self::Protocol => "protocol",
            Self::Server => "server",
            Self::Replaced => "replaced",
        }
    }
}

/// Why a link does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Down { loss: Loss, reason: String },
    Refused { cure: String },
}

impl Failure {
    pub(crate) fn down(loss: Loss, reason: impl Into<String>) -> Self {
        Self::Down {
            loss,
            reason: reason.into(),
        }
    }

    pub(crate) fn refused(cure: impl Into<String>) -> Self {
        Self::Refused { cure: cure.into() }
    }

    pub(crate) const fn loss(&self) -> Loss {
        match self {
            Self::Down { loss, .. } => *loss,
            Self::Refused { .. } => Loss::Server,
        }
    }

    /// In words.
    pub(crate) fn into_text(self) -> String {
        match self {
            Self::Down { reason: text, .. } | Self::Refused { cure: text } => text,
        }
    }

    pub(crate) fn into_status(self) -> LinkStatus {
        match self {
            Self::Down { reason, .. } => LinkStatus::Down { reason },
            Self::Refused { cure } => LinkStatus::Refused { cure },
        }
    }
}

/// What the server answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked<'a> {
    Auth,
    Hello,
    Ping,
    Publish(&'a str),
    Subscribe(&'a str),
    /// By the name that ACL rules have for it, in capitals: `CLIENT|LIST`.
    Other(&'static str),
    /// The same of a command that reads keys, and every rule that reading them takes: `+getrange +pttl ~key`.
    Keys(&'static str, &'a str),
}

impl Asked<'_> {
    pub(crate) const fn command(self) -> &'static str {
        match self {
            Self::Auth => "AUTH",
            Self::Hello => "HELLO",
            Self::Ping => "PING",
            Self::Publish(_) => "PUBLISH",
            Self::Subscribe(_) => "SUBSCRIBE",
            Self::Other(command) | Self::Keys(command, _) => command,
        }
    }

    pub(crate) const fn channel(&self) -> Option<&str> {
        match self {
            Self::Publish(channel) | Self::Subscribe(channel) => Some(channel),
            Self::Auth | Self::Hello | Self::Ping | Self::Other(_) | Self::Keys(..) => None,
        }
    }
}

/// What an error answer means, and what to change.
pub(crate) fn judge(error: &[u8], asked: Asked<'_>, user: &str) -> Failure {
    let text = printable(error);
    let code = text.split(' ').next().unwrap_or_default();
    let command = asked.command();
    match code {
        "NOPERM" => Failure::refused(missing_permission(&text, asked, user)),
        "NOAUTH" => Failure::refused(
            "the server asks for a password (NOAUTH): put it into the bus URL, or name the variable or the file \
             that holds it",
        ),
        "WRONGPASS" => Failure::refused(format!(
            "the server refuses user '{user}' with the password given (WRONGPASS): check both, and where the \
             password is read from"
        )),
        "READONLY" => {
            Failure::refused("the server is a read-only replica (READONLY): point the bus URL at its master")
        }
        "OOM" => Failure::refused(
            "the server is out of memory (OOM): raise its maxmemory, or let it evict (maxmemory-policy)",
        ),
        "MISCONF" => Failure::refused(
            "the server cannot write its snapshot to disk (MISCONF): look into its log and its disk, or set \
             stop-writes-on-bgsave-error to no",
        ),
        "DENIED" => Failure::refused(
            "the server is in protected mode (DENIED): set a password there, or protected-mode to no",
        ),
        "LOADING" => Failure::down(Loss::Server, "the server is loading its data set (LOADING)"),
        "MASTERDOWN" => Failure::down(
            Loss::Server,
            "the server is a replica that lost its master (MASTERDOWN)",
        ),
        "MOVED" | "ASK" | "CROSSSLOT" => Failure::refused(format!(
            "the server is one of a cluster, and another one has what {command} asks for ({code}): name that one, or \
             one that is no cluster"
        )),
        "BUSY" | "CLUSTERDOWN" | "TRYAGAIN" | "UNBLOCKED" => Failure::down(
            Loss::Server,
            format!("the server cannot serve {command} now ({code})"),
        ),
        _ if text.contains("max number of clients") => Failure::refused(
            "the server has no room for another client: raise its maxclients, or find who holds them (CLIENT LIST)",
        ),
        _ if matches!(asked, Asked::Auth) && text.contains("without any password") => Failure::refused(
            "a password is given and the server has none: take it out of the bus URL, or set requirepass there",
        ),
        _ if matches!(asked, Asked::Auth | Asked::Hello) => Failure::refused(format!(
            "the server refuses {command} ({code}): check user and password"
        )),
        _ if text.contains("unknown command") => Failure::refused(format!(
            "the server does not know {command}: it is renamed or disabled there, and it is needed here"
        )),
        _ => Failure::refused(format!("the server refuses {command}: {text}")),
    }
}

fn missing_permission(text: &str, asked: Asked<'_>, user: &str) -> String {
    let command = asked.command();
    // A command that is refused hides whether its key is, too: all that is needed at once.
    if let Asked::Keys(_, rules) = asked {
        let what = if text.contains("key") { " there" } else { "" };
        return format!(
            "user '{user}' may not {command}{what} (NOPERM): allow it with ACL SETUSER {user} {rules}"
        );
    }
    let run = format!("+{}", command.to_lowercase());
    match asked.channel() {
        Some(channel) if text.contains("channel") => format!(
            "user '{user}' may not {command} on channel '{channel}' (NOPERM): allow it with \
             ACL SETUSER {user} &{channel}"
        ),
        Some(channel) => format!(
            "user '{user}' may not {command} (NOPERM): allow it with ACL SETUSER {user} {run} &{channel}"
        ),
        None => format!("user '{user}' may not {command} (NOPERM): allow it with ACL SETUSER {user} {run}"),
    }
}

/// A server's text, fit for logs.
pub(crate) fn printable(text: &[u8]) -> String {
    text.iter()
        .take(MAX_TEXT)
        .map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '?',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cure(error: &str, asked: Asked<'_>) -> String {
        match judge(error.as_bytes(), asked, "alice") {
            Failure::Refused { cure } => cure,
            Failure::Down { reason, .. } => panic!("down: {reason}"),
        }
    }

    #[test]
    fn a_missing_permission_names_the_acl_rule() {
        let command = "NOPERM this user has no permissions to run the 'publish' command";
        let channel = "NOPERM this user has no permissions to access one of the channels used as arguments";
        for (error, asked, rule) in [
            (
                command,
                Asked::Publish("defib:g"),
                "ACL SETUSER alice +publish &defib:g",
            ),
            (channel, Asked::Publish("defib:g"), "ACL SETUSER alice &defib:g"),
            (channel, Asked::Subscribe("c"), "ACL SETUSER alice &c"),
            (
                "NOPERM User alice has no permissions to run the 'ping' command",
                Asked::Ping,
                "+ping",
            ),
            (
                "NOPERM User alice has no permissions to run the 'client|list' command",
                Asked::Other("CLIENT|LIST"),
                "ACL SETUSER alice +client|list",
            ),
        ] {
            assert!(cure(error, asked).contains(rule), "{}", cure(error, asked));
        }
    }

    #[test]
    fn other_refusals_name_what_to_change() {
        for (error, asked, word) in [
            ("NOAUTH Authentication required.", Asked::Ping, "password"),
            ("WRONGPASS invalid username-password pair", Asked::Auth, "'alice'"),
            ("READONLY You can't write", Asked::Publish("c"), "master"),
            ("OOM command not allowed", Asked::Publish("c"), "maxmemory"),
            (
                "MISCONF Redis is configured",
                Asked::Ping,
                "stop-writes-on-bgsave-error",
            ),
            (
                "DENIED Redis is running in protected mode",
                Asked::Hello,
                "protected-mode",
            ),
            ("ERR max number of clients reached", Asked::Hello, "maxclients"),
            ("ERR unknown command 'PUBLISH'", Asked::Publish("c"), "renamed"),
            ("ERR something else", Asked::Publish("c"), "something else"),
        ] {
            assert!(cure(error, asked).contains(word), "{}", cure(error, asked));
        }
    }

    #[test]
    fn what_passes_by_itself_is_no_refusal() {
        for error in [
            "LOADING Redis is loading",
            "MASTERDOWN Link with MASTER is down",
            "BUSY script",
        ] {
            let failure = judge(error.as_bytes(), Asked::Ping, "default");
            assert!(
                matches!(
                    failure,
                    Failure::Down {
                        loss: Loss::Server,
                        ..
                    }
                ),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn answers_to_auth_are_never_repeated() {
        let error = b"ERR unknown command 'AUTH', with args beginning with: 'alice' 'hunter2' \x1b[2J";
        for asked in [Asked::Auth, Asked::Hello] {
            assert!(!format!("{:?}", judge(error, asked, "alice")).contains("hunter2"));
        }
        assert_eq!(printable(b"a\x1b\n\xffb"), "a???b");
    }
}
