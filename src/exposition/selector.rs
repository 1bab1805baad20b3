//! Which series are meant, written as in PromQL: `connections_open{kind="ws",handler!="/health"}`.

use std::fmt;
use std::str::FromStr;

use winnow::ascii::space0;
use winnow::combinator::{alt, delimited, eof, opt, separated, terminated};
use winnow::prelude::*;

use super::grammar::{Type, name, quoted, unescape};

/// A metric's name, and what its labels must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    name: String,
    matchers: Vec<Matcher>,
}

/// What one label must be. A label that a series does not have is an empty one, as in PromQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matcher {
    /// The label.
    pub label: String,
    /// `=`, else `!=`.
    pub equal: bool,
    /// To this.
    pub value: String,
}

/// The text is no selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no series, as in open_connections or open_connections{{kind=\"ws\",port!=\"0\"}}; labels take = and !="
)]
pub struct SelectorError;

impl Selector {
    /// The sample's name: of an OpenMetrics counter with its `_total`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a series with these labels is meant.
    pub fn selects(&self, labels: &[(String, String)]) -> bool {
        self.matchers.iter().all(|matcher| {
            let has = labels.iter().find(|(name, _)| *name == matcher.label);
            let value = has.map_or("", |(_, value)| value);
            (value == matcher.value) == matcher.equal
        })
    }

    /// Whether a family of this name and type holds what is meant.
    pub(super) fn is_of(&self, family: &str, kind: Type) -> bool {
        let ending = self.name.strip_prefix(family);
        ending.is_some_and(|ending| kind.endings().contains(&ending))
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let equal = delimited(space0, alt(("=".value(true), "!=".value(false))), space0);
        let matcher = (name, equal, quoted).map(|(label, equal, value)| Matcher {
            label: label.to_owned(),
            equal,
            value: unescape(value),
        });
        let comma = || (space0, ',', space0);
        let all = terminated(separated(0.., matcher, comma()), opt(comma()));
        let all = delimited((space0, '{', space0), all, (space0, '}'));
        let (name, matchers): (&str, Option<Vec<Matcher>>) =
            delimited(space0, (name, opt(all)), (space0, eof))
                .parse(text)
                .map_err(|_| SelectorError)?;
        Ok(Self {
            name: name.to_owned(),
            matchers: matchers.unwrap_or_default(),
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (index, matcher) in self.matchers.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let sign = if matcher.equal { "=" } else { "!=" };
            write!(f, "{open}{}{sign}{:?}", matcher.label, matcher.value)?;
        }
        f.write_str(if self.matchers.is_empty() { "" } else { "}" })
    }
}
