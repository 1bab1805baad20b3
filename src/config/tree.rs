//! The raw configuration: what was written, and where. TOML, the environment and `--set` become one tree.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Origin, Problems};
use super::{Sources, fields, suggest};

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
    /// What a variable or `--set` said, letter by letter: `node=5` names a node `5`.
    pub(super) bare: Option<String>,
}

/// What can be written.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    Date,
    List(Vec<Node>),
    Table(Table),
    /// Already reported.
    Bad,
}

/// Entries in the order in which they were written.
#[derive(Clone, Debug, Default)]
pub(super) struct Table(pub(super) Vec<Entry>);

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_origin: Origin,
    pub(super) node: Node,
}

impl Table {
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.key == key)
    }
}

impl Node {
    /// True if it, or what is directly in it, has been reported already.
    pub(super) fn is_bad(&self) -> bool {
        let bad = |node: &Self| matches!(node.value, Value::Bad);
        match &self.value {
            Value::List(list) => list.iter().any(bad),
            Value::Table(table) => table.0.iter().any(|entry| bad(&entry.node)),
            _ => bad(self),
        }
    }
}

impl Value {
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::Date => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Bad => "unreadable",
        }
    }
}

/// Longest file that is read.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// Variables of the command line and of the tests, which have one underscore and are no configuration.
const NOT_OURS: [&str; 7] = [
    "CONFIG",
    "LOG",
    "LOG_FORMAT",
    "NODE",
    "GROUP",
    "ON_BAD_CONFIG",
    "TOKEN",
];

/// Reads all sources. Later ones win: file, environment, `--set`.
pub(super) fn gather(sources: &Sources, problems: &Problems) -> Table {
    let context = Context {
        env: &sources.env,
        problems,
    };
    let mut root = match &sources.file {
        Some((_, text)) => context.file(text),
        None => Table::default(),
    };
    for (name, raw) in &sources.env {
        if let Some(path) = name.strip_prefix("DEFIB__") {
            let path: Vec<String> = path.split("__").map(str::to_ascii_lowercase).collect();
            context.overlay(&mut root, &path, raw, &Origin::Env(name.clone()));
        } else if let Some(meant) = near_miss(name) {
            let origin = Origin::Env(name.clone());
            problems.add(
                &origin,
                "unknown_key",
                "this variable is not read",
                format!("write {meant}"),
            );
        }
    }
    for (index, set) in sources.set.iter().enumerate() {
        let (key, raw) = set
            .split_once('=')
            .map_or((set.trim(), None), |(key, raw)| (key.trim(), Some(raw)));
        let origin = Origin::Set(index, key.to_owned());
        match raw {
            Some(raw) => context.overlay(&mut root, &dotted(key), raw.trim(), &origin),
            None => problems.add(
                &origin,
                "syntax",
                "there is no value",
                "--set KEY=VALUE, as in --set bus.url=embedded",
            ),
        }
    }
    root
}

/// What was meant by a variable with one underscore too few, which would otherwise be ignored in silence. (Not every
/// DEFIB_… can be claimed: a Kubernetes service called `defib` makes DEFIB_PORT and DEFIB_SERVICE_HOST.)
fn near_miss(name: &str) -> Option<String> {
    let rest = name.strip_prefix("DEFIB_")?;
    if NOT_OURS.contains(&rest) {
        return None;
    }
    let squeezed = rest.to_ascii_lowercase().replace("__", "_");
    let known = fields::paths()
        .into_iter()
        .find(|(path, _)| path.join("_") == squeezed);
    if let Some((path, _)) = known {
        return Some(variable(&path));
    }
    let (table, _) = rest.split_once("__")?;
    fields::ROOT
        .tables
        .contains(&table.to_ascii_lowercase().as_str())
        .then(|| format!("DEFIB__{rest}"))
}

/// The variable for a path.
pub(super) fn variable(path: &[&str]) -> String {
    format!("DEFIB__{}", path.join("__").to_ascii_uppercase())
}

/// `a."b.c".d` as its parts.
fn dotted(key: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in key.chars() {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(String::new()),
            c => parts.last_mut().into_iter().for_each(|part| part.push(c)),
        }
    }
    parts
}

struct Context<'a> {
    env: &'a BTreeMap<String, String>,
    problems: &'a Problems,
}

impl Context<'_> {
    fn file(&self, text: &str) -> Table {
        if text.len() > MAX_BYTES {
            let message = format!("the file has {} bytes", text.len());
            self.problems.add(
                &Origin::Nowhere,
                "too_large",
                message,
                format!("at most {MAX_BYTES} are read"),
            );
            return Table::default();
        }
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let origin = error.span().map_or(Origin::Nowhere, Origin::file);
            self.problems
                .add(&origin, "syntax", error.message().replace('\n', ", "), "");
        }
        self.table(table.into_inner(), &Origin::file)
    }

    fn table(&self, table: DeTable<'_>, origin: &dyn Fn(std::ops::Range<usize>) -> Origin) -> Table {
        let mut entries: Vec<Entry> = table
            .into_iter()
            .map(|(key, value)| Entry {
                key_origin: origin(key.span()),
                key: key.into_inner().into_owned(),
                node: self.node(value, origin),
            })
            .collect();
        entries.sort_by(|a, b| a.key_origin.cmp(&b.key_origin));
        Table(entries)
    }

    fn node(&self, value: Spanned<DeValue<'_>>, at: &dyn Fn(std::ops::Range<usize>) -> Origin) -> Node {
        let origin = at(value.span());
        let value = match value.into_inner() {
            DeValue::String(text) => self.interpolate(&text, &origin).map_or(Value::Bad, Value::Text),
            DeValue::Integer(number) => {
                let digits = number.as_str().replace('_', "");
                i64::from_str_radix(&digits, number.radix()).map_or_else(
                    |_| {
                        self.problems
                            .add(&origin, "value", "this number is too large", "");
                        Value::Bad
                    },
                    Value::Integer,
                )
            }
            DeValue::Float(number) => number
                .as_str()
                .replace('_', "")
                .parse()
                .map_or(Value::Bad, Value::Float),
            DeValue::Boolean(value) => Value::Bool(value),
            DeValue::Datetime(_) => Value::Date,
            DeValue::Array(list) => Value::List(list.into_iter().map(|value| self.node(value, at)).collect()),
            DeValue::Table(table) => Value::Table(self.table(table, at)),
        };
        Node {
            value,
            origin,
            bare: None,
        }
    }

    fn overlay(&self, root: &mut Table, path: &[String], raw: &str, origin: &Origin) {
        if path.iter().any(String::is_empty) || path.len() > 8 {
            let help = "DEFIB__BUS__URL and --set bus.url both name `url` in [bus]";
            self.problems.add(origin, "syntax", "this names no key", help);
            return;
        }
        let mut table = root;
        let Some((last, above)) = path.split_last() else {
            return;
        };
        for key in above {
            let entry = entry(table, key, origin, || Value::Table(Table::default()));
            match &mut entry.node.value {
                Value::Table(below) => table = below,
                Value::Bad => return,
                other => {
                    let message = format!("`{key}` is {}, so nothing in it can be set", other.describe());
                    self.problems.add(origin, "value", message, "");
                    return;
                }
            }
        }
        let node = self.override_value(raw, origin);
        let entry = entry(table, last, origin, || Value::Bad);
        (entry.node, entry.key_origin) = (node, origin.clone());
    }

    /// TOML if it is TOML, else text: `--set bus.url=embedded` needs no quotes.
    fn override_value(&self, raw: &str, origin: &Origin) -> Node {
        if raw.len() <= MAX_BYTES
            && let Ok(value) = DeValue::parse(raw)
        {
            let mut node = self.node(value, &|_| origin.clone());
            if !matches!(
                node.value,
                Value::Text(_) | Value::List(_) | Value::Table(_) | Value::Bad
            ) {
                node.bare = Some(raw.to_owned());
            }
            return node;
        }
        let value = self.interpolate(raw, origin).map_or(Value::Bad, Value::Text);
        Node {
            value,
            origin: origin.clone(),
            bare: None,
        }
    }

    /// `${VAR}` and `${VAR:-default}`; `$${` stands for `${`. What a variable says is not looked into again.
    fn interpolate(&self, text: &str, origin: &Origin) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut good = true;
        while let Some(at) = rest.find("${") {
            let (before, behind) = (&rest[..at], &rest[at + 2..]);
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = behind;
                continue;
            }
            out.push_str(before);
            let Some((inside, after)) = behind.split_once('}') else {
                self.problems
                    .add(origin, "syntax", "`${` without `}`", "write $${ for a plain ${");
                return None;
            };
            rest = after;
            let (name, default) = inside
                .split_once(":-")
                .map_or((inside, None), |(name, default)| (name, Some(default)));
            // As in a shell, `:-` is also for a variable that is set and empty.
            match (
                self.env
                    .get(name)
                    .filter(|value| default.is_none() || !value.is_empty()),
                default,
            ) {
                (Some(value), _) => out.push_str(value),
                (None, Some(default)) => out.push_str(default),
                (None, None) => {
                    good = false;
                    self.missing_variable(name, origin);
                }
            }
        }
        out.push_str(rest);
        good.then_some(out)
    }

    fn missing_variable(&self, name: &str, origin: &Origin) {
        let near = suggest::closest(name, self.env.keys().map(String::as_str));
        let meant = near
            .map(|near| format!("did you mean `{near}`? Else "))
            .unwrap_or_default();
        let help = format!("{meant}set it, or give a default: ${{{name}:-…}}");
        self.problems.add(
            origin,
            "missing_variable",
            format!("the variable {name} is not set"),
            help,
        );
    }
}

fn entry<'a>(
    table: &'a mut Table,
    key: &str,
    origin: &Origin,
    value: impl FnOnce() -> Value,
) -> &'a mut Entry {
    let at = table
        .0
        .iter()
        .position(|entry| entry.key == key)
        .unwrap_or_else(|| {
            table.0.push(Entry {
                key: key.to_owned(),
                key_origin: origin.clone(),
                node: Node {
                    value: value(),
                    origin: origin.clone(),
                    bare: None,
                },
            });
            table.0.len() - 1
        });
    &mut table.0[at]
}
