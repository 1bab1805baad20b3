//! One line of a page. What the two formats do not share (blanks, where a timestamp's dot is, exemplars) is taken
//! from either.

use winnow::ascii::{space0, space1};
use winnow::combinator::{alt, delimited, eof, opt, preceded, repeat, separated, separated_pair, terminated};
use winnow::prelude::*;
use winnow::token::{any, none_of, one_of, rest, take_till, take_while};

use super::{Kind, Labels, Selector};

/// What a line says.
#[derive(Debug, PartialEq)]
pub(super) enum Line<'l> {
    /// A comment, a help text, a unit, or nothing at all.
    Nothing,
    /// `# TYPE`.
    Type { family: &'l str, kind: Type },
    /// `# EOF`.
    End,
    /// A value.
    Sample(Sample<'l>),
}

/// The types of both formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Counter,
    Gauge,
    /// Histogram or summary: counts and sums that grow.
    Distribution,
    /// Untyped, and whatever else there will be.
    Other,
}

/// A value.
#[derive(Debug, PartialEq)]
pub(super) struct Sample<'l> {
    pub(super) name: &'l str,
    labels: Vec<(&'l str, &'l str)>,
    pub(super) value: f64,
}

/// Reads a line without its end. `None`: it is of neither format.
pub(super) fn line(line: &str) -> Option<Line<'_>> {
    delimited(space0, alt((comment, sample, nothing)), (space0, eof))
        .parse(line)
        .ok()
}

fn nothing<'l>(input: &mut &'l str) -> winnow::Result<Line<'l>> {
    eof.value(()).parse_next(input)?;
    Ok(Line::Nothing)
}

/// Whatever begins with `#` is a comment, unless it is one of the words that mean something.
fn comment<'l>(input: &mut &'l str) -> winnow::Result<Line<'l>> {
    let text = preceded('#', rest).parse_next(input)?;
    if text.trim_ascii() == "EOF" {
        return Ok(Line::End);
    }
    let declared = (
        space0,
        "TYPE",
        space1,
        name,
        space1,
        take_till(1.., [' ', '\t']),
        space0,
    );
    let declared = declared.map(|(_, _, _, family, _, kind, _)| (family, kind));
    let mut declared = terminated(declared, eof);
    Ok(match declared.parse(text) {
        Ok((family, kind)) => Line::Type {
            family,
            kind: Type::named(kind),
        },
        Err(_) => Line::Nothing,
    })
}

fn sample<'l>(input: &mut &'l str) -> winnow::Result<Line<'l>> {
    let (name, labels) = (name, preceded(space0, opt(labels))).parse_next(input)?;
    let value = preceded(space0, number).parse_next(input)?;
    let timestamp = opt(preceded(space1, number));
    let exemplar = opt((
        space0,
        '#',
        space1,
        self::labels,
        space1,
        number,
        opt(preceded(space1, number)),
    ));
    (timestamp, exemplar).parse_next(input)?;
    Ok(Line::Sample(Sample {
        name,
        labels: labels.unwrap_or_default(),
        value,
    }))
}

/// Of a metric: `[a-zA-Z_:][a-zA-Z0-9_:]*`. A label's has no colon, and is let pass with one.
pub(super) fn name<'l>(input: &mut &'l str) -> winnow::Result<&'l str> {
    let first = one_of(('a'..='z', 'A'..='Z', '_', ':'));
    let more = take_while(0.., ('a'..='z', 'A'..='Z', '0'..='9', '_', ':'));
    (first, more).take().parse_next(input)
}

/// `{a="b",c="d"}`; Java's client writes a comma after the last one.
fn labels<'l>(input: &mut &'l str) -> winnow::Result<Vec<(&'l str, &'l str)>> {
    let label = separated_pair(name, (space0, '=', space0), quoted);
    let comma = || (space0, ',', space0);
    let all = terminated(separated(0.., label, comma()), opt(comma()));
    delimited(('{', space0), all, (space0, '}')).parse_next(input)
}

/// What stands between two quotes, still escaped.
pub(super) fn quoted<'l>(input: &mut &'l str) -> winnow::Result<&'l str> {
    let plain = none_of(['"', '\\']).void();
    let escaped = ('\\', any).void();
    delimited(
        '"',
        repeat::<_, _, (), _, _>(0.., alt((plain, escaped))).take(),
        '"',
    )
    .parse_next(input)
}

/// As Go's `ParseFloat`, but for hexadecimal: `1`, `1.5e+9`, `+Inf`, `NaN`.
fn number(input: &mut &str) -> winnow::Result<f64> {
    let word = take_while(1.., ('a'..='z', 'A'..='Z', '0'..='9', '+', '-', '.'));
    word.parse_to().parse_next(input)
}

/// A backslash before anything but a backslash, a quote or `n` is just that, as Prometheus takes it.
pub(super) fn unescape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(char) = chars.next() {
        match (char, chars.as_str().chars().next()) {
            ('\\', Some(escaped @ ('\\' | '"' | 'n'))) => {
                out.push(if escaped == 'n' { '\n' } else { escaped });
                chars.next();
            }
            _ => out.push(char),
        }
    }
    out
}

impl Sample<'_> {
    /// Sorted, unescaped. An empty value is the same as no label.
    pub(super) fn labels(&self) -> Labels {
        let set = self.labels.iter().filter(|(_, value)| !value.is_empty());
        let mut labels: Labels = set
            .map(|(name, raw)| ((*name).to_owned(), unescape(raw)))
            .collect();
        labels.sort_unstable();
        labels
    }
}

impl Type {
    fn named(word: &str) -> Self {
        match word {
            "counter" => Self::Counter,
            "gauge" | "gaugehistogram" | "stateset" | "info" => Self::Gauge,
            "histogram" | "summary" => Self::Distribution,
            _ => Self::Other,
        }
    }

    /// The endings that a sample's name may have behind that of its family.
    pub(super) const fn endings(self) -> &'static [&'static str] {
        match self {
            Self::Counter => &["", "_total"],
            // The name alone: a summary's quantiles.
            Self::Distribution => &["", "_bucket", "_count", "_sum"],
            Self::Gauge | Self::Other => &[""],
        }
    }

    /// What that makes of the series that was asked for.
    pub(super) fn of(self, family: &str, wanted: &Selector) -> Kind {
        match self {
            Self::Counter => Kind::Cumulative,
            // A sum of observations may fall when there are negative ones; nobody's does that is worth a rate.
            Self::Distribution if wanted.name() != family => Kind::Cumulative,
            Self::Distribution | Self::Gauge => Kind::Gauge,
            Self::Other => Kind::Unknown,
        }
    }
}
