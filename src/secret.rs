//! Secrets: where one lives, and how it never gets into a log.

use std::fmt;
use std::path::PathBuf;

/// Where a secret is found. Its value is read when it is needed, so that a rotated file is picked up.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// Written into the configuration, or into a URL there.
    Inline(String),
    /// In this environment variable.
    Env(String),
    /// In this file; a trailing newline is cut off.
    File(PathBuf),
}

/// A secret that could not be read. Says where it should have been, never what it was.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is not set, or not UTF-8.
    #[error("environment variable {0} is not set (or is not UTF-8)")]
    Env(String),
    /// The file cannot be read.
    #[error("cannot read the secret file {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Secret {
    /// The value itself.
    pub fn reveal(&self) -> Result<String, SecretError> {
        match self {
            Self::Inline(value) => Ok(value.clone()),
            Self::Env(name) => std::env::var(name).map_err(|_| SecretError::Env(name.clone())),
            Self::File(path) => std::fs::read_to_string(path)
                .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
                .map_err(|source| SecretError::File {
                    path: path.clone(),
                    source,
                }),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Secret(inline, hidden)"),
            Self::Env(name) => write!(f, "Secret(env {name})"),
            Self::File(path) => write!(f, "Secret(file {})", path.display()),
        }
    }
}
