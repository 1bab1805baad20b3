//! Which unit of which manager.

use std::fmt;

/// Longest name of a unit that systemd takes.
const MAX: usize = 255;

/// Whose manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The machine's, pid 1.
    System,
    /// That of the user as whom this node runs.
    User,
}

/// A service of a manager.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnitRef {
    /// Its whole name, `feed.service`.
    pub name: String,
    /// Whose it is.
    pub scope: Scope,
}

/// Why a text names no service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(String);

impl UnitRef {
    /// The service of this name; `.service` may be left out.
    ///
    /// # Errors
    /// If no service can be called so.
    pub fn new(name: &str, scope: Scope) -> Result<Self, NameError> {
        let wrong = |why: &str| NameError(format!("\"{name}\" {why}"));
        let ending = name.rsplit_once('.').map(|(_, ending)| ending);
        let other = [
            "socket",
            "timer",
            "target",
            "scope",
            "slice",
            "mount",
            "automount",
            "path",
            "device",
            "swap",
        ];
        if ending.is_some_and(|ending| other.contains(&ending)) {
            return Err(wrong("is no service: only services have a process to watch"));
        }
        let name = if ending == Some("service") {
            name.to_owned()
        } else {
            format!("{name}.service")
        };
        let known = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        let stem = name.strip_suffix(".service").unwrap_or_default();
        if stem.is_empty() || name.len() > MAX || !name.chars().all(known) {
            return Err(wrong(
                "is not a name for a unit: letters, digits and : - _ . \\ @, at most 255",
            ));
        }
        if stem.ends_with('@') || stem.starts_with('@') {
            return Err(wrong(
                "is a template: name one of its instances, as in feed@1.service",
            ));
        }
        Ok(Self { name, scope })
    }
}

impl fmt::Display for UnitRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            Scope::System => write!(f, "unit {}", self.name),
            Scope::User => write!(f, "user unit {}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_and_of_services() {
        let name = |text| UnitRef::new(text, Scope::System).map(|unit| unit.name);
        for (text, whole) in [
            ("feed", "feed.service"),
            ("feed.service", "feed.service"),
            ("feed@1", "feed@1.service"),
            ("org.example.feed", "org.example.feed.service"),
            ("dev-disk\\x2dby", "dev-disk\\x2dby.service"),
        ] {
            assert_eq!(name(text).unwrap(), whole);
        }
        let long = "x".repeat(250);
        for text in [
            "",
            ".service",
            "feed@",
            "feed@.service",
            "@1",
            "a/b",
            "a b",
            "feed.timer",
            "fée",
            &long,
        ] {
            assert!(name(text).is_err(), "{text}");
        }
    }
}
