//! Reads tables by the field list: takes a value or its default, checks its type and bounds, and records every mistake
//! instead of stopping at the first.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::fields::{Field, Section, Takes, Unless, peer_causes, time};
use super::report::{Origin, Problems};
use super::suggest;
use super::tree::{Node, Table, Value, variable};
use crate::engine::cause::Cause;
use crate::engine::settings::FailAfter;
use crate::secret::Secret;

/// A mistake that has been recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bad;

/// A value, or nothing if its mistake has been recorded.
pub(super) type Read<T> = Result<T, Bad>;

/// What every reader shares.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) problems: &'a Problems,
    pub(super) env: &'a BTreeMap<String, String>,
}

/// One table, and what may be in it.
pub(super) struct Reader<'a> {
    pub(super) context: Context<'a>,
    sections: Vec<&'static Section>,
    path: Vec<String>,
    /// Where the table was opened: what is missing is missing there.
    pub(super) origin: Origin,
    table: Option<&'a Table>,
}

impl<'a> Reader<'a> {
    /// The whole configuration.
    pub(super) fn root(table: &'a Table, section: &'static Section, context: Context<'a>) -> Self {
        let reader = Self {
            context,
            sections: vec![section],
            path: Vec::new(),
            origin: Origin::Nowhere,
            table: Some(table),
        };
        reader.unknown_keys();
        reader
    }

    /// The table `key`, which may be absent: all its fields then have their defaults.
    pub(super) fn open(&self, key: &str, sections: &[&'static Section]) -> Read<Reader<'a>> {
        match self.table.and_then(|table| table.get(key)) {
            Some(entry) => self.child(key, &entry.key_origin, &entry.node, sections),
            None => Ok(self.made(key, self.origin.clone(), None, sections)),
        }
    }

    /// A reader of `node`, which is what stands at `key`.
    pub(super) fn child(
        &self,
        key: &str,
        origin: &Origin,
        node: &'a Node,
        sections: &[&'static Section],
    ) -> Read<Reader<'a>> {
        match &node.value {
            Value::Table(table) => {
                let reader = self.made(key, origin.clone(), Some(table), sections);
                reader.unknown_keys();
                Ok(reader)
            }
            Value::Bad => Err(Bad),
            other => {
                let message = format!("`{key}` takes a table, and this is {}", other.describe());
                self.context.problems.add(&node.origin, "value", message, "");
                Err(Bad)
            }
        }
    }

    /// A reader for what is in the table of names `key`; messages only.
    pub(super) fn below(&self, key: &str) -> Reader<'a> {
        self.made(key, self.key_at(key), None, &[])
    }

    fn made(
        &self,
        key: &str,
        origin: Origin,
        table: Option<&'a Table>,
        sections: &[&'static Section],
    ) -> Reader<'a> {
        let mut path = self.path.clone();
        path.push(key.to_owned());
        Reader {
            context: self.context,
            sections: sections.to_vec(),
            path,
            origin,
            table,
        }
    }

    /// The tables in the table `key`, by name, in the order in which they were written.
    pub(super) fn named(&self, key: &str) -> Vec<(&'a str, &'a Origin, &'a Node)> {
        match self
            .table
            .and_then(|table| table.get(key))
            .map(|entry| &entry.node)
        {
            None
            | Some(Node {
                value: Value::Bad, ..
            }) => Vec::new(),
            Some(Node {
                value: Value::Table(table),
                ..
            }) => table
                .0
                .iter()
                .map(|entry| (entry.key.as_str(), &entry.key_origin, &entry.node))
                .collect(),
            Some(node) => {
                let message = format!(
                    "`{key}` takes tables by name, and this is {}",
                    node.value.describe()
                );
                self.context.problems.add(
                    &node.origin,
                    "value",
                    message,
                    format!("as in [{}.NAME]", self.dotted(key)),
                );
                Vec::new()
            }
        }
    }

    /// The tables in the list `key`.
    pub(super) fn list(&self, key: &str) -> &'a [Node] {
        match self
            .table
            .and_then(|table| table.get(key))
            .map(|entry| &entry.node)
        {
            None
            | Some(Node {
                value: Value::Bad, ..
            }) => &[],
            Some(Node {
                value: Value::List(list),
                ..
            }) => list,
            Some(node) => {
                let message = format!(
                    "`{key}` takes a list of tables, and this is {}",
                    node.value.describe()
                );
                self.context
                    .problems
                    .add(&node.origin, "value", message, format!("as in {key} = [{{ … }}]"));
                &[]
            }
        }
    }

    /// True if something is written at `key`.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.get(key).is_some())
    }

    /// Where the value of `key` is written, else where its table is.
    pub(super) fn at(&self, key: &str) -> Origin {
        self.table
            .and_then(|table| table.get(key))
            .map_or_else(|| self.origin.clone(), |entry| entry.node.origin.clone())
    }

    /// Where `key` itself is written, else where its table is.
    pub(super) fn key_at(&self, key: &str) -> Origin {
        self.table
            .and_then(|table| table.get(key))
            .map_or_else(|| self.origin.clone(), |entry| entry.key_origin.clone())
    }

    /// True if such a field may be set here.
    pub(super) fn knows(&self, key: &str) -> bool {
        self.sections.iter().any(|section| section.field(key).is_some())
    }

    /// Where the value of `table.key` is written, as far as it is.
    pub(super) fn place(&self, table: &str, key: &str) -> Origin {
        let entry = self.table.and_then(|tables| tables.get(table));
        match entry.map(|entry| (&entry.node.value, &entry.key_origin)) {
            Some((Value::Table(table), origin)) => table
                .get(key)
                .map_or_else(|| origin.clone(), |entry| entry.node.origin.clone()),
            _ => self.origin.clone(),
        }
    }

    /// The first of `keys` that is set.
    pub(super) fn first_set<'k>(&self, keys: &[&'k str]) -> Option<&'k str> {
        keys.iter().copied().find(|key| self.is_set(key))
    }

    /// `bus.url`: for messages.
    pub(super) fn dotted(&self, key: &str) -> String {
        self.path
            .iter()
            .map(String::as_str)
            .chain([key])
            .collect::<Vec<_>>()
            .join(".")
    }

    /// Records a mistake.
    pub(super) fn wrong(
        &self,
        origin: &Origin,
        rule: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Bad {
        self.context.problems.add(origin, rule, message, help);
        Bad
    }

    fn unknown_keys(&self) {
        let known = || {
            let fields = self
                .sections
                .iter()
                .flat_map(|section| section.fields)
                .map(|field| field.key);
            fields.chain(self.sections.iter().flat_map(|section| section.tables).copied())
        };
        for entry in self.table.iter().flat_map(|table| &table.0) {
            let key = entry.key.as_str();
            if known().any(|known| known == key) {
                continue;
            }
            let place = if self.path.is_empty() {
                "at the top level".to_owned()
            } else {
                format!("in `{}`", self.path.join("."))
            };
            if self.sections.iter().any(|section| section.later.contains(&key)) {
                let help = format!("this version has {}", known().collect::<Vec<_>>().join(", "));
                self.wrong(
                    &entry.key_origin,
                    "not_in_this_version",
                    format!("`{key}` {place} is not in this version"),
                    help,
                );
                continue;
            }
            let help = match suggest::closest(key, known()) {
                Some(near) => format!("did you mean `{}`?", self.as_written(near, &entry.key_origin)),
                None if known().next().is_none() => "nothing can be set here".to_owned(),
                None => format!("known here: {}", known().collect::<Vec<_>>().join(", ")),
            };
            self.wrong(
                &entry.key_origin,
                "unknown_key",
                format!("there is no key `{key}` {place}"),
                help,
            );
        }
    }

    fn as_written(&self, key: &str, origin: &Origin) -> String {
        match origin {
            Origin::Env(_) => variable(
                &self
                    .path
                    .iter()
                    .map(String::as_str)
                    .chain([key])
                    .collect::<Vec<_>>(),
            ),
            Origin::Set(..) => self.dotted(key),
            _ => key.to_owned(),
        }
    }

    fn field(&self, key: &str) -> Read<&'static Field> {
        let field = self.sections.iter().find_map(|section| section.field(key));
        debug_assert!(field.is_some(), "`{key}` is not in the field list");
        field.ok_or(Bad)
    }

    /// The value of a field, by `parse`, which says what is wrong. `None`: not given, and no default.
    fn read<T>(&self, key: &str, parse: impl Fn(&Node, &Field) -> Result<T, Wrong>) -> Read<Option<T>> {
        let field = self.field(key)?;
        if let Some(entry) = self.table.and_then(|table| table.get(key)) {
            if entry.node.is_bad() {
                return Err(Bad);
            }
            return parse(&entry.node, field).map(Some).map_err(|wrong| {
                let help = if wrong.help.is_empty() {
                    format!("takes {}", field.takes.describe())
                } else {
                    wrong.help
                };
                self.wrong(
                    &entry.node.origin,
                    wrong.rule,
                    format!("`{key}`: {}", wrong.message),
                    help,
                )
            });
        }
        match field.unless {
            Unless::Absent(_) | Unless::Derived(..) => Ok(None),
            Unless::Is(default) => parse(&written(default), field).map(Some).map_err(|_| Bad),
            Unless::Must(example) => {
                let message = format!("`{}` must be given", self.dotted(key));
                Err(self.wrong(
                    &self.origin,
                    "missing",
                    message,
                    format!("as in {key} = {example}"),
                ))
            }
        }
    }

    fn must<T>(&self, key: &str, parse: impl Fn(&Node, &Field) -> Result<T, Wrong>) -> Read<T> {
        self.read(key, parse)?.ok_or(Bad)
    }

    pub(super) fn bool(&self, key: &str) -> Read<bool> {
        self.must(key, bool)
    }
    pub(super) fn maybe_bool(&self, key: &str) -> Read<Option<bool>> {
        self.read(key, bool)
    }
    pub(super) fn time(&self, key: &str) -> Read<Duration> {
        self.must(key, duration)
    }
    pub(super) fn maybe_time(&self, key: &str) -> Read<Option<Duration>> {
        self.read(key, duration)
    }
    pub(super) fn int<T: TryFrom<i64>>(&self, key: &str) -> Read<T> {
        self.maybe_int(key)?.ok_or(Bad)
    }
    pub(super) fn maybe_int<T: TryFrom<i64>>(&self, key: &str) -> Read<Option<T>> {
        self.read(key, int)?
            .map(|number| T::try_from(number).map_err(|_| Bad))
            .transpose()
    }
    pub(super) fn text(&self, key: &str) -> Read<String> {
        self.must(key, text)
    }
    pub(super) fn maybe_text(&self, key: &str) -> Read<Option<String>> {
        self.read(key, text)
    }
    pub(super) fn maybe_number(&self, key: &str) -> Read<Option<f64>> {
        self.read(key, number)
    }
    pub(super) fn maybe_scalar(&self, key: &str) -> Read<Option<serde_json::Value>> {
        self.read(key, scalar)
    }
    pub(super) fn texts(&self, key: &str) -> Read<Vec<String>> {
        self.must(key, texts)
    }
    pub(super) fn causes(&self, key: &str) -> Read<Vec<Cause>> {
        self.must(key, causes)
    }
    pub(super) fn address(&self, key: &str) -> Read<SocketAddr> {
        self.must(key, address)
    }
    pub(super) fn maybe_address(&self, key: &str) -> Read<Option<SocketAddr>> {
        self.read(key, address)
    }
    pub(super) fn maybe_path(&self, key: &str) -> Read<Option<PathBuf>> {
        self.read(key, |node, field| text(node, field).map(PathBuf::from))
    }
    pub(super) fn fail_after(&self, key: &str) -> Read<FailAfter> {
        self.must(key, fail_after)
    }
    pub(super) fn statuses(&self, key: &str) -> Read<RangeInclusive<u16>> {
        self.must(key, |node, _| {
            let text = plain(node).ok_or_else(|| Wrong::kind(node))?;
            super::statuses(&text).ok_or_else(|| Wrong::shown(&text, "is neither"))
        })
    }
    pub(super) fn maybe_secret(&self, key: &str) -> Read<Option<Secret>> {
        let secret = self.read(key, secret)?;
        if let Some(Secret::Env(name)) = &secret
            && !self.context.env.contains_key(name)
        {
            let message = format!("the variable {name}, which holds `{key}`, is not set");
            return Err(self.wrong(
                &self.at(key),
                "missing_variable",
                message,
                "set it for this process",
            ));
        }
        Ok(secret)
    }
}

/// What is wrong with a value. An empty help: what the field takes.
struct Wrong {
    rule: &'static str,
    message: String,
    help: String,
}

impl Wrong {
    fn new(message: impl Into<String>) -> Self {
        Self {
            rule: "value",
            message: message.into(),
            help: String::new(),
        }
    }

    fn kind(node: &Node) -> Self {
        Self::new(format!("this is {}", node.value.describe()))
    }

    fn shown(text: &str, what: &str) -> Self {
        let short: String = text.chars().take(60).collect();
        let dots = if short.len() < text.len() { "…" } else { "" };
        Self::new(format!("\"{short}{dots}\" {what}"))
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}

/// A default of the field list, read as if it had been written.
fn written(toml: &str) -> Node {
    let value = match toml::de::DeValue::parse(toml).map(toml::Spanned::into_inner) {
        Ok(toml::de::DeValue::String(text)) => Value::Text(text.into_owned()),
        Ok(toml::de::DeValue::Integer(number)) => number.as_str().parse().map_or(Value::Bad, Value::Integer),
        Ok(toml::de::DeValue::Boolean(value)) => Value::Bool(value),
        Ok(toml::de::DeValue::Array(_)) => Value::List(Vec::new()),
        _ => Value::Bad,
    };
    Node {
        value,
        origin: Origin::Nowhere,
        bare: None,
    }
}

/// Text, or what an override said letter by letter.
fn plain(node: &Node) -> Option<String> {
    match (&node.value, &node.bare) {
        (_, Some(bare)) => Some(bare.clone()),
        (Value::Text(text), None) => Some(text.clone()),
        (Value::Integer(number), None) => Some(number.to_string()),
        _ => None,
    }
}

fn bool(node: &Node, _: &Field) -> Result<bool, Wrong> {
    match &node.value {
        Value::Bool(value) => Ok(*value),
        Value::Text(text) => Err(Wrong::shown(text, "is a text").help("write true or false, without quotes")),
        _ => Err(Wrong::kind(node)),
    }
}

fn int(node: &Node, field: &Field) -> Result<i64, Wrong> {
    let (Value::Integer(number), Takes::Int(low, high)) = (&node.value, field.takes) else {
        return Err(Wrong::kind(node));
    };
    if (low..=high).contains(number) {
        Ok(*number)
    } else {
        Err(Wrong::new(format!("{number} is out of bounds")))
    }
}

fn number(node: &Node, _: &Field) -> Result<f64, Wrong> {
    match node.value {
        #[allow(
            clippy::cast_precision_loss,
            reason = "a bound for a JSON number, which is a double anyway"
        )]
        Value::Integer(number) => Ok(number as f64),
        Value::Float(number) if number.is_finite() => Ok(number),
        _ => Err(Wrong::kind(node)),
    }
}

fn scalar(node: &Node, _: &Field) -> Result<serde_json::Value, Wrong> {
    match &node.value {
        Value::Text(text) => Ok(text.clone().into()),
        Value::Integer(number) => Ok((*number).into()),
        Value::Float(number) if number.is_finite() => Ok((*number).into()),
        Value::Bool(value) => Ok((*value).into()),
        _ => Err(Wrong::kind(node)),
    }
}

fn duration(node: &Node, field: &Field) -> Result<Duration, Wrong> {
    let Takes::Time(low, high) = field.takes else {
        return Err(Wrong::kind(node));
    };
    let text = match &node.value {
        Value::Text(text) => text,
        Value::Integer(number) => {
            let message = format!("{number} has no unit");
            return Err(Wrong::new(message).help(format!(
                "write \"{number}s\" or \"{number}ms\"; takes {}",
                field.takes.describe()
            )));
        }
        Value::Float(number) => {
            return Err(Wrong::new(format!("{number} has no unit"))
                .help(format!("write it as \"500ms\"; takes {}", field.takes.describe())));
        }
        _ => return Err(Wrong::kind(node)),
    };
    if text.trim().parse::<f64>().is_ok_and(|number| number != 0.0) {
        return Err(Wrong::shown(text, "has no unit").help(format!(
            "write \"{}s\"; takes {}",
            text.trim(),
            field.takes.describe()
        )));
    }
    let value = humantime::parse_duration(text).map_err(|_| {
        Wrong::shown(text, "is not a time").help(format!(
            "as in \"500ms\", \"5s\" or \"1m 30s\"; takes {}",
            field.takes.describe()
        ))
    })?;
    match value {
        value if value < low => Err(Wrong::new(format!("{} is too short", time(value)))),
        value if value > high => Err(Wrong::new(format!("{} is too long", time(value)))),
        value => Ok(value),
    }
}

fn text(node: &Node, field: &Field) -> Result<String, Wrong> {
    let text = match (&node.value, &node.bare) {
        (Value::Text(text), _) | (_, Some(text)) => text.clone(),
        _ => return Err(Wrong::kind(node)),
    };
    match field.takes {
        Takes::Text(max) => bounded(&text, max)?,
        Takes::Path => bounded(&text, 4096)?,
        Takes::Name => name(&text)?,
        Takes::Url => url(&text)?,
        Takes::OneOf(all) => one_of(&text, all)?,
        Takes::LogFilter => log_filter(&text)?,
        _ => return Err(Wrong::kind(node)),
    }
    Ok(text)
}

fn bounded(text: &str, max: usize) -> Result<(), Wrong> {
    if text.is_empty() {
        return Err(Wrong::new("this text is empty"));
    }
    if text.len() > max {
        return Err(Wrong::new(format!("this text has {} bytes", text.len())));
    }
    if text.contains('\0') {
        return Err(Wrong::new("this text contains a NUL"));
    }
    Ok(())
}

/// True for the names of nodes, groups and peers: they stand in paths, connection names and metric labels.
pub(super) fn is_name(text: &str) -> bool {
    let tail = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-');
    text.len() <= 63
        && text.chars().all(tail)
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
}

fn name(text: &str) -> Result<(), Wrong> {
    if is_name(text) {
        Ok(())
    } else {
        Err(Wrong::shown(text, "is not such a name"))
    }
}

fn one_of(text: &str, all: &[&str]) -> Result<(), Wrong> {
    if all.contains(&text) {
        return Ok(());
    }
    let wrong = Wrong::shown(text, "is not known");
    Err(match suggest::closest(text, all.iter().copied()) {
        Some(near) => wrong.help(format!(
            "did you mean \"{near}\"? Takes one of {}",
            all.join(", ")
        )),
        None => wrong,
    })
}

/// Says nothing of the URL itself: it may hold a password.
fn url(text: &str) -> Result<(), Wrong> {
    let uri: hyper::Uri = text.parse().map_err(|_| Wrong::new("this is not a URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(Wrong::new("this is not an http:// or https:// URL"));
    }
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            Err(Wrong::new("a user or password does not belong in the URL").help("use `bearer`"))
        }
        Some(authority) if !authority.host().is_empty() => Ok(()),
        _ => Err(Wrong::new("this URL names no host")),
    }
}

fn log_filter(text: &str) -> Result<(), Wrong> {
    bounded(text, 1024)?;
    tracing_subscriber::EnvFilter::builder()
        .parse(text)
        .map(drop)
        .map_err(|_| Wrong::shown(text, "is not such a filter"))
}

fn address(node: &Node, _: &Field) -> Result<SocketAddr, Wrong> {
    let Value::Text(text) = &node.value else {
        return Err(Wrong::kind(node));
    };
    text.parse().map_err(|_| {
        let wrong = Wrong::shown(text, "is not an address");
        match text
            .rsplit_once(':')
            .map(|(host, port)| (host, port.parse::<u16>()))
        {
            Some(("" | "*", Ok(port))) => wrong.help(format!(
                "write \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" for every interface"
            )),
            Some(("localhost", Ok(port))) => wrong.help(format!("write \"127.0.0.1:{port}\"")),
            _ => wrong,
        }
    })
}

fn texts(node: &Node, field: &Field) -> Result<Vec<String>, Wrong> {
    let Takes::Texts(many, max) = field.takes else {
        return Err(Wrong::kind(node));
    };
    let Value::List(list) = &node.value else {
        return Err(match &node.value {
            Value::Text(_) => {
                Wrong::new("this is a text").help(format!("takes a list: {} = [\"…\", \"…\"]", field.key))
            }
            _ => Wrong::kind(node),
        });
    };
    if list.len() > many {
        return Err(Wrong::new(format!("there are {} of them", list.len())));
    }
    if list.is_empty() && matches!(field.unless, Unless::Must(_)) {
        return Err(Wrong::new("the list is empty"));
    }
    list.iter()
        .map(|node| match &node.value {
            Value::Text(text) => bounded(text, max).map(|()| text.clone()),
            other => Err(Wrong::new(format!("there is {} in the list", other.describe()))),
        })
        .collect()
}

fn causes(node: &Node, _: &Field) -> Result<Vec<Cause>, Wrong> {
    let Value::List(list) = &node.value else {
        return Err(Wrong::kind(node));
    };
    let known = peer_causes();
    list.iter()
        .map(|node| {
            let Value::Text(text) = &node.value else {
                return Err(Wrong::new(format!(
                    "there is {} in the list",
                    node.value.describe()
                )));
            };
            let cause = Cause::ALL.into_iter().find(|cause| cause.as_str() == text);
            match cause {
                Some(cause) if cause.lies_in_peer() => Ok(cause),
                Some(_) => Err(Wrong::shown(
                    text,
                    "does not lie in the peer, so no remedy may follow it",
                )),
                None => one_of(text, &known).and(Err(Wrong::kind(node))),
            }
        })
        .collect()
}

fn fail_after(node: &Node, _: &Field) -> Result<FailAfter, Wrong> {
    let Value::Text(text) = &node.value else {
        return Err(Wrong::kind(node));
    };
    let parts = text
        .split_once(" of ")
        .and_then(|(m, n)| Some((m.trim().parse().ok()?, n.trim().parse().ok()?)));
    match parts {
        Some((m, n)) if 1 <= m && m <= n && n <= 64 => Ok(FailAfter { m, n }),
        _ => Err(Wrong::shown(text, "is not that")
            .help("takes \"m of n\" with 1 <= m <= n <= 64, as in \"3 of 5\"")),
    }
}

/// Never shows what it read.
fn secret(node: &Node, _: &Field) -> Result<Secret, Wrong> {
    let table = match (&node.value, &node.bare) {
        (_, Some(text)) | (Value::Text(text), None) if !text.is_empty() => {
            return Ok(Secret::Inline(text.clone()));
        }
        (Value::Table(table), None) => table,
        (Value::Text(_), None) => return Err(Wrong::new("this text is empty")),
        _ => return Err(Wrong::kind(node)),
    };
    let [entry] = table.0.as_slice() else {
        return Err(Wrong::new("this is not exactly one of env and file"));
    };
    match (entry.key.as_str(), &entry.node.value) {
        ("env", Value::Text(name)) if !name.is_empty() => Ok(Secret::Env(name.clone())),
        ("file", Value::Text(path)) if !path.is_empty() => Ok(Secret::File(PathBuf::from(path))),
        ("env" | "file", _) => Err(Wrong::new("this is not the name of a variable or file")),
        _ => Err(Wrong::new("this is neither env nor file")),
    }
}
