//! Single values: from what was written to what is meant, or what is wrong with it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::report::Origin;
use super::schema::{Field, Takes, UNITS, Unless, peer_causes, size as size_in_words, time};
use super::suggest;
use super::tree::{Node, Value};
use crate::checks;
use crate::engine::cause::Cause;
use crate::engine::settings::FailAfter;
use crate::exposition::Selector;
use crate::secret::Secret;

/// What is wrong with a value. An empty help: what the field takes.
pub(super) struct Wrong {
    pub(super) rule: &'static str,
    pub(super) message: String,
    pub(super) help: String,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            rule: "value",
            message: message.into(),
            help: String::new(),
        }
    }

    pub(super) fn kind(node: &Node) -> Self {
        Self::new(format!("this is {}", node.value.describe()))
    }

    pub(super) fn shown(text: &str, what: &str) -> Self {
        let short: String = text.chars().take(60).collect();
        let dots = if short.len() < text.len() { "…" } else { "" };
        Self::new(format!("\"{short}{dots}\" {what}"))
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}

/// A default of the field list, read as if it had been written.
pub(super) fn written(toml: &str) -> Node {
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
pub(super) fn plain(node: &Node) -> Option<String> {
    match (&node.value, &node.bare) {
        (_, Some(bare)) => Some(bare.clone()),
        (Value::Text(text), None) => Some(text.clone()),
        (Value::Integer(number), None) => Some(number.to_string()),
        _ => None,
    }
}

pub(super) fn bool(node: &Node, _: &Field) -> Result<bool, Wrong> {
    match &node.value {
        Value::Bool(value) => Ok(*value),
        Value::Text(text) => Err(Wrong::shown(text, "is a text").help("write true or false, without quotes")),
        _ => Err(Wrong::kind(node)),
    }
}

pub(super) fn int(node: &Node, field: &Field) -> Result<i64, Wrong> {
    let (Value::Integer(number), Takes::Int(low, high)) = (&node.value, field.takes) else {
        return Err(Wrong::kind(node));
    };
    if (low..=high).contains(number) {
        Ok(*number)
    } else {
        Err(Wrong::new(format!("{number} is out of bounds")))
    }
}

pub(super) fn number(node: &Node, _: &Field) -> Result<f64, Wrong> {
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

pub(super) fn scalar(node: &Node, _: &Field) -> Result<serde_json::Value, Wrong> {
    match &node.value {
        Value::Text(text) => Ok(text.clone().into()),
        Value::Integer(number) => Ok((*number).into()),
        Value::Float(number) if number.is_finite() => Ok((*number).into()),
        Value::Bool(value) => Ok((*value).into()),
        _ => Err(Wrong::kind(node)),
    }
}

pub(super) fn duration(node: &Node, field: &Field) -> Result<Duration, Wrong> {
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

/// Of units that mean what they say: an `MB` is 1000000 bytes to some and 1048576 to others, so it is refused.
pub(super) fn size(node: &Node, field: &Field) -> Result<u64, Wrong> {
    let Takes::Size(low, high) = field.takes else {
        return Err(Wrong::kind(node));
    };
    let text = match &node.value {
        Value::Text(text) => text.trim(),
        Value::Integer(number) => {
            let wrong = Wrong::new(format!("{number} has no unit"));
            return Err(wrong.help(format!("write \"{number}MiB\" or \"{number}B\"")));
        }
        _ => return Err(Wrong::kind(node)),
    };
    let bytes = UNITS.into_iter().find_map(|(name, unit)| {
        let number: u64 = text.strip_suffix(name)?.trim_end().parse().ok()?;
        number.checked_mul(unit)
    });
    match bytes {
        None => Err(Wrong::shown(text, "is not a size")
            .help("a whole number and B, KiB, MiB or GiB, as in \"512MiB\"")),
        Some(bytes) if bytes < low => Err(Wrong::new(format!("{} is too small", size_in_words(bytes)))),
        Some(bytes) if bytes > high => Err(Wrong::new(format!("{} is too large", size_in_words(bytes)))),
        Some(bytes) => Ok(bytes),
    }
}

pub(super) fn ports(node: &Node, _: &Field) -> Result<Vec<u16>, Wrong> {
    numbers(node, "[9080]", |number| {
        u16::try_from(number).ok().filter(|port| *port > 0)
    })
    .map_err(|wrong| wrong.unwrap_or_else(|| Wrong::new("there is something else than a port in the list")))
}

pub(super) fn users(node: &Node, _: &Field) -> Result<Vec<u32>, Wrong> {
    // The last one is nobody's: it means "unchanged" to the kernel.
    numbers(node, "[1000]", |number| {
        u32::try_from(number).ok().filter(|uid| *uid < u32::MAX)
    })
    .map_err(|wrong| {
        wrong.unwrap_or_else(|| {
            Wrong::new("there is something else than a user's number in the list")
                .help("`id -u NAME` tells it")
        })
    })
}

/// One to sixteen numbers. `Err(None)`: one of them is not right.
fn numbers<N>(node: &Node, example: &str, one: impl Fn(i64) -> Option<N>) -> Result<Vec<N>, Option<Wrong>> {
    let Value::List(list) = &node.value else {
        return Err(Some(
            Wrong::kind(node).help(format!("takes a list, as in {example}")),
        ));
    };
    if !(1..=16).contains(&list.len()) {
        return Err(Some(Wrong::new(format!("there are {} of them", list.len()))));
    }
    let number = |node: &Node| match node.value {
        Value::Integer(number) => one(number),
        _ => None,
    };
    list.iter().map(|node| number(node).ok_or(None)).collect()
}

/// Of commands: what is above says that a shell could not run one, or that it died.
pub(super) fn codes(node: &Node, _: &Field) -> Result<Vec<u8>, Wrong> {
    let Value::List(list) = &node.value else {
        return Err(Wrong::kind(node).help("takes a list, as in [0, 1]"));
    };
    if list.len() > 16 {
        return Err(Wrong::new(format!("there are {} of them", list.len())));
    }
    let code = |node: &Node| match node.value {
        Value::Integer(number) => u8::try_from(number).ok().filter(|code| *code <= 125),
        _ => None,
    };
    list.iter()
        .map(|node| {
            code(node).ok_or_else(|| Wrong::new("there is something else than an exit code in the list"))
        })
        .collect()
}

pub(super) fn series(node: &Node, _: &Field) -> Result<Selector, Wrong> {
    let ((Value::Text(text), _) | (_, Some(text))) = (&node.value, &node.bare) else {
        return Err(Wrong::kind(node));
    };
    bounded(text, 1024)?;
    text.parse()
        .map_err(|_| Wrong::shown(text, "does not name series"))
}

pub(super) fn text(node: &Node, field: &Field) -> Result<String, Wrong> {
    let text = match (&node.value, &node.bare) {
        (Value::Text(text), _) | (_, Some(text)) => text.clone(),
        _ => return Err(Wrong::kind(node)),
    };
    match field.takes {
        Takes::Text(max) => bounded(&text, max)?,
        Takes::Path => path(&text)?,
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
    crate::telemetry::logs::levels(text)
        .map(drop)
        .map_err(|_| Wrong::shown(text, "is not such a filter"))
}

pub(super) fn address(node: &Node, _: &Field) -> Result<SocketAddr, Wrong> {
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

/// Where an owner listens.
pub(super) fn listens(node: &Node, _: &Field) -> Result<checks::Owner, Wrong> {
    let text = plain(node).ok_or_else(|| Wrong::kind(node))?;
    let port = text
        .parse()
        .ok()
        .filter(|port| *port != 0)
        .map(checks::Owner::Listens);
    let address = || {
        text.parse()
            .ok()
            .filter(|address: &SocketAddr| address.port() != 0)
    };
    port.or_else(|| address().map(checks::Owner::ListensAt))
        .ok_or_else(|| Wrong::shown(&text, "is neither"))
}

/// A relative one would depend on where the node is started.
fn path(text: &str) -> Result<(), Wrong> {
    bounded(text, 4096)?;
    if text.starts_with('/') {
        return Ok(());
    }
    Err(Wrong::new("it is relative to wherever the node is started").help("write it from / on"))
}

pub(super) fn texts(node: &Node, field: &Field) -> Result<Vec<String>, Wrong> {
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

pub(super) fn causes(node: &Node, _: &Field) -> Result<Vec<Cause>, Wrong> {
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

pub(super) fn fail_after(node: &Node, _: &Field) -> Result<FailAfter, Wrong> {
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

/// A list of some of the words that the field has.
pub(super) fn words(node: &Node, field: &Field) -> Result<Vec<String>, Wrong> {
    let (Takes::Words(all), Value::List(list)) = (field.takes, &node.value) else {
        return Err(Wrong::kind(node));
    };
    let word = |node: &Node| match &node.value {
        Value::Text(text) if all.contains(&text.as_str()) => Ok(text.clone()),
        Value::Text(text) => Err(Wrong::shown(text, "is not known").help(of_names(text, all))),
        other => Err(Wrong::new(format!("there is {} in the list", other.describe()))),
    };
    list.iter().map(word).collect()
}

/// What may have been meant by a name that does not exist.
pub(super) fn of_names(word: &str, known: &[&str]) -> String {
    match suggest::closest(word, known.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None if known.is_empty() => "there is none".to_owned(),
        None => {
            let first = known.iter().take(30).copied().collect::<Vec<_>>();
            format!("there are: {}", first.join(", "))
        }
    }
}

/// Never shows what it read.
pub(super) fn secret(node: &Node, _: &Field) -> Result<Secret, Wrong> {
    secret_in(node)
}

pub(super) fn secret_in(node: &Node) -> Result<Secret, Wrong> {
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
