//! What an application says of itself on its metrics page: Prometheus text (version 0.0.4) and OpenMetrics (1.0).
//! A leaf: it fetches nothing and knows no peers.
//!
//! [`Page::parse`] reads both formats by one grammar (`grammar.rs`), and a page with one line that is of neither is
//! refused as a whole, as Prometheus itself does: who skips a line reads a truncated or foreign page as a series
//! that is missing, or as a number that is too small. For the same reason the last line must have its end: `199`
//! cut off after `1` is a number, too.

mod grammar;
mod selector;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

pub use selector::{Matcher, Selector, SelectorError};

/// Series that one selector may match; a page with more is refused, because what is kept of each run grows with it.
pub const MAX_SERIES: usize = 4096;

/// The series of a page that were asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// In the order of the page; no labels twice.
    pub series: Vec<Series>,
    /// What the page says the metric is, if it does.
    pub kind: Option<Kind>,
    /// Series of that name whose labels are others, and of that family whose name is another.
    pub others: usize,
}

/// One series: its labels, by which it is known again on the next page, and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Sorted by name.
    pub labels: Labels,
    /// May be infinite or NaN.
    pub value: f64,
}

/// Names and values.
pub type Labels = Vec<(String, String)>;

/// What a metric is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while its process lives (also the counts and sums of histograms and summaries).
    Cumulative,
    /// It goes up and down.
    Gauge,
    /// The page calls it unknown or untyped.
    Unknown,
}

/// Why a page cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Not text.
    #[error("it is not UTF-8 text (compressed, or protobuf?)")]
    NotText,
    /// A line that is of neither format.
    #[error("line {line} is neither Prometheus text nor OpenMetrics: {excerpt}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// Its begin, quoted.
        excerpt: String,
    },
    /// It ends in the middle of a line, or goes on after `# EOF`.
    #[error("line {line}: {what}")]
    End {
        /// Counted from 1.
        line: usize,
        /// Which of the two.
        what: &'static str,
    },
    /// The same series twice: which value holds?
    #[error("line {line}: this series is there twice")]
    Twice {
        /// Of the second one.
        line: usize,
    },
    /// More series match than are kept.
    #[error("more than {MAX_SERIES} series match: add labels")]
    TooMany,
}

/// Letters of a line that are shown.
const EXCERPT: usize = 60;

impl Page {
    /// True for a metric that the page declares (`# TYPE`) and has no series of: one with labels, of which none was
    /// used since the process began. Clients of Python and Java write it so; Go's writes nothing at all.
    pub fn is_unused(&self) -> bool {
        self.series.is_empty() && self.others == 0 && self.kind.is_some()
    }

    /// Reads a whole page and keeps what `wanted` selects. Nothing matched is no error: the list is empty.
    ///
    /// # Errors
    /// If the page is not of either format.
    pub fn parse(page: &[u8], wanted: &Selector) -> Result<Self, PageError> {
        let text = std::str::from_utf8(page).map_err(|_| PageError::NotText)?;
        let mut found = Self::default();
        let mut known = BTreeSet::new();
        let (mut ended, mut in_family) = (false, false);
        for (number, line) in (1..).zip(text.split_inclusive('\n')) {
            let end = |what| PageError::End { line: number, what };
            let Some(line) = line.strip_suffix('\n') else {
                return Err(end("the page ends in the middle of a line"));
            };
            if ended {
                return Err(end("the page goes on after `# EOF`"));
            }
            let entry = grammar::line(line).ok_or_else(|| PageError::Line {
                line: number,
                excerpt: excerpt(line),
            })?;
            match entry {
                grammar::Line::Nothing => {}
                grammar::Line::End => ended = true,
                grammar::Line::Type { family, kind } => {
                    in_family = wanted.is_of(family, kind);
                    if in_family {
                        found.kind = Some(kind.of(family, wanted));
                    }
                }
                grammar::Line::Sample(sample) if sample.name == wanted.name() => {
                    let labels = sample.labels();
                    if !wanted.selects(&labels) {
                        found.others += 1;
                        continue;
                    }
                    if known.len() == MAX_SERIES {
                        return Err(PageError::TooMany);
                    }
                    if !known.insert(labels.clone()) {
                        return Err(PageError::Twice { line: number });
                    }
                    let value = sample.value;
                    found.series.push(Series { labels, value });
                }
                grammar::Line::Sample(_) => found.others += usize::from(in_family),
            }
        }
        Ok(found)
    }
}

fn excerpt(line: &str) -> String {
    let cut = line.char_indices().map(|(at, _)| at).nth(EXCERPT);
    match cut {
        Some(cut) => format!("{:?}…", &line[..cut]),
        None => format!("{line:?}"),
    }
}
