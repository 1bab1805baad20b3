//! Reads what asks over HTTP: the `http` check, expectations, and what an `http` remedy waits for.

use super::layout::Layout;
use super::reader::{Read, Reader};
use super::values::is_name;
use super::{asks, fields};
use crate::checks::{Schedule, When};
use crate::engine::event::ExpectationId;
use crate::http_client::{Expect, JsonCondition, Question};

/// Bytes of an answer that are read where the configuration does not say.
const BODY_LIMIT: usize = 64 * 1024;

/// The expectations, in the order in which they were written.
#[derive(Default)]
pub(super) struct Expectations {
    pub(super) all: Vec<(String, When, Schedule)>,
    /// The number of each.
    pub(super) ids: Vec<ExpectationId>,
}

/// Expectations of one node.
const MAX_EXPECTATIONS: usize = 256;

impl Expectations {
    pub(super) fn find(&self, name: &str) -> Option<ExpectationId> {
        let index = self.all.iter().position(|(known, ..)| known == name)?;
        self.ids.get(index).copied()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|(name, ..)| name.as_str())
    }

    /// Reads `[when.NAME]`. One that is wrong keeps its place, so that what needs it is not wrong, too.
    pub(super) fn read(root: &Reader<'_>, layout: &Layout) -> Self {
        let place = root.below("when");
        let mut all = Vec::new();
        for (name, origin, node) in root.named("when") {
            if !is_name(name) {
                place.wrong(
                    origin,
                    "name",
                    format!("`{name}` is not a name for an expectation"),
                    "a-z, 0-9, then also _ . -; at most 63",
                );
            }
            if all.len() == MAX_EXPECTATIONS {
                place.wrong(
                    origin,
                    "too_many",
                    format!("there are at most {MAX_EXPECTATIONS} expectations"),
                    "",
                );
                break;
            }
            let read = place
                .child(name, origin, node, &[&fields::WHEN])
                .and_then(|reader| {
                    let (when, interval, timeout) =
                        (when(&reader), reader.time("interval"), reader.time("timeout"));
                    Ok((
                        when?,
                        Schedule {
                            interval: interval?,
                            timeout: timeout?,
                        },
                    ))
                });
            let (when, schedule) = read.unwrap_or_else(|_| {
                (
                    When::Http(nothing()),
                    Schedule {
                        interval: std::time::Duration::MAX,
                        timeout: std::time::Duration::MAX,
                    },
                )
            });
            all.push((name.to_owned(), when, schedule));
        }
        let ids = layout.expectations(all.iter().map(|(name, ..)| name.as_str()));
        Self { all, ids }
    }
}

/// By what an expectation is met.
fn when(reader: &Reader<'_>) -> Read<When> {
    const OF_KEYS: [&str; 5] = ["ttl_min", "age", "max_age", "redis", "password"];
    let misplaced = |key: &str, goes_with: &str| {
        let message = format!("`{key}` goes with `{goes_with}`, which is not given");
        Err(reader.wrong(&reader.key_at(key), "when_which", message, "remove it"))
    };
    match (reader.is_set("http"), reader.is_set("redis_key")) {
        (true, false) => match reader.first_set(&OF_KEYS) {
            Some(key) => misplaced(key, "redis_key"),
            None => question(reader, "http").map(When::Http),
        },
        (false, true) => match reader.first_set(&["bearer"]) {
            Some(key) => misplaced(key, "http"),
            None => asks::key(reader, "redis_key").map(When::RedisKey),
        },
        (false, false) => Err(reader.wrong(
            &reader.origin,
            "when_which",
            "it is not said by what this expectation is met",
            "as in http = \"http://127.0.0.1:8080/health\" or redis_key = \"car:present\"",
        )),
        (true, true) => Err(reader.wrong(
            &reader.key_at("redis_key"),
            "when_which",
            "`http` and `redis_key` are given, and exactly one is taken",
            "make two expectations of it",
        )),
    }
}

/// Stands for a question that is wrong; never asked, since its mistake is reported.
fn nothing() -> Question {
    Question {
        url: String::new(),
        statuses: 200..=299,
        json: None,
        ignore: Vec::new(),
        body_limit: 0,
        bearer: None,
    }
}

/// The question of a table whose URL is at `url_key`.
pub(super) fn question(reader: &Reader<'_>, url_key: &str) -> Read<Question> {
    let (url, statuses, bearer) = (
        reader.text(url_key),
        reader.statuses("status"),
        reader.maybe_secret("bearer"),
    );
    let (ignore, body_limit) = if reader.knows("body_limit") {
        (reader.texts("ignore"), reader.int("body_limit"))
    } else {
        (Ok(Vec::new()), Ok(BODY_LIMIT))
    };
    let json = condition(reader);
    Ok(Question {
        url: url?,
        statuses: statuses?,
        json: json?,
        ignore: ignore?,
        body_limit: body_limit?,
        bearer: bearer?,
    })
}

const WAYS: [&str; 3] = ["equals", "below", "above"];

pub(super) fn condition(reader: &Reader<'_>) -> Read<Option<JsonCondition>> {
    let (path, expect) = (reader.maybe_text("json"), expected(reader));
    match (path?, expect?) {
        (None, None) => Ok(None),
        (Some(path), Some(expect)) => Ok(Some(JsonCondition { path, expect })),
        (None, Some(_)) => {
            let way = reader.first_set(&WAYS).unwrap_or("equals");
            let message = format!("`{way}` says what a field must be, but not which field");
            Err(reader.wrong(
                &reader.key_at(way),
                "json_condition",
                message,
                "add json = \"path.of.the.field\"",
            ))
        }
        (Some(_), None) => {
            let message = "`json` says which field is looked at, but not what it must be";
            Err(reader.wrong(
                &reader.at("json"),
                "json_condition",
                message,
                "add equals, below or above",
            ))
        }
    }
}

/// The one of `equals`, `below` and `above` that is given.
pub(super) fn expected(reader: &Reader<'_>) -> Read<Option<Expect>> {
    let equals = reader.maybe_scalar("equals");
    let (below, above) = (reader.maybe_number("below"), reader.maybe_number("above"));
    match (equals?, below?, above?) {
        (None, None, None) => Ok(None),
        (Some(value), None, None) => Ok(Some(Expect::Equals(value))),
        (None, Some(bound), None) => Ok(Some(Expect::Below(bound))),
        (None, None, Some(bound)) => Ok(Some(Expect::Above(bound))),
        _ => {
            let set: Vec<&str> = WAYS.into_iter().filter(|way| reader.is_set(way)).collect();
            let message = format!("{} are given, and exactly one is taken", set.join(" and "));
            let second = set.get(1).copied().unwrap_or("json");
            Err(reader.wrong(
                &reader.key_at(second),
                "json_condition",
                message,
                "make two checks of it",
            ))
        }
    }
}
