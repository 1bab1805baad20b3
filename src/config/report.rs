//! Every mistake at once: where it is, the line it is in, and what would be right. No secret gets in here.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::PathBuf;

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// Nowhere: it is missing.
    Nowhere,
    /// In the file, from byte to byte.
    File(usize, usize),
    /// In this variable.
    Env(String),
    /// In the so-manieth `--set`, for this key.
    Set(usize, String),
    /// In this argument.
    Argument(&'static str),
}

impl Origin {
    pub(super) fn file(span: Range<usize>) -> Self {
        Self::File(span.start, span.end)
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    origin: Origin,
    rule: &'static str,
    message: String,
    help: String,
    /// What stands behind the place may be a secret whose key was misspelt.
    hide: bool,
}

/// Rules whose findings are worth telling even where the file could not be read whole.
const CERTAIN: [&str; 5] = [
    "syntax",
    "unknown_key",
    "value",
    "missing_variable",
    "not_in_this_version",
];

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(super) struct Problems {
    file: Option<(PathBuf, String)>,
    found: RefCell<Vec<Problem>>,
}

impl Problems {
    pub(super) fn of(file: Option<(PathBuf, String)>) -> Self {
        Self {
            file,
            found: RefCell::default(),
        }
    }

    /// Records a mistake: the rule's name, what is wrong, what would be right (may be empty).
    pub(super) fn add(
        &self,
        origin: &Origin,
        rule: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let (origin, message, help) = (origin.clone(), message.into(), help.into());
        self.found.borrow_mut().push(Problem {
            origin,
            rule,
            message,
            help,
            hide: false,
        });
    }

    /// The place of `needle` within what was written at `origin`, if it can be found there as it is.
    pub(super) fn within(&self, origin: &Origin, needle: &str) -> Origin {
        let (Origin::File(start, end), Some((_, text))) = (origin, &self.file) else {
            return origin.clone();
        };
        match text.get(*start..*end).and_then(|written| written.find(needle)) {
            Some(at) => Origin::File(start + at, start + at + needle.len()),
            None => origin.clone(),
        }
    }

    /// Hides what stands behind the place of the last mistake: it may be a secret whose key was misspelt.
    pub(super) fn hide(&self) {
        if let Some(problem) = self.found.borrow_mut().last_mut() {
            problem.hide = true;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// What could not be read may have said anything.
    pub(super) fn are_of_syntax(&self) -> bool {
        self.found
            .borrow()
            .iter()
            .any(|problem| matches!(problem.rule, "syntax" | "too_large"))
    }

    /// Lines that stand below the header of another table than they were meant for, because their own is broken.
    fn astray(&self, broken: &[usize]) -> Vec<Range<usize>> {
        let lines: Vec<&str> = self.file.iter().flat_map(|(_, text)| text.lines()).collect();
        let is_header = |line: &&str| line.trim_start().starts_with('[');
        let headers = broken
            .iter()
            .filter(|line| lines.get(**line - 1).is_some_and(is_header));
        headers
            .map(|line| {
                let below = lines[*line..].iter().position(is_header);
                *line + 1..below.map_or(usize::MAX, |below| *line + 1 + below)
            })
            .collect()
    }

    /// The text for people, and the number of mistakes.
    pub(super) fn render(&self) -> (String, usize) {
        let mut found = self.found.borrow().clone();
        let broken: Vec<usize> = found
            .iter()
            .filter(|problem| problem.rule == "syntax")
            .filter_map(|problem| self.line_of(problem))
            .collect();
        if !broken.is_empty() {
            // What a broken line hides is not missing, and what was made of it is not what was meant.
            let astray = self.astray(&broken);
            let is_sound =
                |line: usize| !broken.contains(&line) && !astray.iter().any(|lines| lines.contains(&line));
            found.retain(|problem| {
                problem.rule == "syntax"
                    || (CERTAIN.contains(&problem.rule) && self.line_of(problem).is_none_or(is_sound))
            });
        }
        found.sort_by(|a, b| a.origin.cmp(&b.origin));
        found.dedup();
        let mut out = String::new();
        for problem in &found {
            self.show(&mut out, problem);
        }
        let count = found.len();
        let _ = write!(
            out,
            "{count} mistake{} in the configuration",
            if count == 1 { "" } else { "s" }
        );
        (out, count)
    }

    fn show(&self, out: &mut String, problem: &Problem) {
        let (rule, message) = (problem.rule, harmless(&problem.message));
        let mut margin = 1;
        match (&problem.origin, &self.file) {
            (Origin::File(start, end), Some((name, text))) => {
                let place = Place::find(text, *start, *end, problem.hide);
                margin = place.number.to_string().len() + 2;
                let _ = writeln!(
                    out,
                    "{}:{}:{}: error[{rule}]: {message}",
                    name.display(),
                    place.number,
                    place.column
                );
                let _ = writeln!(out, "  {} | {}", place.number, place.shown);
                let _ = writeln!(
                    out,
                    "{:margin$} | {:before$}{}",
                    "",
                    "",
                    "^".repeat(place.marked),
                    before = place.before
                );
            }
            (Origin::Env(name), _) => {
                let _ = writeln!(out, "{}: error[{rule}]: {message}", harmless(name));
            }
            (Origin::Set(_, key), _) => {
                let _ = writeln!(out, "--set {}: error[{rule}]: {message}", harmless(key));
            }
            (Origin::Argument(name), _) => {
                let _ = writeln!(out, "{name}: error[{rule}]: {message}");
            }
            (Origin::Nowhere | Origin::File(..), file) => {
                let name = file
                    .as_ref()
                    .map_or("configuration".to_owned(), |(name, _)| name.display().to_string());
                let _ = writeln!(out, "{name}: error[{rule}]: {message}");
            }
        }
        if !problem.help.is_empty() {
            let _ = writeln!(out, "{:margin$} = {}", "", harmless(&problem.help));
        }
    }

    fn line_of(&self, problem: &Problem) -> Option<usize> {
        match (&problem.origin, &self.file) {
            (Origin::File(start, end), Some((_, text))) => Some(Place::find(text, *start, *end, true).number),
            _ => None,
        }
    }
}

/// A place in the file, made ready to be shown.
struct Place {
    number: usize,
    column: usize,
    shown: String,
    before: usize,
    marked: usize,
}

/// Columns shown of a longer line.
const WIDTH: usize = 120;

impl Place {
    /// `hide`: what stands behind the place is not shown.
    fn find(text: &str, start: usize, end: usize, hide: bool) -> Self {
        let start = floor(text, start);
        let end = floor(text, end).max(start);
        let head = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let tail = text[start..]
            .find('\n')
            .map_or(text.len(), |newline| start + newline);
        let number = text[..head].matches('\n').count() + 1;
        let column = text[head..start].chars().count();
        let wide = text[start..end.min(tail)].chars().count();
        let mut line: Vec<char> = masked(text[head..tail].trim_end_matches('\r')).chars().collect();
        if hide {
            mask_value(&mut line, column + wide);
        }
        let from = (column + 20).saturating_sub(WIDTH);
        let shown = line.into_iter().skip(from).take(WIDTH).map(printable).collect();
        let marked = wide.clamp(1, (WIDTH - (column - from)).max(1));
        Self {
            number,
            column: column + 1,
            shown,
            before: column - from,
            marked,
        }
    }
}

fn floor(text: &str, mut index: usize) -> usize {
    index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

/// Hides what a line says of a secret: as many `*` as there were characters, so that the caret stays in its place.
fn masked(line: &str) -> String {
    let mut chars: Vec<char> = line.chars().collect();
    let lower: Vec<char> = chars.iter().map(char::to_ascii_lowercase).collect();
    for word in ["pass", "pwd", "token", "bearer", "secret", "auth"] {
        let word: Vec<char> = word.chars().collect();
        for at in 0..lower.len().saturating_sub(word.len()) {
            if lower[at..].starts_with(&word) {
                mask_value(&mut chars, at + word.len());
            }
        }
    }
    mask_userinfo(&mut chars);
    chars.into_iter().collect()
}

/// Masks the first text behind a `=` at or after `from`; what names a place instead of the secret stays.
fn mask_value(chars: &mut [char], from: usize) {
    let Some(equals) = (from..chars.len()).find(|at| chars[*at] == '=') else {
        return;
    };
    let between = chars[from..equals]
        .iter()
        .all(|c| c.is_whitespace() || c.is_alphanumeric() || matches!(c, '"' | '\'' | '_' | '-' | '.'));
    let Some(first) = (equals + 1..chars.len()).find(|at| !chars[*at].is_whitespace()) else {
        return;
    };
    if !between || chars[first] == '{' {
        return;
    }
    let until = |from: usize, ends: &[char]| {
        (from..chars.len())
            .find(|at| ends.contains(&chars[*at]))
            .unwrap_or(chars.len())
    };
    let (start, end) = match chars[first] {
        quote @ ('"' | '\'') => (first + 1, until(first + 1, &[quote])),
        '[' => (first + 1, until(first + 1, &[']'])),
        _ => (first, until(first, &[',', '}', '#'])),
    };
    chars[start..end].fill('*');
}

/// Masks the user and password of every URL.
fn mask_userinfo(chars: &mut [char]) {
    for at in 0..chars.len().saturating_sub(3) {
        if chars[at..at + 3] != [':', '/', '/'] {
            continue;
        }
        let end = (at + 3..chars.len())
            .find(|at| matches!(chars[*at], '"' | '\'' | ' '))
            .unwrap_or(chars.len());
        if let Some(sign) = (at + 3..end).rev().find(|at| chars[*at] == '@') {
            chars[at + 3..sign].fill('*');
        }
    }
}

/// What a terminal would obey becomes a question mark.
fn harmless(text: &str) -> String {
    text.chars().map(printable).collect()
}

fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => '?',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_secrets_and_keeps_columns() {
        for (line, shown) in [
            (r#"password = "hunter2" # x"#, r#"password = "*******" # x"#),
            (
                r#"url = "redis://u:hunter2@h/0""#,
                r#"url = "redis://*********@h/0""#,
            ),
            ("admin_token = 'abc', x = 1", "admin_token = '***', x = 1"),
            (r#"bearer = { env = "NAME" }"#, r#"bearer = { env = "NAME" }"#),
            ("password = hunter2", "password = *******"),
            (r#"password = "hunter2"#, r#"password = "*******"#),
            (r#"node = "a""#, r#"node = "a""#),
        ] {
            assert_eq!(masked(line), shown);
        }
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let text = format!("{}X{}", "a".repeat(300), "b".repeat(300));
        let place = Place::find(&text, 300, 301, false);
        assert_eq!((place.number, place.column, place.marked), (1, 301, 1));
        assert_eq!(place.shown.chars().count(), WIDTH);
        assert_eq!(place.shown.chars().nth(place.before), Some('X'));
    }
}
