//! Where the node keeps what it needs, and what it is called when nobody says. Nothing here needs root.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::values::is_name;

/// The two directories. Neither is created here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dirs {
    /// What survives a restart: `$STATE_DIRECTORY`, `$XDG_STATE_HOME/defib`, `~/.local/state/defib`.
    pub(super) state: PathBuf,
    /// What does not: `$RUNTIME_DIRECTORY`, `$XDG_RUNTIME_DIR/defib`, `/tmp/defib-<uid>`.
    pub(super) runtime: PathBuf,
}

impl Dirs {
    pub(super) fn of(env: &BTreeMap<String, String>) -> Self {
        let given = |name: &str| {
            env.get(name)
                .map(String::as_str)
                .filter(|value| !value.is_empty())
        };
        // systemd separates several with colons; the first is the one that was asked for first.
        let systemd = |name: &str| {
            given(name)
                .and_then(|list| list.split(':').next())
                .map(PathBuf::from)
        };
        let temporary = || PathBuf::from(format!("/tmp/defib-{}", rustix::process::getuid().as_raw()));
        let home = || given("HOME").map(|home| Path::new(home).join(".local/state/defib"));
        let xdg = |name: &str| given(name).map(|dir| Path::new(dir).join("defib"));
        Self {
            state: systemd("STATE_DIRECTORY")
                .or_else(|| xdg("XDG_STATE_HOME"))
                .or_else(home)
                .unwrap_or_else(temporary),
            runtime: systemd("RUNTIME_DIRECTORY")
                .or_else(|| xdg("XDG_RUNTIME_DIR"))
                .unwrap_or_else(temporary),
        }
    }

    /// The node's name when the configuration gives none: the pod's, else an id kept in the state directory, else the
    /// host's.
    pub(super) fn node(&self, env: &BTreeMap<String, String>, may_write: bool) -> String {
        env.get("POD_NAME")
            .and_then(|pod| as_name(pod))
            .or_else(|| kept_id(&self.state.join("node-id"), may_write))
            .or_else(|| as_name(&rustix::system::uname().nodename().to_string_lossy()))
            .unwrap_or_else(|| "node".to_owned())
    }
}

/// `text` with what a name cannot hold replaced; its end, where names of pods differ, is kept.
fn as_name(text: &str) -> Option<String> {
    let lower = text.trim().to_ascii_lowercase();
    let clean: String = lower
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') {
                c
            } else {
                '-'
            }
        })
        .collect();
    let tail = &clean[clean.len().saturating_sub(63)..];
    Some(tail.trim_start_matches(['_', '.', '-']).to_owned()).filter(|name| is_name(name))
}

fn kept_id(path: &Path, may_write: bool) -> Option<String> {
    let read = || {
        fs::read_to_string(path)
            .ok()
            .map(|text| text.trim().to_owned())
            .filter(|id| is_name(id))
    };
    read().or_else(|| {
        let made = may_write && !path.exists() && make_id(path).is_ok();
        if made { read() } else { None }
    })
}

/// Writes a fresh id whole, or not at all: a link appears at once and never replaces one that another start made.
fn make_id(path: &Path) -> io::Result<()> {
    let mut random = [0; 6];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let id = format!(
        "{:012x}",
        random.iter().fold(0u64, |id, byte| id << 8 | u64::from(*byte))
    );
    let dir = path.parent().ok_or(io::ErrorKind::NotFound)?;
    fs::create_dir_all(dir)?;
    let draft = dir.join(format!(".node-id-{id}"));
    let written = fs::File::create_new(&draft).and_then(|mut file| {
        file.write_all(format!("node-{id}\n").as_bytes())?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    });
    let _ = fs::remove_file(&draft);
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn systemd_comes_before_xdg_before_home() {
        let all = env(&[
            ("STATE_DIRECTORY", "/var/lib/defib:/x"),
            ("XDG_STATE_HOME", "/s"),
            ("HOME", "/h"),
        ]);
        assert_eq!(Dirs::of(&all).state, Path::new("/var/lib/defib"));
        assert_eq!(
            Dirs::of(&env(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")])).state,
            Path::new("/s/defib")
        );
        assert_eq!(
            Dirs::of(&env(&[("HOME", "/h")])).state,
            Path::new("/h/.local/state/defib")
        );
        assert_eq!(
            Dirs::of(&env(&[("XDG_RUNTIME_DIR", "/r")])).runtime,
            Path::new("/r/defib")
        );
        assert!(Dirs::of(&env(&[])).runtime.starts_with("/tmp"));
    }

    #[test]
    fn an_id_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs {
            state: dir.path().join("deep/er"),
            runtime: PathBuf::new(),
        };
        let host = dirs.node(&env(&[]), false);
        assert!(!dirs.state.exists(), "looking does not write");
        let id = dirs.node(&env(&[]), true);
        assert_ne!(id, host);
        assert!(is_name(&id), "{id}");
        assert_eq!(dirs.node(&env(&[]), true), id);
        assert_eq!(dirs.node(&env(&[]), false), id);
        assert_eq!(fs::read_dir(&dirs.state).unwrap().count(), 1, "no draft is left");
        assert_eq!(dirs.node(&env(&[("POD_NAME", "Web_0")]), true), "web_0");
    }

    #[test]
    fn any_host_has_a_name() {
        assert_eq!(as_name("My Host").as_deref(), Some("my-host"));
        assert_eq!(as_name("-é-"), None);
        assert_eq!(as_name(&"x".repeat(300)).map(|name| name.len()), Some(63));
    }
}
