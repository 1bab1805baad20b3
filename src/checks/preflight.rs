//! Whether the owners, checks and expectations can be looked at from here.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use rustix::thread::{CapabilitySet, capabilities};

use super::metric::Metric;
use super::page::{Exposed, Unread};
use super::process::{Finder, Unfound, alone_in_pid_namespace};
use super::{Owner, Probe, Settings, WantedSockets, When, keys, notify, place_of, subscription};
use crate::command::runnable;
use crate::docker::{Container, Docker, Found, Health, Selector, State};
use crate::engine::event::PeerId;
use crate::engine::settings::Settings as Names;
use crate::http_client::{Answer, Question, fetch, judge};
use crate::owner_table::{Held, OwnerTable};
use crate::preflight::{Finding, Look, Part, Subject};
use crate::redis_client::{Endpoint, Redis, Server};
use crate::sock_diag::{Filter, Rounds, dump_within};
use crate::systemd::{Active, Systemd, UnitRef};

/// The looks at everything that has to be run. Processes that are found are left in `found`, for who wants to know
/// whether they could be touched. `redis`: the bus's server, unless it is the embedded one.
pub fn preflight(
    settings: &Settings,
    names: &Names,
    found: &OwnerTable,
    docker: &Docker,
    systemd: &Systemd,
    redis: Option<&Server>,
) -> Vec<Look> {
    let peer = |PeerId(index): PeerId| names.peers.get(index as usize);
    let peer_name = |id: PeerId| peer(id).map_or_else(|| "?".into(), |peer| peer.name.clone());
    let owners = settings.owners.iter().map(|(id, owner, _, _)| {
        let subject = Subject::peer(Part::Owner, peer_name(*id), "");
        let (id, owner, found) = (*id, owner.clone(), found.clone());
        subject.look_blocking(move || find(id, owner, &found))
    });
    let checks = settings.probes.iter().map(|(id, probe, schedule)| {
        let check = peer(id.peer).and_then(|peer| peer.checks.get(usize::from(id.index)));
        let check = check.map_or_else(|| "?".into(), |check| check.name.clone());
        let subject = Subject::peer(Part::Check, peer_name(id.peer), check);
        let of = Place::of(settings, &names.node, id.peer);
        let redis = redis.cloned();
        subject.look(look(probe.clone(), of, docker.clone(), redis, schedule.timeout))
    });
    let containers = settings.containers.iter().map(|(selector, check, _)| {
        let subject = Subject::peer(Part::Owner, peer_name(check.peer), "");
        let (docker, selector) = (docker.clone(), selector.clone());
        subject.look(async move {
            let found = found_by_docker(&docker, &selector).await;
            found.map_or_else(
                |finding| finding,
                |container| Finding::noted(format!("container {}", container.name)),
            )
        })
    });
    let units = settings.units.iter().map(|(unit, check, _)| {
        let subject = Subject::peer(Part::Owner, peer_name(check.peer), "");
        let (systemd, unit, found, peer) = (systemd.clone(), unit.clone(), found.clone(), check.peer);
        subject.look(async move { found_by_systemd(&systemd, &unit, peer, &found).await })
    });
    let notifies = settings.notifies.iter().map(|(id, notify)| {
        let place = place_of(*id, names);
        let notify = notify.clone();
        Subject::peer(Part::Check, place.peer, place.check).look_blocking(move || notify::preflight(&notify))
    });
    let expectations = settings.expectations.iter().map(|(id, when, schedule)| {
        let name = names.expectations.get(usize::from(id.0));
        let name = name.map_or_else(|| "?".into(), Clone::clone);
        let subject = Subject::peer(Part::Expectation, "", name);
        let timeout = schedule.timeout;
        match when.clone() {
            When::Http(question) => subject.look(asked(question, timeout)),
            When::RedisKey(key) => {
                let server = server(&names.node, key.redis.as_ref(), redis);
                subject.look(keys::key::could(key, server, timeout))
            }
        }
    });
    owners
        .chain(containers)
        .chain(units)
        .chain(checks)
        .chain(notifies)
        .chain(expectations)
        .collect()
}

async fn found_by_docker(docker: &Docker, selector: &Selector) -> Result<Container, Finding> {
    match docker.find(selector).await {
        Ok(Found::One(container)) => Ok(container),
        Ok(Found::Nothing(why) | Found::Several(why)) => Err(Finding::unknown(why)),
        Err(error) => Err(match error.cure() {
            Some(cure) => Finding::missing(error.to_string(), cure),
            None => Finding::unknown(error.to_string()),
        }),
    }
}

/// The unit, and its main process if that can be seen from here.
async fn found_by_systemd(systemd: &Systemd, unit: &UnitRef, peer: PeerId, found: &OwnerTable) -> Finding {
    let looked = async { systemd.open(unit).await?.look(None).await };
    let seen = match looked.await {
        Ok(seen) => seen,
        Err(error) => {
            return match error.cure() {
                Some(cure) => Finding::missing(error.to_string(), cure),
                None => Finding::unknown(error.to_string()),
            };
        }
    };
    match (seen.load.as_str(), seen.active, &seen.invocation, seen.main_pid) {
        ("not-found", Active::Inactive | Active::Failed, ..) => Finding::unknown(format!(
            "there is no {unit}: is it spelt so, and `systemctl daemon-reload` done?"
        )),
        (load, Active::Inactive | Active::Failed, ..) if load != "loaded" => Finding::missing(
            format!("{unit} is {load}"),
            format!("systemctl status {} says why", unit.name),
        ),
        (_, Active::Active | Active::Reloading, Some(life), Some(pid)) => {
            match super::unit::hold(pid, &seen.control_group, &life.incarnation()) {
                Ok(live) => {
                    found.watch(peer, std::sync::Arc::new(|| None));
                    found.hold(peer, Held::Process(live));
                    Finding::noted(format!("{}, process {pid}", seen.name))
                }
                Err(why) => Finding::noted(format!(
                    "{} runs; nothing more can be seen of it: {why}",
                    seen.name
                )),
            }
        }
        _ => Finding::noted(format!("{} is {} now", seen.name, seen.sub)),
    }
}

async fn health(docker: &Docker, selector: &Selector) -> Finding {
    match found_by_docker(docker, selector).await {
        Ok(Container {
            health: Health::NotChecked,
            name,
            ..
        }) => Finding::missing(
            format!("{name} has no health check"),
            "give it one (HEALTHCHECK in its Dockerfile, healthcheck in compose), or drop this check",
        ),
        Ok(_) => Finding::OK,
        Err(finding) => finding,
    }
}

/// How the peer of a check is found.
struct Place {
    process: Option<Owner>,
    container: Option<Selector>,
    node: Arc<str>,
}

impl Place {
    fn of(settings: &Settings, node: &Arc<str>, peer: PeerId) -> Self {
        let process = settings.owners.iter().find(|(id, ..)| *id == peer);
        let container = settings.containers.iter().find(|(_, id, _)| id.peer == peer);
        Self {
            process: process.map(|(_, owner, ..)| owner.clone()),
            container: container.map(|(selector, ..)| selector.clone()),
            node: Arc::clone(node),
        }
    }
}

/// One of its own, else the bus's; `None`: the embedded bus.
fn server(node: &Arc<str>, own: Option<&Endpoint>, bus: Option<&Server>) -> Option<Server> {
    match own {
        Some(endpoint) => Some(Server::new(Arc::new(Redis::new(endpoint.clone())), node)),
        None => bus.cloned(),
    }
}

async fn look(probe: Probe, of: Place, docker: Docker, redis: Option<Server>, timeout: Duration) -> Finding {
    match probe {
        Probe::Http(question) => asked(question, timeout).await,
        Probe::Docker => match of.container {
            Some(selector) => health(&docker, &selector).await,
            None => Finding::unknown("this peer is no container"),
        },
        // What it needs its owner needs.
        Probe::Systemd { .. } => Finding::OK,
        Probe::Sockets(wanted) => {
            let kernel = seen(wanted, timeout).await;
            of_container(kernel, of.container, &docker).await
        }
        Probe::Subscription(subscription) => {
            let server = redis.map(|bus| bus.or(subscription.redis.as_ref()));
            let there = subscription::preflight(server, timeout).await;
            of_container(there, of.container, &docker).await
        }
        Probe::Metric(Metric { page, .. }) => read(page, timeout).await,
        // Whether somebody listens today is what the check is for.
        Probe::Tcp(_) => Finding::OK,
        Probe::Exec(exec) => {
            let looked = tokio::task::spawn_blocking(move || runnable(exec.argv.first().map(String::as_str)));
            looked
                .await
                .unwrap_or_else(|error| Finding::unknown(format!("the look broke off: {error}")))
        }
        Probe::RedisKey(key) => {
            let server = server(&of.node, key.redis.as_ref(), redis.as_ref());
            keys::key::could(key, server, timeout).await
        }
        Probe::RedisLock(lock) => {
            let server = server(&of.node, lock.redis.as_ref(), redis.as_ref());
            keys::lock::could(lock, server, timeout).await
        }
        Probe::Connections(connections) => match connections.kernel(&Rounds::default(), timeout).await {
            Ok(_) => read(connections.page, timeout).await,
            Err(why) => Finding::unknown(why),
        },
        Probe::File(file) => {
            let found = tokio::task::spawn_blocking(move || file.found());
            match tokio::time::timeout(timeout, found).await {
                Ok(Ok(finding)) => finding,
                Ok(Err(_)) | Err(_) => {
                    Finding::unknown(format!("reading it has not ended within {timeout:?}"))
                }
            }
        }
        Probe::Memory(memory) => {
            if let Some(selector) = of.container {
                return match found_by_docker(&docker, &selector).await {
                    Ok(container) => match memory.of.of_container(&container, &docker).await {
                        Ok(_) => Finding::OK,
                        Err(why) => Finding::unknown(why),
                    },
                    Err(finding) => finding,
                };
            }
            let measured = tokio::task::spawn_blocking(move || {
                let live = Finder::new(of.process?).find().ok()?;
                Some(memory.of.of_process(&live))
            });
            match measured.await {
                Ok(Some(Ok(_))) => Finding::OK,
                Ok(Some(Err(why))) => Finding::unknown(why),
                Ok(None) | Err(_) => Finding::unknown("its process is not found"),
            }
        }
    }
}

/// One reading of a metrics page.
async fn read(page: Exposed, timeout: Duration) -> Finding {
    match page.read(timeout).await {
        Ok(_) => Finding::OK,
        Err(Unread::Refused(why)) => {
            Finding::missing(why, "give the check a `bearer` that may read the page")
        }
        Err(Unread::Other(why)) => Finding::unknown(why),
    }
}

/// Whether a container's sockets can be told from others' here, if all else is well; one that does not run is not looked
/// at.
async fn of_container(found: Finding, container: Option<Selector>, docker: &Docker) -> Finding {
    let (Finding::Ok { .. }, Some(selector)) = (&found, container) else {
        return found;
    };
    match found_by_docker(docker, &selector).await {
        Ok(container) if container.state == State::Running => {
            match super::whose::told_apart(docker, container).await {
                Ok(how) => Finding::noted(how),
                Err(why) => Finding::missing(why, "or run the node on the host, with `pid: host`"),
            }
        }
        Ok(_) | Err(_) => found,
    }
}

/// Whether the kernel shows its sockets; whose they are is found out once the owner is known.
async fn seen(wanted: WantedSockets, timeout: Duration) -> Finding {
    match dump_within(Filter::established_to(wanted.to), timeout).await {
        Ok(dump) => Finding::noted(format!(
            "{} such connections in this network namespace now, whosever they are",
            dump.sockets.len()
        )),
        Err(error) => match error.cure() {
            Some(cure) => Finding::missing(error.reason(), cure),
            None => Finding::unknown(error.reason()),
        },
    }
}

fn find(peer: PeerId, owner: Owner, found: &OwnerTable) -> Finding {
    let by_command = matches!(owner, Owner::Command(_));
    let finder = Finder::new(owner);
    let leave = |held: Held| {
        found.watch(peer, std::sync::Arc::new(|| None));
        found.hold(peer, held);
    };
    if let Ok(Held::Listener(listener)) = finder.hold() {
        let noted = format!(
            "known by its LISTEN socket only, so that it cannot be signalled: {}",
            listener.why
        );
        leave(Held::Listener(listener));
        return Finding::noted(noted);
    }
    match finder.find() {
        Ok(live) => {
            let pid = live.pid;
            leave(Held::Process(live));
            Finding::noted(format!("process {pid}"))
        }
        Err(Unfound::Blind { reason, cure }) => Finding::missing(reason, cure),
        Err(Unfound::Absent(why)) if alone_in_pid_namespace() => Finding::missing(
            format!(
                "{why}, and this node has a pid namespace of its own, where no other process can be seen"
            ),
            "share one: `pid: \"service:APP\"` in compose, shareProcessNamespace in a pod",
        ),
        Err(Unfound::Absent(why)) if by_command && proc_hides_others() => Finding::missing(
            format!("{why}, and /proc is mounted with hidepid, so that others' processes cannot be seen"),
            "run defib as that process's user, or give it CAP_SYS_PTRACE",
        ),
        Err(Unfound::Absent(why)) => Finding::unknown(why),
    }
}

fn proc_hides_others() -> bool {
    let may_anyway = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_PTRACE));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    !may_anyway && mounts.lines().any(hides_others)
}

/// Super options of a line of mountinfo: `hidepid=2`, or since Linux 5.8 in words. `hidepid=1` hides the command
/// lines, and `off` or 0 nothing.
fn hides_others(line: &str) -> bool {
    let at_proc = line.split(' ').nth(4) == Some("/proc");
    let mut options = line.rsplit(' ').next().unwrap_or_default().split(',');
    at_proc
        && options.any(|option| {
            let value = option.strip_prefix("hidepid=");
            value.is_some_and(|value| !matches!(value, "0" | "off"))
        })
}

/// One run of an `http` check. That nothing answers now is no fault of the setup; that we cannot ask is.
async fn asked(question: Question, timeout: Duration) -> Finding {
    let answer = fetch(&question, timeout).await;
    match (&answer, judge(&question, &answer)) {
        (_, Answer::Pass) => Finding::OK,
        (_, Answer::Fail(why)) => Finding::noted(format!("it fails now: {why}")),
        (Err(crate::http_client::Error::Secret(_)), Answer::Unknown(why)) => {
            Finding::missing(why, "give it to defib's environment, or let its user read it")
        }
        (Ok(response), Answer::Unknown(why)) if matches!(response.status, 401 | 403 | 407) => {
            Finding::missing(why, "give the check a `bearer` that may ask")
        }
        (_, Answer::Unknown(why)) => Finding::unknown(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidepid_is_read_in_numbers_and_in_words() {
        let line = |at: &str, options: &str| format!("22 28 0:20 / {at} rw,nosuid - proc proc {options}");
        for (options, hides) in [
            ("rw", false),
            ("rw,hidepid=0", false),
            ("rw,hidepid=off", false),
            ("rw,hidepid=2", true),
            ("rw,hidepid=invisible,gid=5", true),
            ("rw,hidepid=noaccess", true),
        ] {
            assert_eq!(hides_others(&line("/proc", options)), hides, "{options}");
        }
        assert!(!hides_others(&line("/mnt/proc", "rw,hidepid=2")));
        assert!(!hides_others(""));
    }
}
