//! The rule for ignored components: is a body unhealthy *only* because of what is ignored?
//!
//! Where it looks: the overall word is the root's `healthy`, `ok` or `status`. The components are the root
//! itself if it is an array, else the first of the root's members `components`, `checks` and `services` that is
//! an object (components by key) or an array (components by their `name`). A component's word is itself, if it
//! is a boolean or a text, else its own `healthy`, `ok` or `status`.
//!
//! How it reads a word: `true`, and the texts ok, up, pass, passing, healthy, alive, ready, running are well;
//! `false`, and down, fail, failed, failing, error, unhealthy, unavailable, critical, dead, stopped are ill (any
//! case); everything else says nothing.

use serde_json::Value;

/// Members that hold the overall word, and a component's.
pub(super) const WORDS: [&str; 3] = ["healthy", "ok", "status"];
const LISTS: [&str; 3] = ["components", "checks", "services"];

/// What the components say when those to be ignored are left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Components {
    /// One that counts is ill: this one.
    Ill(String),
    /// Every one that counts is well, and one that is ignored is ill: this one.
    OnlyIgnored(String),
    /// Nobody is ill.
    NoneIll,
    /// An ignored one is ill, and of this one, which counts, nothing can be read.
    Unreadable(String),
}

/// Looks at every component.
pub(super) fn look(body: &Value, ignore: &[String]) -> Components {
    let (mut ignored_ill, mut unreadable) = (None, None);
    for (name, component) in list(body) {
        let ignored = ignore.iter().any(|i| i == name);
        match (ignored, word(component)) {
            (false, Some(false)) => return Components::Ill(shown(name)),
            (true, Some(false)) => ignored_ill = ignored_ill.or(Some(name)),
            (false, None) => unreadable = unreadable.or(Some(name)),
            (true, _) | (false, Some(true)) => {}
        }
    }
    match (ignored_ill, unreadable) {
        (None, _) => Components::NoneIll,
        (Some(_), Some(name)) => Components::Unreadable(shown(name)),
        (Some(name), None) => Components::OnlyIgnored(shown(name)),
    }
}

/// The overall word: `Some(false)` is ill.
pub(super) fn overall(body: &Value) -> Option<bool> {
    body.is_object().then(|| word(body)).flatten()
}

fn list(body: &Value) -> Box<dyn Iterator<Item = (&str, &Value)> + '_> {
    let found = match body {
        Value::Array(_) => Some(body),
        Value::Object(root) => LISTS
            .iter()
            .filter_map(|key| root.get(*key))
            .find(|list| list.is_object() || list.is_array()),
        _ => None,
    };
    match found {
        Some(Value::Object(by_key)) => Box::new(by_key.iter().map(|(name, value)| (name.as_str(), value))),
        Some(Value::Array(items)) => Box::new(items.iter().map(|item| {
            let name = item.get("name").and_then(Value::as_str);
            (name.unwrap_or("(without a name)"), item)
        })),
        _ => Box::new(std::iter::empty()),
    }
}

fn word(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(well) => Some(*well),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "ok" | "up" | "pass" | "passing" | "healthy" | "alive" | "ready" | "running" => Some(true),
            "down" | "fail" | "failed" | "failing" | "error" | "unhealthy" | "unavailable" | "critical"
            | "dead" | "stopped" => Some(false),
            _ => None,
        },
        Value::Object(members) => WORDS
            .iter()
            .filter_map(|key| members.get(*key))
            .find_map(|value| if value.is_object() { None } else { word(value) }),
        Value::Null | Value::Number(_) | Value::Array(_) => None,
    }
}

fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ignoring(name: &str, body: &Value) -> Components {
        look(body, &[name.to_owned()])
    }

    #[test]
    fn s10_only_the_ignored_component_is_ill() {
        for body in [
            json!({"healthy": false, "components": {"db": {"healthy": true}, "feed": {"healthy": false}}}),
            json!({"status": "DOWN", "components": {"db": {"status": "UP"}, "feed": {"status": "DOWN"}}}),
            json!({"ok": false, "checks": [{"name": "db", "status": "ok"}, {"name": "feed", "status": "down"}]}),
            json!([{"name": "db", "ok": true}, {"name": "feed", "ok": false}]),
            json!({"healthy": false, "services": {"db": true, "feed": false}}),
            json!({"healthy": false, "checks": 2, "services": {"db": "up", "feed": "error"}}),
        ] {
            assert_eq!(
                ignoring("feed", &body),
                Components::OnlyIgnored("feed".into()),
                "{body}"
            );
            assert_eq!(ignoring("db", &body), Components::Ill("feed".into()), "{body}");
            assert_eq!(look(&body, &[]), Components::Ill("feed".into()), "{body}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_excused() {
        let body = json!({"healthy": false, "components": {"db": {"status": "amber"}, "feed": false}});
        assert_eq!(ignoring("feed", &body), Components::Unreadable("db".into()));
        assert_eq!(ignoring("x", &json!({"healthy": false})), Components::NoneIll);
        assert_eq!(
            ignoring("x", &json!([1, null, {"ok": {"ok": false}}])),
            Components::NoneIll
        );
        assert_eq!(
            ignoring("x", &json!([false])),
            Components::Ill("(without a name)".into())
        );
        assert_eq!(overall(&json!({"healthy": false})), Some(false));
        assert_eq!(overall(&json!([{"healthy": false}])), None);
        assert_eq!(overall(&json!(false)), None);
    }
}
