//! The form of a message: JSON, in whose texts `{word}` stands for what happened. Read once, with the configuration.
//!
//! A text that is nothing but one word of a number or a truth becomes that number or truth; everywhere else words are
//! put in as text. They are never parsed again, so what a peer says of itself cannot change a message's form.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// A message's form.
#[derive(Clone, Debug, PartialEq)]
pub enum Template {
    /// A text with words in it.
    Text(Vec<Part>),
    /// A number, true or false.
    Scalar(Value),
    /// An array.
    List(Vec<Template>),
    /// An object.
    Table(Vec<(String, Template)>),
}

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// As it is written.
    Literal(String),
    /// What happened.
    Word(Word),
}

/// What the words must not be taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// Nothing but JSON.
    Json,
    /// Slack's mark-up: `&`, `<` and `>` are written as entities, as Slack asks for. `<!channel>` in a peer's last
    /// words calls nobody.
    Slack,
}

macro_rules! words {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// A word of a template.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Word {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Word {
            /// Every word, with what it stands for.
            pub const ALL: &[(Self, &str, &str)] = &[
                $((Self::$variant, $name, concat!($($doc),+)),)+
            ];
        }
    };
}

words! {
    /// What happened, as on the event stream: `gave_up`
    Event = "event",
    /// Whom it is about and what happened, in one line
    Summary = "summary",
    /// What happened, in words
    Text = "text",
    /// `firing` while the episode is open, else `resolved`
    Status = "status",
    /// `info`, `warning` or `critical`
    Severity = "severity",
    /// The peer; empty if it is about the node
    Peer = "peer",
    /// The node that tells
    Node = "node",
    /// Its group
    Group = "group",
    /// The cause: `peer_deaf`
    Cause = "cause",
    /// What the check said that condemned it
    Evidence = "evidence",
    /// The guard that holds it: `backoff`; else empty
    Guard = "guard",
    /// That guard's words
    Why = "why",
    /// When that could change by itself, as in RFC 3339; else empty
    Next = "next",
    /// The remedy it is about: `docker`; else empty
    Remedy = "remedy",
    /// How the remedy's execution ended: `acted`, `failed`; else empty
    Outcome = "outcome",
    /// Where the evidence lies that was captured before a remedy; else empty
    Captured = "captured",
    /// Number of the episode
    Episode = "episode",
    /// Remedies granted in it
    Attempts = "attempts",
    /// Remedies carried out in it
    Remedies = "remedies",
    /// Earlier changes of it that were left out, because the receiver was slow
    Skipped = "skipped",
    /// True in a dry run
    DryRun = "dry_run",
    /// When the episode began, as in RFC 3339
    Since = "since",
    /// When it happened
    At = "at",
    /// Id of the message: the same at each attempt
    Id = "id",
}

impl Word {
    /// As in a template.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(word, ..)| *word == self)
            .map_or("", |(_, name, _)| name)
    }

    /// The word of that name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, known, _)| *known == name)
            .map(|(word, ..)| *word)
    }
}

/// What is wrong with a text of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// No such word.
    Unknown(String),
    /// A brace that nothing closes, or that nothing opened.
    Brace(char),
}

impl Template {
    /// A text: `{word}` is a word, `{{` and `}}` are braces.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn text(text: &str) -> Result<Self, Wrong> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = if rest[at..].starts_with('{') { '{' } else { '}' };
            let after = &rest[at + 1..];
            if let Some(doubled) = after.strip_prefix(brace) {
                literal.push(brace);
                rest = doubled;
                continue;
            }
            let end = after.find('}').filter(|_| brace == '{');
            let Some(end) = end else {
                return Err(Wrong::Brace(brace));
            };
            let name = &after[..end];
            let word = Word::of(name).ok_or_else(|| Wrong::Unknown(name.to_owned()))?;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(Part::Word(word));
            rest = &after[end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() || parts.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self::Text(parts))
    }

    /// The message, with what the words stand for.
    pub(super) fn fill(&self, escape: Escape, word: &impl Fn(Word) -> Value) -> Value {
        match self {
            Self::Scalar(value) => value.clone(),
            Self::List(list) => list.iter().map(|inner| inner.fill(escape, word)).collect(),
            Self::Table(table) => {
                let filled = table
                    .iter()
                    .map(|(key, inner)| (key.clone(), inner.fill(escape, word)));
                Value::Object(filled.collect::<Map<_, _>>())
            }
            Self::Text(parts) => {
                if let [Part::Word(one)] = parts.as_slice()
                    && let value @ (Value::Number(_) | Value::Bool(_)) = word(*one)
                {
                    return value;
                }
                let said = parts.iter().map(|part| match part {
                    Part::Literal(text) => Cow::Borrowed(text.as_str()),
                    Part::Word(one) => Cow::Owned(match word(*one) {
                        Value::String(text) => escape.apply(text),
                        other => other.to_string(),
                    }),
                });
                Value::String(said.collect())
            }
        }
    }
}

impl Escape {
    fn apply(self, text: String) -> String {
        match self {
            Self::Json => text,
            Self::Slack => text
                .replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &Template, escape: Escape) -> String {
        let word = |word: Word| match word {
            Word::Episode => 7.into(),
            Word::DryRun => false.into(),
            Word::Evidence => "\"}{peer}\\ <!channel> & \u{1}".into(),
            other => other.name().into(),
        };
        template.fill(escape, &word).to_string()
    }

    #[test]
    fn words_are_put_in_once_and_as_json() {
        let text = |text: &str| filled(&Template::text(text).unwrap(), Escape::Json);
        assert_eq!(text("{peer} on {node}"), r#""peer on node""#);
        assert_eq!(text(""), r#""""#);
        assert_eq!(text("{{{peer}}} {{x}}"), r#""{peer} {x}""#);
        assert_eq!(
            text("{evidence}"),
            r#""\"}{peer}\\ <!channel> & \u0001""#,
            "not parsed again"
        );
        assert_eq!(
            (text("{episode}").as_str(), text("{dry_run}").as_str()),
            ("7", "false")
        );
        assert_eq!(text("no. {episode}"), r#""no. 7""#);
        let slack = filled(&Template::text("<b> {evidence}").unwrap(), Escape::Slack);
        assert_eq!(slack, r#""<b> \"}{peer}\\ &lt;!channel&gt; &amp; \u0001""#);
    }

    #[test]
    fn what_is_no_word_is_named() {
        for (text, wrong) in [
            ("{per}", Wrong::Unknown("per".to_owned())),
            ("a {} b", Wrong::Unknown(String::new())),
            ("{peer", Wrong::Brace('{')),
            ("peer}", Wrong::Brace('}')),
            ("{{peer}", Wrong::Brace('}')),
            ("{ peer }", Wrong::Unknown(" peer ".to_owned())),
        ] {
            assert_eq!(Template::text(text), Err(wrong), "{text}");
        }
    }
}
