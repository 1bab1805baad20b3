//! Whether the remedies could be carried out from here. Nothing is carried out: signal 0, a look at a program, a
//! connection that is closed again.

use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use rustix::thread::{CapabilitySet, capabilities};

use super::{DockerAct, Remedy, Settings, Signal, SystemdAct, client_kill, signal, systemd as units};
use crate::command::runnable;
use crate::docker::{Docker, Found};
use crate::engine::event::PeerId;
use crate::engine::settings::Settings as Names;
use crate::http_client;
use crate::owner_table::{Holding, LiveOwner, OwnerTable};
use crate::preflight::{Finding, Look, Part, Subject, writable_dir};
use crate::redis_client::Server;
use crate::secret::Secret;
use crate::sock_diag::can_destroy;
use crate::systemd::{Scope, Systemd};

/// The looks at every rung that has an executor. `found` holds the processes that could be found.
pub fn preflight(
    settings: &Settings,
    names: &Names,
    found: &OwnerTable,
    docker: &Docker,
    systemd: &Systemd,
    redis: Option<&Server>,
) -> Vec<Look> {
    let looks = settings.iter().map(|((peer, rung), remedy)| {
        let configured = names.peers.get(peer.0 as usize);
        let name = configured.map_or_else(|| "?".into(), |peer| peer.name.clone());
        let kind = configured.and_then(|peer| peer.remedies.get(usize::from(*rung)));
        let kind = kind.map_or("?", |rung| rung.kind.as_str());
        look(
            Subject::peer(Part::Remedy, name, kind),
            *peer,
            remedy,
            found,
            docker,
            systemd,
            redis,
        )
    });
    looks.collect()
}

fn look(
    subject: Subject,
    peer: PeerId,
    remedy: &Remedy,
    found: &OwnerTable,
    docker: &Docker,
    systemd: &Systemd,
    redis: Option<&Server>,
) -> Look {
    match remedy.clone() {
        Remedy::Signal { signal, then } => {
            let found = found.clone();
            subject.look_blocking(move || {
                let signals: Vec<Signal> = [signal].into_iter().chain(then.map(|(_, then)| then)).collect();
                may_signal(&found.get(peer), &signals)
            })
        }
        Remedy::Exec { argv, .. } => {
            subject.look_blocking(move || runnable(argv.first().map(String::as_str)))
        }
        Remedy::Http {
            url,
            bearer,
            until,
            timeout,
            ..
        } => {
            let asked = until.map(|until| (until.check.url, until.check.bearer));
            subject.look(async move {
                let first = reachable(&url, bearer, timeout).await;
                match asked {
                    Some((url, bearer)) if !first.is_missing() => {
                        let second = reachable(&url, bearer, timeout).await;
                        if second == Finding::OK { first } else { second }
                    }
                    _ => first,
                }
            })
        }
        Remedy::Docker(act) => {
            let docker = docker.clone();
            subject.look(async move { askable(&docker, &act).await })
        }
        Remedy::Systemd(act) => {
            let systemd = systemd.clone();
            subject.look(async move { manageable(&systemd, &act).await })
        }
        Remedy::SocketReset => subject.look_blocking(|| match can_destroy() {
            Ok(()) => Finding::OK,
            Err(error) => match error.cure() {
                Some(cure) => Finding::missing(error.reason(), cure),
                None => Finding::unknown(error.reason()),
            },
        }),
        Remedy::ClientKill { servers, timeout } => {
            let redis = redis.cloned();
            subject.look(async move {
                let mut finding = Finding::OK;
                let servers = servers
                    .into_iter()
                    .filter_map(|server| Some(redis.as_ref()?.or(server.as_ref())));
                for server in servers {
                    if finding == Finding::OK {
                        finding = client_kill::preflight(server, timeout).await;
                    }
                }
                finding
            })
        }
        Remedy::Capture(capture) => subject.look_blocking(move || {
            let program = capture
                .command
                .as_ref()
                .map(|argv| runnable(argv.first().map(String::as_str)));
            match program {
                Some(missing) if missing != Finding::OK => missing,
                _ => writable_dir(&capture.dir),
            }
        }),
        Remedy::Log | Remedy::Notify { .. } => subject.look(async { Finding::OK }),
    }
}

/// root may, and every user may of the own manager. Of others polkit knows, and tells what it would say of any unit; a
/// rule about this one only an attempt could show.
async fn manageable(systemd: &Systemd, act: &SystemdAct) -> Finding {
    let mut session = match systemd.open(&act.target).await {
        Ok(session) => session,
        Err(error) => {
            return match error.cure() {
                Some(cure) => Finding::missing(error.to_string(), cure),
                None => Finding::unknown(error.to_string()),
            };
        }
    };
    if act.target.scope == Scope::User || rustix::process::geteuid().is_root() {
        return Finding::OK;
    }
    match session.may_manage_units().await {
        Ok(true) => Finding::OK,
        Ok(false) => Finding::unknown(format!(
            "polkit does not let {} manage every unit; whether a rule lets it manage this one shows the first attempt. If there is none, {}",
            crate::systemd::own_user(),
            units::cure(act)
        )),
        Err(error) => Finding::unknown(format!(
            "polkit cannot be asked, and without it only root may: {error}"
        )),
    }
}

/// Whether a POST is permitted only a POST could tell.
async fn askable(docker: &Docker, act: &DockerAct) -> Finding {
    match docker.find(&act.target).await {
        Ok(Found::One(_)) => Finding::OK,
        Ok(Found::Nothing(why) | Found::Several(why)) => Finding::unknown(why),
        Err(error) => match error.cure() {
            Some(cure) => Finding::missing(error.to_string(), cure),
            None => Finding::unknown(error.to_string()),
        },
    }
}

fn may_signal(holding: &Holding, signals: &[Signal]) -> Finding {
    if let Holding::Listening(listener) = holding {
        let reason = format!("its process cannot be seen ({})", listener.why);
        return Finding::missing(reason, "let it be seen, or choose a remedy that needs no process");
    }
    let Holding::Live(live) = holding else {
        let may_all = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::KILL));
        return if may_all {
            Finding::OK
        } else {
            Finding::unknown(
                "no process of this peer could be found, and without CAP_KILL it depends on whose it is",
            )
        };
    };
    match permitted(live) {
        Err(Errno::PERM) => Finding::missing(
            format!(
                "uid {} may not signal process {}",
                rustix::process::geteuid().as_raw(),
                live.pid
            ),
            "run defib as its user or with CAP_KILL",
        ),
        Err(error) => Finding::unknown(format!("process {}: {error}", live.pid)),
        Ok(()) => match std::fs::read_to_string(format!("/proc/{}/status", live.pid)) {
            Ok(status) => {
                let refused = signals
                    .iter()
                    .find_map(|one| signal::refusal(&status, live.pid, *one));
                refused.map_or(Finding::OK, |why| {
                    Finding::missing(why, "choose another signal, or run the process under an init")
                })
            }
            Err(error) => Finding::unknown(format!("/proc/{}/status: {error}", live.pid)),
        },
    }
}

/// Signal 0 by number: rustix has no pidfd form of it. Nobody is hit if the number has passed to another; only the
/// answer could be another's then, so the pidfd has the last word.
fn permitted(live: &LiveOwner) -> Result<(), Errno> {
    let pid = i32::try_from(live.pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(Errno::SRCH)?;
    let answer = test_kill_process(pid);
    if live.exited() { Err(Errno::SRCH) } else { answer }
}

async fn reachable(url: &str, bearer: Option<Secret>, timeout: Duration) -> Finding {
    if let Some(bearer) = bearer
        && let Err(error) = bearer.read().await
    {
        return Finding::missing(
            error.to_string(),
            "give it to defib's environment, or let its user read it",
        );
    }
    match http_client::reach(url, timeout).await {
        Ok(()) => Finding::OK,
        Err(error) if error.blames_target() => Finding::noted(format!("it does not answer now: {error}")),
        Err(error) => Finding::unknown(error.to_string()),
    }
}
