//! Reads tables by the field list: takes a value or its default, checks its type and bounds, and records every mistake
//! instead of stopping at the first.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::report::{Origin, Problems};
use super::schema::{Field, Section, Takes, Unless};
use super::suggest;
use super::tree::{Node, Table, Value, variable};
use super::values::{self, Wrong};
use crate::engine::cause::Cause;
use crate::engine::settings::FailAfter;
use crate::exposition::Selector;
use crate::secret::Secret;

/// A mistake that has been recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bad;

/// A value, or nothing if its mistake has been recorded.
pub(super) type Read<T> = Result<T, Bad>;

/// All of them, if none is bad. Each was read by then, so that every mistake is reported.
pub(super) fn all_of<T>(parts: impl IntoIterator<Item = Read<T>>) -> Read<Vec<T>> {
    let parts: Vec<Read<T>> = parts.into_iter().collect();
    parts.into_iter().collect()
}

/// What every reader shares.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) problems: &'a Problems,
    pub(super) env: &'a BTreeMap<String, String>,
    /// Variables that were read as secrets.
    pub(super) secrets: &'a RefCell<BTreeSet<String>>,
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

    /// What is written at `key`.
    pub(super) fn node(&self, key: &str) -> Option<&'a Node> {
        self.table
            .and_then(|table| table.get(key))
            .map(|entry| &entry.node)
    }

    /// True if something is written at `key`.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.get(key).is_some())
    }

    /// True if anything but `keys` is written here.
    pub(super) fn has_keys_besides(&self, keys: &[&str]) -> bool {
        let mut entries = self.table.iter().flat_map(|table| &table.0);
        entries.any(|entry| !keys.contains(&entry.key.as_str()))
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
            if self
                .sections
                .iter()
                .flat_map(|section| section.fields)
                .any(|field| matches!(field.takes, Takes::Secret))
            {
                self.context.problems.hide();
            }
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
            Unless::Is(default) => parse(&values::written(default), field).map(Some).map_err(|_| Bad),
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
        self.must(key, values::bool)
    }
    pub(super) fn maybe_bool(&self, key: &str) -> Read<Option<bool>> {
        self.read(key, values::bool)
    }
    pub(super) fn time(&self, key: &str) -> Read<Duration> {
        self.must(key, values::duration)
    }
    pub(super) fn maybe_time(&self, key: &str) -> Read<Option<Duration>> {
        self.read(key, values::duration)
    }
    pub(super) fn int<T: TryFrom<i64>>(&self, key: &str) -> Read<T> {
        self.maybe_int(key)?.ok_or(Bad)
    }
    pub(super) fn maybe_int<T: TryFrom<i64>>(&self, key: &str) -> Read<Option<T>> {
        self.read(key, values::int)?
            .map(|number| T::try_from(number).map_err(|_| Bad))
            .transpose()
    }
    pub(super) fn text(&self, key: &str) -> Read<String> {
        self.must(key, values::text)
    }
    pub(super) fn maybe_text(&self, key: &str) -> Read<Option<String>> {
        self.read(key, values::text)
    }
    pub(super) fn maybe_number(&self, key: &str) -> Read<Option<f64>> {
        self.read(key, values::number)
    }
    pub(super) fn maybe_scalar(&self, key: &str) -> Read<Option<serde_json::Value>> {
        self.read(key, values::scalar)
    }
    pub(super) fn texts(&self, key: &str) -> Read<Vec<String>> {
        self.must(key, values::texts)
    }
    pub(super) fn maybe_texts(&self, key: &str) -> Read<Option<Vec<String>>> {
        self.read(key, values::texts)
    }
    pub(super) fn causes(&self, key: &str) -> Read<Vec<Cause>> {
        self.must(key, values::causes)
    }
    pub(super) fn address(&self, key: &str) -> Read<SocketAddr> {
        self.must(key, values::address)
    }
    pub(super) fn maybe_address(&self, key: &str) -> Read<Option<SocketAddr>> {
        self.read(key, values::address)
    }
    pub(super) fn path(&self, key: &str) -> Read<PathBuf> {
        self.maybe_path(key)?.ok_or(Bad)
    }
    pub(super) fn maybe_path(&self, key: &str) -> Read<Option<PathBuf>> {
        self.read(key, |node, field| values::text(node, field).map(PathBuf::from))
    }
    pub(super) fn maybe_size(&self, key: &str) -> Read<Option<u64>> {
        self.read(key, values::size)
    }
    pub(super) fn maybe_listens(&self, key: &str) -> Read<Option<crate::checks::Owner>> {
        self.read(key, values::listens)
    }
    pub(super) fn maybe_ports(&self, key: &str) -> Read<Option<Vec<u16>>> {
        self.read(key, values::ports)
    }
    pub(super) fn maybe_codes(&self, key: &str) -> Read<Option<Vec<u8>>> {
        self.read(key, values::codes)
    }
    pub(super) fn maybe_users(&self, key: &str) -> Read<Option<Vec<u32>>> {
        self.read(key, values::users)
    }
    pub(super) fn series(&self, key: &str) -> Read<Selector> {
        self.must(key, values::series)
    }
    pub(super) fn fail_after(&self, key: &str) -> Read<FailAfter> {
        self.must(key, values::fail_after)
    }
    pub(super) fn statuses(&self, key: &str) -> Read<RangeInclusive<u16>> {
        self.must(key, |node, _| {
            let text = values::plain(node).ok_or_else(|| Wrong::kind(node))?;
            super::statuses(&text).ok_or_else(|| Wrong::shown(&text, "is neither"))
        })
    }
    pub(super) fn maybe_words(&self, key: &str) -> Read<Option<Vec<String>>> {
        self.read(key, values::words)
    }
    pub(super) fn secret(&self, key: &str) -> Read<Secret> {
        self.maybe_secret(key)?.ok_or(Bad)
    }
    pub(super) fn maybe_secret(&self, key: &str) -> Read<Option<Secret>> {
        let secret = self.read(key, values::secret)?;
        secret
            .map(|secret| self.is_there(secret, key, &self.at(key)))
            .transpose()
    }
    /// A secret in a table of names that are free.
    pub(super) fn secret_of(&self, node: &Node, at: &Origin, key: &str) -> Read<Secret> {
        if node.is_bad() {
            return Err(Bad);
        }
        let secret = values::secret_in(node).map_err(|wrong| {
            let message = format!("`{key}`: {}", wrong.message);
            let help = format!("takes {}", Takes::Secret.describe());
            let bad = self.wrong(at, wrong.rule, message, help);
            self.context.problems.hide();
            bad
        })?;
        self.is_there(secret, key, &node.origin)
    }

    fn is_there(&self, secret: Secret, key: &str, at: &Origin) -> Read<Secret> {
        let Secret::Env(name) = &secret else {
            return Ok(secret);
        };
        if !self.context.env.contains_key(name) {
            let message = format!("the variable {name}, which holds `{key}`, is not set");
            return Err(self.wrong(at, "missing_variable", message, "set it for this process"));
        }
        // Here, where every secret comes by, so that none can be forgotten.
        self.context.secrets.borrow_mut().insert(name.clone());
        Ok(secret)
    }
}
