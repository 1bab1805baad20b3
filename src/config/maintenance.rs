//! Reads `[[maintenance]]`.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::fields;
use super::reader::{Read, Reader, all_of};
use super::suggest;
use super::tree::Node;
use crate::calendar::{TimeOfDay, Weekday, When, Window, Zone, moment};

/// Windows of one node.
const MAX: usize = 64;

/// All of them, in their order.
///
/// `discovers`: more peers may come of Docker's labels.
pub(super) fn windows(root: &Reader<'_>, discovers: bool) -> Read<Vec<Window>> {
    let list = root.list("maintenance");
    let mut all = Vec::new();
    if let Some(over) = list.get(MAX) {
        let message = format!("there are at most {MAX} maintenance windows");
        all.push(Err(root.wrong(&over.origin, "too_many", message, "")));
    }
    all.extend(list.iter().take(MAX).map(|node| window(root, node, discovers)));
    all_of(all)
}

fn window(root: &Reader<'_>, node: &Node, discovers: bool) -> Read<Window> {
    let reader = root.child("maintenance", &node.origin, node, &[&fields::MAINTENANCE])?;
    let (reason, peers) = (reader.text("reason"), peers(root, &reader, discovers));
    let (days, zone) = (days(&reader), zone(&reader));
    let (from, to) = (reader.text("from"), reader.text("to"));
    let (days, zone, from, to) = (days?, zone?, from?, to?);
    let wrong = |key: &str, text: &str| {
        let message = format!("`{key}`: {text:?} is neither a time of day nor a date and time");
        reader.wrong(
            &reader.at(key),
            "maintenance_time",
            message,
            "as in \"02:30\" or \"2026-12-24 22:00\"",
        )
    };
    let when = match (TimeOfDay::parse(&from), TimeOfDay::parse(&to)) {
        (Some(from), Some(to)) => When::Weekly {
            days: if days.is_empty() {
                Weekday::ALL.into_iter().collect()
            } else {
                days
            },
            from,
            to,
            zone,
        },
        (Some(_), None) if moment(&to, zone).is_none() => return Err(wrong("to", &to)),
        (None, Some(_)) if moment(&from, zone).is_none() => return Err(wrong("from", &from)),
        (Some(_), None) | (None, Some(_)) => {
            let message = "`from` and `to` are two times of day, or two dates with their times";
            let help = "a window that comes once has a date at both ends";
            return Err(reader.wrong(&reader.at("to"), "maintenance_time", message, help));
        }
        (None, None) => {
            let (begins, ends) = (moment(&from, zone), moment(&to, zone));
            let begins = begins.ok_or_else(|| wrong("from", &from));
            let ends = ends.ok_or_else(|| wrong("to", &to));
            let (begins, ends) = (begins?, ends?);
            if !days.is_empty() {
                let message = "`days` are for a window that comes again and again, and this one has dates";
                return Err(reader.wrong(
                    &reader.key_at("days"),
                    "maintenance_days",
                    message,
                    "remove one of them",
                ));
            }
            if begins >= ends {
                let message = "`to` is not after `from`";
                return Err(reader.wrong(&reader.at("to"), "maintenance_time", message, ""));
            }
            When::Once {
                from: begins,
                to: ends,
            }
        }
    };
    Ok(Window {
        reason: reason?.into(),
        peers: peers?,
        when,
    })
}

fn zone(reader: &Reader<'_>) -> Read<Zone> {
    let text = reader.text("zone")?;
    Zone::parse(&text).ok_or_else(|| {
        let message = format!("`zone`: {text:?} is neither UTC nor a distance from it");
        let help =
            "as in \"UTC\", \"+01:00\" or \"-03:30\"; names of places, whose clocks change, are not known";
        reader.wrong(&reader.at("zone"), "maintenance_zone", message, help)
    })
}

fn days(reader: &Reader<'_>) -> Read<BTreeSet<Weekday>> {
    let mut days = BTreeSet::new();
    for name in reader.texts("days")? {
        let Some(day) = Weekday::ALL.into_iter().find(|day| day.as_str() == name) else {
            let message = format!("`days`: {name:?} is no day of the week");
            let help = "those are mon, tue, wed, thu, fri, sat, sun";
            return Err(reader.wrong(&reader.at("days"), "maintenance_days", message, help));
        };
        days.insert(day);
    }
    Ok(days)
}

/// Those that are configured; where Docker's labels add some, a name may be one of theirs.
fn peers(root: &Reader<'_>, reader: &Reader<'_>, discovers: bool) -> Read<Arc<[Arc<str>]>> {
    let names = reader.texts("peers")?;
    let known = root.named("peer");
    for name in &names {
        if discovers || known.iter().any(|(known, ..)| known == name) {
            continue;
        }
        let message = format!("`peers`: there is no peer `{name}`");
        let near = suggest::closest(name, known.iter().map(|(known, ..)| *known));
        let help = near.map_or_else(String::new, |near| format!("did you mean `{near}`?"));
        return Err(reader.wrong(&reader.at("peers"), "unknown_peer", message, help));
    }
    Ok(names.into_iter().map(Arc::from).collect())
}
