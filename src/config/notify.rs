//! Reads `[notify.NAME]`, and the rules within one target.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderName;

use super::fields;
use super::reader::{Bad, Read, Reader, all_of};
use super::tree::{Node, Value};
use super::values::{self, is_name};
use crate::http_client::Target as Url;
use crate::notify::template::{Escape, Template, Word, Wrong};
use crate::notify::{Event, Kind, Settings, Target};
use crate::secret::Secret;

/// Targets of one node.
const MAX_TARGETS: usize = 32;
/// Headers of one target.
const MAX_HEADERS: usize = 32;
/// Tables within tables of a template.
const DEPTH: usize = 32;
/// How often an Alertmanager is told again, where the configuration does not say.
const RESEND: Duration = Duration::from_secs(60);
/// What the client itself says.
const OURS: [&str; 6] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "x-defib-id",
    "x-defib-signature",
];

/// The targets, in the order in which they were written. `known` are the names of all peers that are written down.
///
/// `discovers`: more peers may come of Docker's labels.
pub(super) fn targets(root: &Reader<'_>, known: &[&str], discovers: bool) -> Read<Settings> {
    let place = root.below("notify");
    let mut all = Vec::new();
    for (index, (name, origin, node)) in root.named("notify").into_iter().enumerate() {
        if index == MAX_TARGETS {
            let message = format!("there are at most {MAX_TARGETS} targets of notifications");
            return Err(place.wrong(origin, "too_many", message, ""));
        }
        let named = if is_name(name) {
            Ok(())
        } else {
            let help = "a-z, 0-9, then also _ . -; at most 63: it stands in labels";
            Err(place.wrong(
                origin,
                "name",
                format!("`{name}` is not a name for a target"),
                help,
            ))
        };
        let read = place
            .child(name, origin, node, &[&fields::NOTIFY])
            .and_then(|reader| target(&reader, name, known, discovers));
        all.push(named.and(read));
    }
    all_of(all)
}

fn target(reader: &Reader<'_>, name: &str, known: &[&str], discovers: bool) -> Read<Target> {
    let (kind, url) = (reader.text("type"), url(reader));
    let (headers, bearer, hmac) = (
        headers(reader),
        reader.maybe_secret("bearer"),
        reader.maybe_secret("hmac"),
    );
    let (events, peers) = (events(reader), peers(reader, known, discovers));
    let (timeout, retry_for, resend) = (
        reader.time("timeout"),
        reader.time("retry_for"),
        reader.maybe_time("resend"),
    );
    let (template, escape) = (template(reader), reader.maybe_text("escape"));
    let kind = kind?;
    let only = |keys: &[&'static str], other: &str| match reader.first_set(keys) {
        Some(key) => {
            let message = format!("`{key}` is for type = \"{other}\", and this is \"{kind}\"");
            Err(reader.wrong(&reader.key_at(key), "notify_type", message, "remove one of them"))
        }
        None => Ok(()),
    };
    let kind = if kind == "alertmanager" {
        only(&["template", "escape"], "json")?;
        Kind::Alertmanager {
            resend: resend?.unwrap_or(RESEND),
        }
    } else {
        only(&["resend"], "alertmanager")?;
        let escape = match escape?.as_deref() {
            Some("slack") => Escape::Slack,
            _ => Escape::Json,
        };
        Kind::Json {
            template: template?,
            escape,
        }
    };
    Ok(Target {
        name: name.into(),
        kind,
        url: url?,
        headers: headers?,
        bearer: bearer?,
        hmac: hmac?,
        events: events?,
        peers: peers?,
        timeout: timeout?,
        retry_for: retry_for?,
    })
}

/// What can be looked at now is; what is in a file may be another one when it is read.
fn url(reader: &Reader<'_>) -> Read<Secret> {
    let url = reader.secret("url")?;
    let text = match &url {
        Secret::Inline(text) => Some(text),
        Secret::Env(name) => reader.context.env.get(name),
        Secret::File(_) => None,
    };
    if let Some(Err(error)) = text.map(|text| Url::parse(text)) {
        let bad = reader.wrong(&reader.key_at("url"), "value", format!("`url`: {error}"), "");
        reader.context.problems.hide();
        return Err(bad);
    }
    Ok(url)
}

fn headers(reader: &Reader<'_>) -> Read<Vec<(String, Secret)>> {
    let Some(node) = reader.node("headers") else {
        return Ok(Vec::new());
    };
    let Value::Table(table) = &node.value else {
        return Err(not_a_table(reader, "headers", node));
    };
    if table.0.len() > MAX_HEADERS {
        let message = format!("`headers`: there are {} of them", table.0.len());
        let help = format!("at most {MAX_HEADERS}");
        return Err(reader.wrong(&node.origin, "too_many", message, help));
    }
    let mut all = Vec::new();
    for entry in &table.0 {
        let name = &entry.key;
        let said = name.parse::<HeaderName>().ok();
        let wrong = match said {
            Some(header) if OURS.contains(&header.as_str()) => {
                Some(format!("`{name}` is a header that defib sets itself"))
            }
            Some(_) => None,
            None => Some(format!("`{name}` is no name of a header")),
        };
        let read = match wrong {
            Some(message) => {
                let bad = reader.wrong(&entry.key_origin, "value", message, "");
                reader.context.problems.hide();
                Err(bad)
            }
            None => reader.secret_of(&entry.node, &entry.key_origin, name),
        };
        all.push(read.map(|secret| (name.clone(), secret)));
    }
    all_of(all)
}

fn events(reader: &Reader<'_>) -> Read<BTreeSet<Event>> {
    let chosen = reader.maybe_words("events")?;
    let is_chosen = |event: &&Event| match &chosen {
        Some(names) => names.iter().any(|name| name == event.as_str()),
        None => Event::CHOICE.contains(&event.as_str()),
    };
    Ok(Event::ALL.iter().filter(is_chosen).copied().collect())
}

fn peers(reader: &Reader<'_>, known: &[&str], discovers: bool) -> Read<Option<BTreeSet<Arc<str>>>> {
    if !reader.is_set("peers") {
        return Ok(None);
    }
    let names = reader.texts("peers")?;
    let unknown = |name: &&String| !discovers && !known.contains(&name.as_str());
    if let Some(name) = names.iter().find(unknown) {
        let message = format!("`peers`: there is no peer `{name}`");
        return Err(reader.wrong(
            &reader.at("peers"),
            "unknown_peer",
            message,
            values::of_names(name, known),
        ));
    }
    Ok(Some(names.into_iter().map(Arc::from).collect()))
}

fn template(reader: &Reader<'_>) -> Read<Option<Template>> {
    let Some(node) = reader.node("template") else {
        return Ok(None);
    };
    match &node.value {
        Value::Table(_) => form(reader, node, 0).map(Some),
        _ => Err(not_a_table(reader, "template", node)),
    }
}

/// A part of a template. Every word that does not exist is reported, where it stands.
fn form(reader: &Reader<'_>, node: &Node, depth: usize) -> Read<Template> {
    if depth > DEPTH {
        let message = format!("`template`: more than {DEPTH} tables within each other");
        return Err(reader.wrong(&node.origin, "too_large", message, ""));
    }
    match &node.value {
        Value::Text(text) => Template::text(text).map_err(|wrong| misread(reader, node, wrong)),
        Value::Integer(number) => Ok(Template::Scalar((*number).into())),
        Value::Float(number) if number.is_finite() => Ok(Template::Scalar((*number).into())),
        Value::Bool(value) => Ok(Template::Scalar((*value).into())),
        Value::List(list) => {
            let parts = list.iter().map(|inner| form(reader, inner, depth + 1));
            all_of(parts).map(Template::List)
        }
        Value::Table(table) => {
            let parts = table.0.iter().map(|entry| {
                let inner = form(reader, &entry.node, depth + 1)?;
                Ok((entry.key.clone(), inner))
            });
            all_of(parts).map(Template::Table)
        }
        Value::Bad => Err(Bad),
        Value::Float(_) | Value::Date => {
            let message = format!("`template`: JSON has no form for {}", node.value.describe());
            Err(reader.wrong(&node.origin, "value", message, "write it as a text"))
        }
    }
}

fn misread(reader: &Reader<'_>, node: &Node, wrong: Wrong) -> Bad {
    match wrong {
        Wrong::Unknown(word) => {
            let names: Vec<&str> = Word::ALL.iter().map(|(_, name, _)| *name).collect();
            let at = reader
                .context
                .problems
                .within(&node.origin, &format!("{{{word}}}"));
            let message = format!("`template`: there is no word `{{{word}}}`");
            reader.wrong(&at, "unknown_word", message, values::of_names(&word, &names))
        }
        Wrong::Brace(brace) => {
            let message = format!("`template`: a `{brace}` stands alone");
            let help = "a word is {peer}; a brace itself is written twice: {{ or }}";
            reader.wrong(&node.origin, "unknown_word", message, help)
        }
    }
}

fn not_a_table(reader: &Reader<'_>, key: &str, node: &Node) -> Bad {
    if node.is_bad() {
        return Bad;
    }
    let message = format!("`{key}` takes a table, and this is {}", node.value.describe());
    reader.wrong(
        &node.origin,
        "value",
        message,
        format!("as in {key} = {{ name = \"…\" }}"),
    )
}
