//! Reads the checks by which a peer itself reports: `notify` and `push`.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reader::{Read, Reader};
use super::schema::time;
use crate::checks::notify::{Notify, bounds};
use crate::engine::cause::Cause;
use crate::engine::settings::{CheckKind, DetectorSettings, Source};

/// Bytes of a socket's path: the kernel takes 107, and the socket is made under a longer name.
const MAX_SOCKET_PATH: usize = 103;

/// How a `push` check's beats are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Push {
    pub(super) run_within: Duration,
}

/// `default`: where its socket lies unless it says so.
pub(super) fn notify(reader: &Reader<'_>, default: &Path, ownerless: bool) -> Read<(CheckKind, Notify)> {
    let (socket, mode, users) = (
        reader.maybe_path("socket"),
        reader.text("mode"),
        reader.maybe_users("users"),
    );
    let (watchdog, longest) = (reader.time("watchdog"), reader.time("max_watchdog"));
    let (watchdog, longest) = (watchdog?, longest?);
    if longest < watchdog {
        let message = format!(
            "`max_watchdog` ({}) must not be less than `watchdog` ({})",
            time(longest),
            time(watchdog)
        );
        let key = if reader.is_set("max_watchdog") {
            "max_watchdog"
        } else {
            "watchdog"
        };
        return Err(reader.wrong(&reader.at(key), "max_watchdog", message, ""));
    }
    let socket = socket?;
    let path = socket.clone().unwrap_or_else(|| default.to_owned());
    if !path.is_absolute() || path.as_os_str().as_bytes().len() > MAX_SOCKET_PATH {
        let message = format!(
            "{} is no absolute path of at most {MAX_SOCKET_PATH} bytes",
            path.display()
        );
        let at = match socket {
            Some(_) => reader.at("socket"),
            None => reader.origin.clone(),
        };
        let help = "as in socket = \"/run/defib/feed.sock\"";
        return Err(reader.wrong(&at, "socket_path", message, help));
    }
    let (suspect_after, dead_after) = bounds(watchdog);
    let kind = CheckKind::Passive {
        source: Source::Reported { names_lives: true },
        detector: DetectorSettings::Deadline {
            suspect_after,
            dead_after,
        },
        cause: Cause::PeerSilent,
    };
    let notify = Notify {
        socket: path,
        mode: u32::from_str_radix(&mode?, 8).unwrap_or(0o660),
        users: users?.unwrap_or_default(),
        max_watchdog: longest,
        required: reader.bool("watchdog_required")?,
        names_lives: ownerless,
    };
    Ok((kind, notify))
}

/// The socket of a peer's check, below the node's runtime directory.
pub(super) fn default_socket(runtime: &Path, peer: &str, check: &str) -> PathBuf {
    let name = match check {
        "notify" => format!("{peer}.sock"),
        other => format!("{peer}.{other}.sock"),
    };
    runtime.join("notify").join(name)
}

pub(super) fn push(reader: &Reader<'_>) -> Read<(CheckKind, Push)> {
    let (suspect_after, dead_after) = (reader.time("suspect_after"), reader.maybe_time("dead_after"));
    let run_within = reader.maybe_time("run_within");
    let suspect_after = suspect_after?;
    let dead_after = dead_after?.unwrap_or(suspect_after * 5 / 2);
    if dead_after <= suspect_after {
        let message = format!(
            "`dead_after` ({}) must be more than `suspect_after` ({})",
            time(dead_after),
            time(suspect_after)
        );
        return Err(reader.wrong(&reader.at("dead_after"), "dead_after", message, ""));
    }
    let kind = CheckKind::Passive {
        source: Source::Reported { names_lives: false },
        detector: DetectorSettings::Deadline {
            suspect_after,
            dead_after,
        },
        cause: Cause::PeerSilent,
    };
    let run_within = run_within?.unwrap_or(dead_after);
    Ok((kind, Push { run_within }))
}
