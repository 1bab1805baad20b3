//! `defib doctor`: can every configured check and remedy work here? What cannot is named with its cure.
//!
//! It looks as the user that runs it, from where it runs: run it as the node is run (`docker exec`, `kubectl exec`,
//! `sudo -u`). It changes nothing and publishes nothing.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;

use super::args::DoctorArgs;
use super::{api, exit};
use crate::app::acl::{self, Needs};
use crate::app::preflight::{PATIENCE, preflight};
use crate::config::Config;
use crate::preflight::{Finding, Item};
use crate::telemetry::logs::printable;

/// Looks, prints, and exits 0 unless something cannot work.
pub fn execute(args: &DoctorArgs) -> ExitCode {
    let config = match args.config.load(false) {
        Ok(config) => config,
        Err(report) => {
            super::say_error(&report.to_string());
            return ExitCode::from(exit::CONFIG);
        }
    };
    if args.acl {
        return super::say(acl(&config).trim_end());
    }
    let items = match api::on_one_thread(preflight(&config, None, PATIENCE)) {
        Ok(items) => items,
        Err(error) => {
            super::say_error(&format!("defib: {error:#}"));
            return ExitCode::from(exit::INTERNAL);
        }
    };
    let count = Count::of(&items);
    if args.json {
        let report = Report {
            uid: rustix::process::geteuid().as_raw(),
            count,
            items: &items,
        };
        super::say(&serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        api::print(&told(&items, count));
    }
    let fine = count.missing == 0 && !(args.strict && count.unknown > 0);
    ExitCode::from(if fine { exit::OK } else { exit::FAILED })
}

/// One line for each server, ready to be pasted: only the comments say what cannot be known here.
fn acl(config: &Config) -> String {
    let needs = acl::needs(config);
    let mut text = String::new();
    if needs.is_empty() {
        text.push_str("# nothing is asked of a Redis: the bus is inside the node\n");
    }
    for Needs { endpoint, rules } in &needs {
        let _ = writeln!(text, "# at {}", endpoint.address);
        let rules = rules.to_string();
        if rules.contains("%R~") {
            text.push_str("# %R~ (a key that is only read) is of Redis 7: before, write ~ in its place\n");
        }
        let user = endpoint.user.as_deref().unwrap_or_else(|| {
            text.push_str(
                "# the configuration names no user: give it this one (bus.user) and its password\n",
            );
            "defib"
        });
        let _ = writeln!(
            text,
            "ACL SETUSER {user} on resetkeys resetchannels -@all {rules}"
        );
    }
    if !needs.is_empty() {
        text.push_str("# a new user also needs a password: >PASSWORD\n");
    }
    text
}

#[derive(Serialize)]
struct Report<'i> {
    uid: u32,
    #[serde(flatten)]
    count: Count,
    items: &'i [Item],
}

#[derive(Clone, Copy, Default, Serialize)]
struct Count {
    ok: usize,
    missing: usize,
    unknown: usize,
}

impl Count {
    fn of(items: &[Item]) -> Self {
        items.iter().fold(Self::default(), |mut count, item| {
            match item.finding {
                Finding::Ok { .. } => count.ok += 1,
                Finding::Missing { .. } => count.missing += 1,
                Finding::Unknown { .. } => count.unknown += 1,
            }
            count
        })
    }
}

fn told(items: &[Item], count: Count) -> String {
    let subjects: Vec<String> = items.iter().map(|item| item.subject.to_string()).collect();
    let width = subjects.iter().map(|subject| subject.chars().count()).max();
    let width = width.unwrap_or_default();
    let mut text = String::new();
    for (item, subject) in items.iter().zip(subjects) {
        let (word, reason) = match &item.finding {
            Finding::Ok { note } => ("ok", note.as_deref().unwrap_or_default()),
            Finding::Missing { reason, .. } => ("MISSING", reason.as_str()),
            Finding::Unknown { reason } => ("unknown", reason.as_str()),
        };
        let line = format!("{word:<7}  {subject:<width$}  {}", printable(reason));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
        if let Finding::Missing { cure, .. } = &item.finding {
            // Alone on its line: it may be there to be pasted.
            let _ = writeln!(text, "         {}", printable(cure));
        }
    }
    let Count { ok, missing, unknown } = count;
    let _ = writeln!(
        text,
        "{ok} can work, {missing} cannot, {unknown} could not be told, as uid {}",
        rustix::process::geteuid().as_raw()
    );
    text
}
