//! Reads the check of a file.

use std::time::Duration;

use super::fields;
use super::measures::covers;
use super::peers::Owner;
use super::reader::{Bad, Read, Reader};
use crate::checks::file::{Condition, File, Format, Pid, Progress};
use crate::checks::{self, Probe};

/// A file's check sees it twice at least within any bound.
const MIN_RUNS: u32 = 2;

pub(super) fn file(reader: &Reader<'_>, interval: Duration, owner: Option<&Owner>) -> Read<Probe> {
    let (path, max_age) = (reader.maybe_path("path"), reader.time("max_age"));
    let (progress, stopped_when) = (progress(reader, interval), stopped_when(reader));
    let (format, pid, any_host) = (format(reader), pid(reader), reader.bool("any_host"));
    if let Ok(max_age) = max_age {
        covers(reader, "max_age", max_age, interval, MIN_RUNS)?;
    }
    let path = path?.ok_or(Bad)?;
    let owned = matches!(owner, Some(Owner::Process(checks::Owner::HeartbeatFile(named))) if *named == path);
    let unless_given = if owned { Pid::Always } else { Pid::Seen };
    Ok(Probe::File(File {
        path,
        format: format?,
        max_age: max_age?,
        progress: progress?,
        stopped_when: stopped_when?,
        pid: pid?.unwrap_or(unless_given),
        any_host: any_host?,
    }))
}

fn format(reader: &Reader<'_>) -> Read<Format> {
    let (format, timestamp) = (reader.text("format"), reader.text("timestamp"));
    let (format, timestamp) = (format?, timestamp?);
    if format == "json" {
        let timestamp = Some(timestamp).filter(|field| field != "none");
        return Ok(Format::Json { timestamp });
    }
    match reader.first_set(&["timestamp", "pid", "any_host", "progress", "stopped_when"]) {
        None => Ok(Format::Plain),
        Some(key) => {
            let message = format!("a plain file has no fields, and `{key}` is about one");
            Err(reader.wrong(
                &reader.key_at(key),
                "plain_has_no_fields",
                message,
                "leave one of them out",
            ))
        }
    }
}

fn pid(reader: &Reader<'_>) -> Read<Option<Pid>> {
    let word = reader.maybe_text("pid")?;
    if word.is_some() && reader.is_set("any_host") && reader.bool("any_host")? {
        let message = "a number of another host says nothing, and any_host takes files of any host";
        let help = "leave one of pid and any_host out";
        return Err(reader.wrong(&reader.key_at("pid"), "pid_of_any_host", message, help));
    }
    Ok(word.map(|word| match word.as_str() {
        "always" => Pid::Always,
        "ignored" => Pid::Ignored,
        _ => Pid::Seen,
    }))
}

fn progress(reader: &Reader<'_>, interval: Duration) -> Read<Option<Progress>> {
    if !reader.is_set("progress") {
        return Ok(None);
    }
    let reader = reader.open("progress", &[&fields::FILE_PROGRESS])?;
    let (field, max_age) = (reader.text("field"), reader.time("max_age"));
    let (field, max_age) = (field?, max_age?);
    covers(&reader, "max_age", max_age, interval, MIN_RUNS)?;
    Ok(Some(Progress { field, max_age }))
}

fn stopped_when(reader: &Reader<'_>) -> Read<Option<Condition>> {
    if !reader.is_set("stopped_when") {
        return Ok(None);
    }
    let reader = reader.open("stopped_when", &[&fields::FILE_STOPPED])?;
    let (field, equals) = (reader.text("field"), reader.maybe_scalar("equals"));
    Ok(Some(Condition {
        field: field?,
        equals: equals?.ok_or(Bad)?,
    }))
}
