//! Reads the checks that measure: `metric`, `connections`, `memory`.

use std::time::Duration;

use super::peers::Owner;
use super::reader::{Read, Reader};
use super::schema::time;
use crate::checks::connections::Connections;
use crate::checks::memory::{Growth, Memory, Of};
use crate::checks::metric::{Aggregate, Bound, Metric};
use crate::checks::page::Exposed;
use crate::checks::{self, Probe};

/// In how long a process may grow by `growth`, where the configuration does not say.
const GROWTH_OVER: Duration = Duration::from_secs(600);
/// A bound on growth sees so many runs at least.
const MIN_RUNS: u32 = 16;

pub(super) fn metric(reader: &Reader<'_>, interval: Duration) -> Read<Probe> {
    let page = exposed(reader);
    let aggregate = reader.text("aggregate").map(|word| match word.as_str() {
        "max" => Aggregate::Max,
        "min" => Aggregate::Min,
        _ => Aggregate::Sum,
    });
    let rate_over = reader.maybe_time("rate_over");
    let bound = bound(reader);
    let (aggregate, rate_over) = (aggregate?, rate_over?);
    if rate_over.is_some() && aggregate != Aggregate::Sum {
        let message = "the rates of several series are added; `aggregate` is for values";
        return Err(reader.wrong(
            &reader.at("aggregate"),
            "rate_is_a_sum",
            message,
            "leave one of rate_over and aggregate out",
        ));
    }
    if let Some(over) = rate_over {
        covers(reader, "rate_over", over, interval, 2)?;
    }
    Ok(Probe::Metric(Metric {
        page: page?,
        aggregate,
        rate_over,
        bound: bound?,
    }))
}

pub(super) fn connections(reader: &Reader<'_>, owner: Option<&Owner>) -> Read<Probe> {
    let (page, ports, below) = (exposed(reader), reader.maybe_ports("ports"), reader.int("below"));
    let ports = match (ports?, owner) {
        (Some(ports), _) => ports,
        (None, Some(Owner::Process(checks::Owner::Listens(port)))) => vec![*port],
        (None, Some(Owner::Process(checks::Owner::ListensAt(address)))) => vec![address.port()],
        (None, _) => {
            return Err(reader.wrong(
                &reader.origin,
                "connections_need_ports",
                "it is not said on which ports the connections come in",
                "add ports = [9080], or find the owner by what it listens on",
            ));
        }
    };
    Ok(Probe::Connections(Connections {
        page: page?,
        ports,
        below: below?,
    }))
}

/// `owner`: the peer's, or why there is none to be had; what is wrong with it was reported.
pub(super) fn memory(reader: &Reader<'_>, interval: Duration, owner: &Read<Option<Owner>>) -> Read<Probe> {
    let of = reader.maybe_text("of");
    let (below, growth, over) = (
        reader.maybe_size("below"),
        reader.maybe_size("growth"),
        reader.maybe_time("over"),
    );
    let of = match (of?.as_deref(), owner) {
        (Some("cgroup"), _) | (None, Ok(Some(Owner::Container(_)))) => Of::Cgroup,
        _ => Of::Process,
    };
    let (below, growth, over) = (below?, growth?, over?);
    if matches!(owner, Ok(None)) {
        return Err(reader.wrong(
            &reader.origin,
            "memory_needs_owner",
            "a `memory` check measures the peer's owner, and it has none",
            "add owner = { listens = 9080 }, or pid_file, command, pid, container, compose, label",
        ));
    }
    if below.is_none() && growth.is_none() {
        return Err(reader.wrong(
            &reader.origin,
            "memory_bound",
            "a `memory` check has a bound, and this one has none",
            "add below = \"512MiB\", or growth = \"50MiB\", or both",
        ));
    }
    if growth.is_none() && over.is_some() {
        return Err(reader.wrong(
            &reader.key_at("over"),
            "memory_bound",
            "`over` says in how long it may grow, but not by how much",
            "add growth = \"50MiB\"",
        ));
    }
    let over = over.unwrap_or(GROWTH_OVER);
    if growth.is_some() {
        covers(reader, "over", over, interval, MIN_RUNS)?;
    }
    Ok(Probe::Memory(Memory {
        of,
        below,
        growth: growth.map(|below| Growth { below, over }),
    }))
}

fn exposed(reader: &Reader<'_>) -> Read<Exposed> {
    let (url, series, bearer, body_limit) = (
        reader.text("url"),
        reader.series("series"),
        reader.maybe_secret("bearer"),
        reader.int("body_limit"),
    );
    Ok(Exposed {
        url: url?,
        series: series?,
        bearer: bearer?,
        body_limit: body_limit?,
    })
}

fn bound(reader: &Reader<'_>) -> Read<Bound> {
    let (below, above) = (reader.maybe_number("below"), reader.maybe_number("above"));
    match (below?, above?) {
        (Some(bound), None) => Ok(Bound::Below(bound)),
        (None, Some(bound)) => Ok(Bound::Above(bound)),
        (None, None) => Err(reader.wrong(
            &reader.origin,
            "metric_bound",
            "a `metric` check has a bound, and this one has none",
            "add below or above",
        )),
        (Some(_), Some(_)) => Err(reader.wrong(
            &reader.key_at("above"),
            "metric_bound",
            "below and above are given, and exactly one is taken",
            "make two checks of it",
        )),
    }
}

/// A window has to see some runs.
pub(super) fn covers(
    reader: &Reader<'_>,
    key: &str,
    window: Duration,
    interval: Duration,
    runs: u32,
) -> Read<()> {
    if window >= interval * runs {
        return Ok(());
    }
    let message = format!(
        "`{key}` ({}) must be at least {runs} times the interval ({})",
        time(window),
        time(interval)
    );
    Err(reader.wrong(&reader.at(key), "window", message, ""))
}
