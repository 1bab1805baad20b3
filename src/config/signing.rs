//! `[signing]`: which keys, if any.

use std::path::Path;
use std::time::Duration;

use super::reader::{Read, Reader};
use crate::signing::{Settings, Source};

/// How far wall clocks may differ, if nothing is said.
const WINDOW: Duration = Duration::from_secs(60);

/// As it was read.
pub(super) struct Signing {
    source: Source,
    window: Duration,
    require: bool,
}

impl Signing {
    /// `None`: this group does not sign.
    pub(super) fn read(reader: &Reader<'_>) -> Read<Option<Self>> {
        let (window, require) = (reader.maybe_time("window"), reader.maybe_bool("require"));
        let source = source(reader)?;
        let (window, require) = (window?.unwrap_or(WINDOW), require?.unwrap_or(true));
        Ok(source.map(|source| Self {
            source,
            window,
            require,
        }))
    }

    /// Who was heard is kept beside the store.
    pub(super) fn kept_beside(self, store: &Path) -> Settings {
        Settings {
            source: self.source,
            window: self.window,
            require: self.require,
            heard: store.with_extension("heard.json"),
        }
    }
}

fn source(reader: &Reader<'_>) -> Read<Option<Source>> {
    let (shared, key) = (reader.maybe_secret("shared"), reader.maybe_secret("key"));
    let trusted = reader.maybe_path("trusted");
    match (shared?, key?, trusted?) {
        (None, None, None) => match reader.first_set(&["window", "require"]) {
            None => Ok(None),
            Some(set) => {
                let help = "give `shared`, or `key` and `trusted`";
                Err(reader.wrong(
                    &reader.key_at(set),
                    "no_key",
                    "there is no key to sign with",
                    help,
                ))
            }
        },
        (Some(shared), None, None) => Ok(Some(Source::Shared(shared))),
        (None, Some(key), Some(trusted)) => Ok(Some(Source::Own { key, trusted })),
        (Some(_), ..) => {
            let at = reader.key_at(reader.first_set(&["key", "trusted"]).unwrap_or("shared"));
            let message = "a group has one `shared` key, or each node a `key` of its own";
            Err(reader.wrong(&at, "two_kinds_of_keys", message, "remove one"))
        }
        (None, key, _) => {
            let at = reader.key_at(if key.is_some() { "key" } else { "trusted" });
            let message = "`key` signs and `trusted` verifies: they go together";
            Err(reader.wrong(&at, "half_a_key", message, "give both"))
        }
    }
}
