//! `defib status`: what a running node knows, as a table that a person likes to read.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;

use super::api::{self, Node};
use super::args::StatusArgs;
use crate::engine::peer::Liveness;
use crate::engine::self_trust::BusState;
use crate::engine::snapshot::{CheckView, PeerView, Snapshot};
use crate::engine::time::Time;
use crate::http::Status;
use crate::http::explain::{ago, ahead, span};
use crate::telemetry::logs::printable;

/// Prints the table, or the node's answer as it is; exit 1 if there is no answer.
pub fn execute(args: &StatusArgs) -> ExitCode {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    api::answered(async {
        let node = Node::public(&args.node)?;
        let answer = node.get("/api/v1/status", api::TIMEOUT).await?.good()?;
        if args.json {
            let text = String::from_utf8(answer).context("the answer is not UTF-8: is that a defib?")?;
            return Ok(text + "\n");
        }
        let status = serde_json::from_slice(&answer)
            .context("the answer is not the status of a defib of this version; --json shows it as it is")?;
        Ok(render(&status, colour))
    })
}

const HEADINGS: [&str; 6] = ["PEER", "LIVENESS", "FOR", "CAUSE", "CHECKS", "NEXT"];

/// The table.
fn render(status: &Status, colour: bool) -> String {
    let paint = Paint(colour);
    let mut out = String::new();
    if let Some(error) = &status.config_error {
        let error = error.lines().map(printable).collect::<Vec<_>>().join("\n  ");
        let _ = writeln!(
            out,
            "{}\n  {error}",
            paint.bad("the configuration is invalid, nothing is judged")
        );
        return out;
    }
    let Some(snapshot) = &status.snapshot else {
        return "starting: the engine has not run yet\n".to_owned();
    };
    // Writing to a String cannot fail.
    let _ = write_node(&mut out, status, snapshot, paint);
    if let Some(error) = &status.config_refused {
        let error = error.lines().map(printable).collect::<Vec<_>>().join("\n  ");
        let _ = writeln!(
            out,
            "{}\n  {error}",
            paint.bad("the last reload was refused, and the configuration of before holds")
        );
    }
    let rows: Vec<_> = snapshot
        .peers
        .iter()
        .zip(&status.next)
        .map(|(peer, next)| row(peer, next, status.now))
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([HEADINGS[column].len()]).max().unwrap_or_default()
    };
    let widths: [usize; HEADINGS.len()] = std::array::from_fn(width);
    let line = |cells: [&str; HEADINGS.len()], liveness: Option<Liveness>| {
        let mut line = String::new();
        for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let padded = format!("{cell:<width$}");
            match liveness {
                Some(liveness) if column == 1 => line.push_str(&paint.liveness(liveness, &padded)),
                Some(_) => line.push_str(&padded),
                None => line.push_str(&paint.dim(&padded)),
            }
            line.push_str("  ");
        }
        line.trim_end().to_owned() + "\n"
    };
    out.push_str(&line(HEADINGS, None));
    for (peer, row) in snapshot.peers.iter().zip(&rows) {
        out.push_str(&line(row.each_ref().map(String::as_str), Some(peer.liveness)));
        if peer.liveness != Liveness::Alive && !peer.detail.is_empty() {
            let _ = writeln!(out, "  {}", paint.dim(&printable(&peer.detail)));
        }
    }
    if snapshot.peers.is_empty() {
        out.push_str("no peer is configured: nothing is watched\n");
    }
    out
}

fn row(peer: &PeerView, next: &str, now: Time) -> [String; HEADINGS.len()] {
    [
        peer.name.to_string(),
        peer.liveness.to_string(),
        span(now.since(peer.since)),
        peer.cause.map_or_else(String::new, |cause| cause.to_string()),
        checks(&peer.checks),
        printable(next).into_owned(),
    ]
}

fn counted(number: usize, of: &str) -> String {
    format!("{number} {of}{}", if number == 1 { "" } else { "s" })
}

/// How many are well; and the names of the others, which are what one looks for.
fn checks(checks: &[CheckView]) -> String {
    let ill: Vec<_> = checks
        .iter()
        .filter(|check| check.verdict != Liveness::Alive)
        .map(|check| format!("{} {}", check.name, check.verdict))
        .collect();
    match (checks.len(), ill.is_empty()) {
        (0, _) => "none".to_owned(),
        (all, true) => format!("{all} pass"),
        (_, false) => ill.join(", "),
    }
}

fn write_node(out: &mut String, status: &Status, snapshot: &Snapshot, paint: Paint) -> std::fmt::Result {
    let (trust, now) = (&snapshot.trust, status.now);
    let up = span(snapshot.uptime + now.since(snapshot.at));
    writeln!(
        out,
        "node {} of group {}, up {up}, defib {}",
        snapshot.node, snapshot.group, status.version
    )?;
    let bus = format!("bus {} for {}", trust.bus, span(now.since(trust.since)));
    if trust.bus == BusState::Trusted {
        writeln!(out, "{bus}")?;
    } else {
        writeln!(
            out,
            "{}",
            paint.bad(&format!("{bus}: {}", printable(&trust.detail)))
        )?;
    }
    if let Some(until) = trust.settling_until.filter(|until| now < *until) {
        writeln!(out, "settling: no remedy; ends {}", ahead(until, now))?;
    }
    if let Some(mass) = &snapshot.mass_silence {
        let silent = format!(
            "mass silence of {}, {}: all is held",
            counted(mass.members.len(), "peer"),
            ago(mass.since, now)
        );
        writeln!(out, "{}", paint.bad(&silent))?;
    }
    if let Some(pause) = &snapshot.pause {
        let ends = pause.until.map_or_else(
            || "until resumed".to_owned(),
            |until| format!("ends {}", ahead(until, now)),
        );
        writeln!(
            out,
            "paused by {} ({}), {ends}",
            printable(&pause.by),
            printable(&pause.reason)
        )?;
    }
    if snapshot.dry_run {
        writeln!(out, "dry run: remedies are decided and not carried out")?;
    }
    if snapshot.draining {
        writeln!(out, "draining: nothing is healed any more")?;
    }
    for (peer, _) in status.healthz_probes.iter().filter(|(_, probes)| **probes == 0) {
        writeln!(
            out,
            "{peer}: its healthz remedy is not wired: no probe of /healthz/{peer} has come"
        )?;
    }
    writeln!(out)
}

/// Colours, where a terminal shows them.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn liveness(self, liveness: Liveness, text: &str) -> String {
        match liveness {
            Liveness::Alive => self.with("32", text),
            Liveness::Suspect => self.with("33", text),
            Liveness::Dead => self.with("1;31", text),
            Liveness::Unknown => self.with("2", text),
        }
    }

    fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
