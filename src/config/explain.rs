//! A configuration in words. They come from the settings themselves, so they say what the node will do.

mod asks;

use std::fmt::Write as _;
use std::time::Duration;

use super::schema::{size, time};
use super::{Config, remedy::signal_name, rules::unreachable};
use crate::bus::Backend;
use crate::checks::connections::Connections;
use crate::checks::file::{File, Format, Pid};
use crate::checks::memory::{Memory, Of};
use crate::checks::metric::{Aggregate, Bound, Metric};
use crate::checks::page::Exposed;
use crate::checks::subscription::Subscription;
use crate::checks::{Owner, Probe, WantedSockets};
use crate::engine::cause::Cause;
use crate::engine::event::{CheckId, PeerId};
use crate::engine::settings::{
    Bounds, CheckKind, CheckSettings, Decides, DetectorSettings, PeerSettings, RemedySettings, Settings,
    Source,
};
use crate::fleet::Group;
use crate::http_client::{Expect, Question};
use crate::notify::{Event, Kind};
use crate::redis_client::Address;
use crate::remedies::{Action, DockerAct, Remedy, Signal, SystemdAct, UnitAction};
use crate::signing;
use crate::systemd::Whom;

/// `OK`, and what is probably not meant.
pub fn verdict(config: &Config) -> String {
    let engine = config.engine_settings("".into());
    let checks: usize = engine.peers.iter().map(|peer| peer.checks.len()).sum();
    let mut out = format!(
        "OK: node {} of group {}: {}, {}\n",
        config.node,
        config.group,
        counted(engine.peers.len(), "peer"),
        counted(checks, "check")
    );
    for warning in &config.warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
    out
}

/// What is watched, what follows after how long, and what never happens.
pub fn explain(config: &Config) -> String {
    let engine = config.engine_settings("".into());
    let mut out = String::new();
    let _ = writeln!(out, "{}", bus(config));
    let _ = writeln!(
        out,
        "This node says that it lives every {} on `{}`, and judges others only while it hears itself.",
        time(engine.interval),
        engine.group_channel
    );
    let admin = match (&config.http.admin_socket, &config.http.admin_listen) {
        (Some(socket), None) => format!("on the socket {}", socket.display()),
        (Some(socket), Some((port, _))) => {
            format!("on the socket {} and, with a token, on {port}", socket.display())
        }
        (None, Some((port, _))) => format!("with a token on {port}"),
        (None, None) => "nowhere".to_owned(),
    };
    let _ = writeln!(
        out,
        "Probes and metrics are on {}; orders are taken {admin}.",
        config.http.listen
    );
    out.push_str(&leases(config));
    out.push_str(&signing(config));
    out.push_str(&told(config));
    for (id, peer) in engine.peers() {
        out.push('\n');
        self::peer(&mut out, config, &engine, id, peer);
    }
    out.push('\n');
    never(&mut out, &engine);
    out
}

/// Whose peers of that name are the same one.
fn among_nodes(known_as: &str, name: &str) -> String {
    let which = match known_as.split_once(':') {
        _ if known_as == name => "that every node means by this name",
        Some(("host", _)) => "that the nodes of this machine mean by this name",
        Some(("pid", _)) => "that those nodes mean by this name which see the same processes",
        Some(("net", _)) => "that those nodes mean by this name which are in the same network namespace",
        _ => return "this node's own".to_owned(),
    };
    format!("the one {which}")
}

fn leases(config: &Config) -> String {
    let leases = &config.leases;
    if leases.prefixes.is_empty() {
        return String::new();
    }
    let place = match &config.bus.backend {
        Backend::Redis(_) => "in that Redis",
        Backend::Embedded { .. } => "in this process",
    };
    format!(
        "Applications may take leases {place} on keys that begin with {}; {} at once, each for {} at most.\n",
        leases.prefixes.join(" or "),
        leases.max,
        time(leases.max_ttl)
    )
}

fn signing(config: &Config) -> String {
    let Some(signing) = &config.signing else {
        return String::new();
    };
    let keys = match &signing.source {
        signing::Source::Shared(_) => "with the key of the group".to_owned(),
        signing::Source::Own { trusted, .. } => format!(
            "with its own key, and others' are verified with those in {}",
            trusted.display()
        ),
    };
    let rest = if signing.require {
        "What does not verify changes nothing."
    } else {
        "What is not signed is believed all the same."
    };
    format!("This node signs what it says {keys}. {rest}\n")
}

/// Who is told. (Not where: a URL may be a secret.)
fn told(config: &Config) -> String {
    let mut out = String::new();
    for target in &config.notify {
        let form = match target.kind {
            Kind::Json { .. } => "by JSON",
            Kind::Alertmanager { .. } => "as an Alertmanager",
        };
        let events: Vec<&str> = target.events.iter().map(|event| event.as_str()).collect();
        let events = match events.len() {
            0 => "nothing but what a ladder asks for".to_owned(),
            all if all == Event::CHOICE.len() => "every change of an episode".to_owned(),
            _ => events.join(", "),
        };
        let peers = match &target.peers {
            Some(peers) => peers.iter().map(|peer| &**peer).collect::<Vec<_>>().join(", "),
            None => "every peer".to_owned(),
        };
        let signed = if target.hmac.is_some() { ", signed" } else { "" };
        let _ = writeln!(
            out,
            "{} is told {form}{signed}: {events}; of {peers}.",
            target.name
        );
    }
    out
}

fn bus(config: &Config) -> String {
    match &config.bus.backend {
        Backend::Redis(endpoint) => {
            let place = match &endpoint.address {
                Address::Tcp { host, port } => format!("{host}:{port}"),
                Address::Tls { host, port, .. } => format!("{host}:{port}, over TLS"),
                Address::Unix(path) => path.display().to_string(),
            };
            format!("The bus is the Redis at {place}.")
        }
        Backend::Embedded {
            listen: Some(address),
        } => {
            format!("The bus is inside this process; others of this machine join it at redis://{address}.")
        }
        Backend::Embedded { listen: None } => {
            "The bus is inside this process, and nobody else can join it.".to_owned()
        }
    }
}

fn peer(out: &mut String, config: &Config, engine: &Settings, id: PeerId, peer: &PeerSettings) {
    let owner = config
        .checks
        .owners
        .iter()
        .find(|(owned, ..)| *owned == id)
        .map(|(_, owner, ..)| owner);
    let container = config
        .checks
        .containers
        .iter()
        .find(|(_, check, _)| check.peer == id)
        .map(|(selector, ..)| selector);
    let unit = config
        .checks
        .units
        .iter()
        .find(|(_, check, _)| check.peer == id)
        .map(|(unit, ..)| unit);
    let place = match (owner, container, unit) {
        (Some(owner), ..) => format!("on this machine: {}", self::owner(owner)),
        (_, Some(selector), _) => format!("on this machine: the {selector}"),
        (.., Some(unit)) => format!("on this machine: the {unit}"),
        (None, None, None) if peer.local => "on this machine, without an owner".to_owned(),
        (None, None, None) => "known by the bus alone".to_owned(),
    };
    let _ = writeln!(out, "{} ({place})", peer.name);
    for (index, check) in peer.checks.iter().enumerate() {
        let probe = config
            .checks
            .probes
            .iter()
            .find(|(check, ..)| check.peer == id && usize::from(check.index) == index)
            .map(|(_, probe, schedule)| (probe, schedule.timeout));
        let reports = reports(config, &peer.name, id, index);
        let text = self::check(check, probe, reports, engine);
        let _ = writeln!(out, "  {}: {text}", check.name);
    }
    if peer.remedies.is_empty() {
        let _ = writeln!(
            out,
            "  No remedy: it is shown, logged and exported, and nothing is done."
        );
        return;
    }
    if config.fleet.group == Group::Redis && peer.remedies.iter().any(|rung| rung.restarts) {
        let _ = writeln!(
            out,
            "  In the group it is {}.",
            among_nodes(&peer.known_as, &peer.name)
        );
    }
    for (rung, remedy) in (0u16..).zip(&peer.remedies) {
        healing(out, peer, rung, remedy, config.remedies.get(&(id, rung)));
    }
    limits(out, engine, peer);
}

fn owner(owner: &Owner) -> String {
    match owner {
        Owner::Pid(pid) => format!("process {pid}"),
        Owner::PidFile(path) | Owner::HeartbeatFile(path) => format!("the process of {}", path.display()),
        Owner::Command(part) => format!("the process whose command line contains `{part}`"),
        Owner::Listens(port) => format!("the process that listens on port {port}"),
        Owner::ListensAt(address) => format!("the process that listens on {address}"),
    }
}

fn check(
    check: &CheckSettings,
    probe: Option<(&Probe, Duration)>,
    reports: Option<String>,
    engine: &Settings,
) -> String {
    let mut text = match &check.kind {
        CheckKind::Passive {
            source,
            detector,
            cause,
        } => {
            let source = reports.unwrap_or_else(|| self::source(source));
            format!("{source}; {} ({cause})", self::silence(detector))
        }
        CheckKind::Process { fail_after, interval } => format!(
            "its exit condemns at once ({}); stopped in {} of {} looks, one every {}, condemns ({})",
            Cause::PeerExited,
            fail_after.m,
            fail_after.n,
            time(*interval),
            Cause::PeerStuck
        ),
        CheckKind::Active {
            fail_after,
            interval,
            proves,
        } => {
            let asked = match probe {
                Some((Probe::Http(question), timeout)) => asks(question, timeout),
                Some((Probe::Docker, _)) => "its container's own health check, looked at".to_owned(),
                Some((Probe::Systemd { settle_within }, _)) => format!(
                    "its unit is not starting or reloading for {}, looked at",
                    time(*settle_within)
                ),
                Some((Probe::Metric(metric), _)) => measures(metric),
                Some((Probe::Connections(connections), _)) => compares(connections),
                Some((Probe::Memory(memory), _)) => weighs(memory),
                Some((Probe::File(file), _)) => beats(file),
                Some((Probe::Sockets(wanted), _)) => connections(wanted),
                Some((Probe::Subscription(subscription), _)) => watches(subscription),
                Some((Probe::Tcp(tcp), timeout)) => asks::connects(tcp, timeout),
                Some((Probe::Exec(exec), timeout)) => asks::runs(exec, timeout),
                Some((Probe::RedisKey(key), _)) => asks::reads(key),
                Some((Probe::RedisLock(lock), _)) => asks::locks(lock),
                None => String::new(),
            };
            format!(
                "{asked} every {}; {} failures of {} condemn ({})",
                time(*interval),
                fail_after.m,
                fail_after.n,
                words(proves)
            )
        }
    };
    if let Some(name) = check
        .needs
        .and_then(|needs| engine.expectations.get(usize::from(needs.0)))
    {
        let _ = write!(text, "; only while `{name}` is met");
    }
    match check.decides {
        Decides::Liveness => {}
        Decides::Readiness => text.push_str("; decides readiness only"),
        Decides::Nothing => text.push_str("; decides nothing, is shown"),
    }
    text
}

fn watches(subscription: &Subscription) -> String {
    let names: Vec<String> = subscription
        .channels
        .iter()
        .map(|channel| format!("`{channel}`"))
        .collect();
    let server = match &subscription.redis {
        Some(endpoint) => endpoint.address.to_string(),
        None => "the bus's server".to_owned(),
    };
    let rules = subscription.rules;
    let least = match rules.min {
        Some(min) => format!("at least {min} subscribed"),
        None => "one subscribed once there was one".to_owned(),
    };
    format!(
        "its connections to {server}, subscribed to {}: {least}, none dark for {}, none unread for {};",
        names.join(", "),
        time(rules.window),
        time(rules.stuck_after)
    )
}

fn silence(detector: &DetectorSettings) -> String {
    let learned = |bounds: &Bounds, what: String| {
        format!(
            "{what}, as learned from the last {}, never before {} and {} nor after {} and {}",
            counted(usize::from(bounds.window), "heartbeat"),
            time(bounds.interval * 2),
            time(bounds.interval * 5),
            time(bounds.suspect_after),
            time(bounds.dead_after)
        )
    };
    match detector {
        DetectorSettings::Deadline {
            suspect_after,
            dead_after,
        } => format!(
            "suspect after {} of silence, dead after {}",
            time(*suspect_after),
            time(*dead_after)
        ),
        DetectorSettings::Phi(phi) => learned(
            &phi.bounds,
            format!(
                "suspect from phi {} of silence on, dead from {}",
                phi.suspect, phi.dead
            ),
        ),
        DetectorSettings::Chen(chen) => learned(
            &chen.bounds,
            format!(
                "suspect {} after the next was expected, dead {} after it",
                time(chen.margin),
                time(chen.dead_margin)
            ),
        ),
    }
}

fn source(source: &Source) -> String {
    match source {
        Source::Channels(channels) => {
            let names: Vec<String> = channels.iter().map(|channel| format!("`{channel}`")).collect();
            format!("any message on {}", names.join(", "))
        }
        Source::Node(node) => format!("heartbeats of node {node}"),
        Source::Claim { node, peer } => format!("what node {node} says of {peer}"),
        Source::Reported { .. } => "what the peer says of itself".to_owned(),
    }
}

/// How the peer itself reports to this check, if it does.
fn reports(config: &Config, peer: &str, id: PeerId, index: usize) -> Option<String> {
    let is_meant = |check: CheckId| check.peer == id && usize::from(check.index) == index;
    if let Some(push) = config.http.pushes.iter().find(|push| is_meant(push.check)) {
        return Some(format!(
            "beats by POST /api/v1/beat/{peer} on the admin listener; a run that was started must end within {}",
            time(push.run_within)
        ));
    }
    let (_, notify) = config
        .checks
        .notifies
        .iter()
        .find(|(check, _)| is_meant(*check))?;
    let users: Vec<String> = notify.users.iter().map(|uid| format!(", uid {uid}")).collect();
    let pings = if notify.required {
        "from READY on"
    } else {
        "from the first one on"
    };
    Some(format!(
        "notifications on {} (of root, this node's user{}); pings are expected {pings}, or as it tells, of at most {}",
        notify.socket.display(),
        users.concat(),
        time(notify.max_watchdog)
    ))
}

fn asks(question: &Question, timeout: Duration) -> String {
    let statuses = match (question.statuses.start(), question.statuses.end()) {
        (low, high) if low == high => low.to_string(),
        (low, high) => format!("{low} to {high}"),
    };
    let mut text = format!("{} answers {statuses} within {}", question.url, time(timeout));
    if let Some(json) = &question.json {
        let _ = match &json.expect {
            Expect::Equals(value) => write!(text, ", `{}` is {value}", json.path),
            Expect::Below(bound) => write!(text, ", `{}` is below {bound}", json.path),
            Expect::Above(bound) => write!(text, ", `{}` is above {bound}", json.path),
        };
    }
    if !question.ignore.is_empty() {
        let _ = write!(text, " (whatever {} say)", question.ignore.join(", "));
    }
    text.push_str(", asked");
    text
}

fn measures(metric: &Metric) -> String {
    let Exposed { url, series, .. } = &metric.page;
    let (word, bound) = match metric.bound {
        Bound::Above(bound) => ("above", bound),
        Bound::Below(bound) => ("below", bound),
    };
    let of = match metric.aggregate {
        Aggregate::Sum => "",
        Aggregate::Max => "the largest ",
        Aggregate::Min => "the smallest ",
    };
    match metric.rate_over {
        Some(over) => format!(
            "`{series}` of {url} grows a second by a number {word} {bound}, over {}, read",
            time(over)
        ),
        None => format!("{of}`{series}` of {url} is {word} {bound}, read"),
    }
}

fn compares(connections: &Connections) -> String {
    let Connections { page, ports, below } = connections;
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    format!(
        "`{}` of {} counts fewer than {below} connections that the kernel does not have on port {}, compared",
        page.series,
        page.url,
        ports.join(" or ")
    )
}

fn weighs(memory: &Memory) -> String {
    let whose = match memory.of {
        Of::Process => "its process",
        Of::Cgroup => "its cgroup",
    };
    let bounds = [
        memory
            .below
            .map(|below| format!("holds less than {}", size(below))),
        memory.growth.map(|growth| {
            format!(
                "grows by less than {} in {}",
                size(growth.below),
                time(growth.over)
            )
        }),
    ];
    let bounds: Vec<String> = bounds.into_iter().flatten().collect();
    format!("{whose} {}, measured", bounds.join(" and "))
}

fn connections(wanted: &WantedSockets) -> String {
    let to: Vec<String> = wanted.to.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "{} to {}, none with more than {} bytes unread for {}",
        counted(wanted.min as usize, "connection"),
        to.join(" or "),
        wanted.max_recv_q,
        time(wanted.standing)
    );
    if let Some(silence) = wanted.max_silence {
        let _ = write!(
            text,
            ", and so many that received something within {}",
            time(silence)
        );
    }
    text.push_str(", looked at");
    text
}

fn beats(file: &File) -> String {
    let (path, max_age) = (file.path.display(), time(file.max_age));
    let mut text = match &file.format {
        Format::Json {
            timestamp: Some(field),
        } => format!("{path} changes within {max_age} (at first sight: its `{field}` is not older)"),
        Format::Json { timestamp: None } => format!("{path} changes within {max_age}"),
        Format::Plain => format!("{path} is written within {max_age}"),
    };
    if let Some(progress) = &file.progress {
        let (field, max_age) = (&progress.field, time(progress.max_age));
        let _ = write!(text, ", and its `{field}` within {max_age}");
    }
    if let Some(stopped) = &file.stopped_when {
        let (field, value) = (&stopped.field, &stopped.equals);
        let _ = write!(text, ", unless its `{field}` is {value} (it is left alone then)");
    }
    text.push_str(match (file.any_host, file.pid) {
        _ if file.format == Format::Plain => "",
        (true, _) => ", on whatever host",
        (false, Pid::Seen) => ", and its process has not ended that was seen to run",
        (false, Pid::Always) => ", and its process runs here and is older than it",
        (false, Pid::Ignored) => ", whatever its pid",
    });
    text.push_str("; looked at");
    text
}

fn words(causes: &[Cause]) -> String {
    let causes: Vec<&str> = causes.iter().map(|cause| cause.as_str()).collect();
    causes.join(" or ")
}

/// One rung.
fn healing(out: &mut String, peer: &PeerSettings, rung: u16, remedy: &RemedySettings, act: Option<&Remedy>) {
    let causes = if remedy.causes.is_empty() {
        "whatever cause lies in it".to_owned()
    } else {
        words(&remedy.causes)
    };
    let act = act.map_or_else(
        || {
            format!(
                "/healthz/{} answers 503 for {}, for a liveness probe to see",
                peer.name,
                time(peer.healthz_hold)
            )
        },
        self::act,
    );
    let when = if rung == 0 {
        "When it is dead"
    } else {
        "If that did not help"
    };
    let gentle = if remedy.restarts {
        ""
    } else {
        " It restarts nothing."
    };
    let _ = writeln!(
        out,
        "  {when}, for {causes}: {act}.{gentle} Then it has {} for its own proof of life.",
        time(remedy.verify_within)
    );
    if let Some(why) = unreachable(peer, remedy) {
        let _ = writeln!(out, "  But this will never happen: {why}.");
    }
}

/// What holds for every rung.
fn limits(out: &mut String, engine: &Settings, peer: &PeerSettings) {
    let _ = writeln!(
        out,
        "  After each, its failures do not count for {} or until its first pass.",
        time(peer.grace)
    );
    let backoff = peer.backoff;
    let waits = format!(
        "at least {} apart, doubling to {}",
        time(backoff.initial),
        time(backoff.max)
    );
    let _ = if peer.remedies.iter().any(|remedy| remedy.restarts) {
        writeln!(
            out,
            "  At most {} that restart in {}, all {waits}; the whole group has one every {}.",
            counted(peer.budget.count as usize, "remedy"),
            time(peer.budget.window),
            time(engine.group_budget.spacing)
        )
    } else {
        writeln!(out, "  None restarts anything, so no budget is charged; {waits}.")
    };
}

fn act(remedy: &Remedy) -> String {
    match remedy {
        Remedy::Signal { signal, then: None } => format!("{} to that very process", self::signal(*signal)),
        Remedy::Signal {
            signal,
            then: Some((after, then)),
        } => format!(
            "{} to that very process, and {} if it is still there after {}",
            self::signal(*signal),
            self::signal(*then),
            time(*after)
        ),
        Remedy::Exec { argv, timeout } => format!("`{}`, ended after {}", argv.join(" "), time(*timeout)),
        Remedy::Http {
            url,
            method,
            timeout,
            until,
            ..
        } => {
            let mut text = format!("{method} {url} within {}", time(*timeout));
            if let Some(until) = until {
                let _ = write!(
                    text,
                    ", then up to {} until {} answers as it should",
                    time(until.deadline),
                    until.check.url
                );
            }
            text
        }
        Remedy::Docker(act) => docker(act),
        Remedy::Systemd(act) => systemd(act),
        Remedy::SocketReset => "the connections that are condemned, and no later ones, are reset".to_owned(),
        Remedy::ClientKill { .. } => "CLIENT KILL of the connections that are condemned".to_owned(),
        Remedy::Log => "a line in the log, and nothing else".to_owned(),
        Remedy::Capture(capture) => {
            let command = capture
                .command
                .as_ref()
                .map(|argv| format!("what `{}` says", argv.join(" ")));
            let sockets = capture.sockets.then(|| "its sockets".to_owned());
            let log =
                (capture.logs > 0).then(|| format!("the last {} lines of its container's log", capture.logs));
            let parts: Vec<String> = [sockets, log, command].into_iter().flatten().collect();
            format!(
                "evidence is kept in {}: {}",
                capture.dir.display(),
                parts.join(", ")
            )
        }
        Remedy::Notify { to } => format!("a message to {to}, and nothing else"),
    }
}

fn docker(act: &DockerAct) -> String {
    let target = &act.target;
    match act.action {
        Action::Restart => {
            let stop = act
                .stop_timeout
                .map_or_else(|| "its own stop timeout".to_owned(), time);
            format!("Docker restarts the {target}, which has {stop} to end, and then who shares its network")
        }
        Action::Start => format!("Docker starts the {target}, and restarts who shares its network"),
        Action::Kill(signal) => format!("Docker sends {} to the {target}", self::signal(signal)),
    }
}

fn systemd(act: &SystemdAct) -> String {
    let target = &act.target;
    match act.action {
        UnitAction::Restart => format!("systemd restarts the {target}, within {}", time(act.timeout)),
        UnitAction::Start => format!(
            "systemd starts the {target} if it has failed, within {}",
            time(act.timeout)
        ),
        UnitAction::Kill(signal, Whom::Main) => {
            format!(
                "systemd sends {} to the main process of the {target}",
                self::signal(signal)
            )
        }
        UnitAction::Kill(signal, Whom::All) => {
            format!(
                "systemd sends {} to every process of the {target}",
                self::signal(signal)
            )
        }
    }
}

fn signal(signal: Signal) -> String {
    signal_name(signal).map_or_else(|| format!("signal {}", signal.0), str::to_owned)
}

fn never(out: &mut String, engine: &Settings) {
    let _ = writeln!(out, "Never:");
    if engine.dry_run {
        let _ = writeln!(out, "- is any remedy carried out: dry_run is on");
    }
    let breaker = engine.breaker;
    let _ = writeln!(
        out,
        "- is anybody blamed for a silence while this node cannot hear itself, or was stopped\n\
         - is any remedy carried out while the bus is away, nor for {} after it is back or this node has started\n\
         - is a failed measurement taken for a death, or a peer restarted that never lived, unless its exit was seen\n\
         - is every peer healed at once: more than max({}, {} %) of the remote peers, or all of them, silent within {} are \
         held, and one is tried after {}\n\
         - is a remote peer restarted unless {} observers agree and no node of the group hears it, but for one with \
         `single_observer`\n\
         - is a remedy applied to a later life of a peer than the one that was condemned",
        time(engine.bus_settle),
        breaker.min,
        breaker.percent,
        time(breaker.window),
        time(breaker.canary_after),
        engine.quorum.k
    );
}

fn counted(count: usize, what: &str) -> String {
    match (count, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {what}s"),
    }
}
