//! The processes of a peer that is a container, where this node sees them: it runs on the host, or with `pid: host`, or
//! in the container's own pid namespace. Docker's word on the number is believed only if the kernel's cgroup of that
//! process names the container: in another pid namespace the same number is somebody else.

use std::fs;
use std::sync::Arc;

use super::process::{Unfound, own_proc, take};
use crate::docker::{Container, Docker, State};
use crate::engine::event::PeerId;
use crate::engine::time::Time;
use crate::owner_table::LiveOwner;

/// Its container, as it was last seen. `None`: the peer is none.
///
/// # Errors
/// Why nothing can be said of its processes: it does not run, or was not looked at.
pub(super) fn running(docker: &Docker, peer: PeerId, now: Time) -> Option<Result<Arc<Container>, String>> {
    let sighting = docker.sighting(peer)?;
    if now > sighting.believed_until {
        return Some(Err("its container was not looked at for a while".to_owned()));
    }
    Some(sighting.seen.and_then(|container| match container.state {
        State::Running => Ok(container),
        other => Err(format!("its container is {}", other.as_str())),
    }))
}

/// The container's first process, held by a pidfd. Its incarnation is the container's. Blocking, for a few small files.
///
/// # Errors
/// Why it is out of sight, with the cure.
pub fn first_process(container: &Container) -> Result<LiveOwner, String> {
    own_proc().map_err(|unfound| unfound.to_string())?;
    // The second: this node shares the pid namespace of the container, where its first process is 1.
    let candidates = [container.pid, Some(1)];
    for pid in candidates.into_iter().flatten() {
        let is_of = || is_of(pid, &container.life.id);
        if pid == std::process::id() || !is_of() {
            continue;
        }
        match take(pid, is_of) {
            Ok(live) => {
                return Ok(LiveOwner {
                    incarnation: container.life.incarnation(),
                    ..live
                });
            }
            Err(blind @ Unfound::Blind { .. }) => return Err(blind.to_string()),
            Err(Unfound::Absent(_)) => {}
        }
    }
    Err(format!(
        "the processes of {} are not seen from here: run the node on the host, with `pid: host`, or with \
         `pid: \"service:…\"`",
        container.name
    ))
}

/// Whether the process is in this container's cgroup, or below it.
fn is_of(pid: u32, id: &str) -> bool {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup"));
    cgroups.is_ok_and(|lines| names(&lines, id))
}

/// `/docker/ID`, `/system.slice/docker-ID.scope`, or seen from another cgroup namespace `/../ID`.
fn names(cgroups: &str, id: &str) -> bool {
    let named = |part: &str| {
        let scope = part
            .strip_suffix(".scope")
            .and_then(|scope| scope.rsplit('-').next());
        part == id || scope == Some(id)
    };
    let paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    !id.is_empty() && paths.flat_map(|path| path.split('/')).any(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_names_its_container_in_each_of_dockers_ways() {
        let id = "4bab44b6e5e109e481986bc27996c7ade7e128f42d1f2bb0d00a4a3540af18a3";
        for lines in [
            format!("9:name=systemd:/docker/{id}\n0::/docker/{id}\n"),
            format!("0::/system.slice/docker-{id}.scope\n"),
            format!("0::/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{id}.scope\n"),
            // It runs systemd itself; it is seen from a sibling's cgroup namespace; on version 1 alone.
            format!("0::/docker/{id}/init.scope\n"),
            format!("0::/../{id}\n"),
            format!("4:memory:/docker/{id}\n"),
        ] {
            assert!(names(&lines, id), "{lines}");
            assert!(!names(&lines, &id[..12]), "a beginning is not enough: {lines}");
            assert!(!names(&lines, ""), "{lines}");
        }
        for other in ["0::/\n", "", "nonsense", "0::/docker/abc\n", "0::/a:b:c\n"] {
            assert!(!names(other, id), "{other}");
        }
    }
}
