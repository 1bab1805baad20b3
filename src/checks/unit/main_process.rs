//! The main process of a unit, where it can be seen from here.

use std::fs;

use crate::checks::process::{Stat, take};
use crate::engine::cause::Cause;
use crate::engine::event::{Incarnation, Outcome};
use crate::owner_table::LiveOwner;

/// Takes hold of the main process. Its number is one of systemd's pid namespace, which may be another than ours, where
/// it is a stranger's: only a process in the unit's cgroup is the unit's.
///
/// # Errors
/// In words, why it is out of sight.
pub(in crate::checks) fn hold(
    pid: u32,
    control_group: &str,
    life: &Incarnation,
) -> Result<LiveOwner, String> {
    if pid == std::process::id() {
        return Err(format!("process {pid} is this defib itself"));
    }
    let is_member = || {
        let lines = fs::read_to_string(format!("/proc/{pid}/cgroup"));
        lines.is_ok_and(|lines| is_in(&lines, control_group))
    };
    if !is_member() {
        return Err(format!(
            "process {pid} here is not in {control_group}: it ended, or systemd numbers processes in another pid namespace"
        ));
    }
    let live = take(pid, is_member).map_err(|unfound| unfound.to_string())?;
    Ok(LiveOwner {
        incarnation: life.clone(),
        ..live
    })
}

/// Whether a process with these lines in `/proc/<pid>/cgroup` is in that cgroup or below it. A node in a cgroup
/// namespace of its own, and one outside of systemd's, see another beginning of the path.
fn is_in(lines: &str, control_group: &str) -> bool {
    if !control_group.starts_with('/') || control_group.len() < 2 {
        return false;
    }
    let mut paths = lines.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.any(|path| path.ends_with(control_group) || path.contains(&format!("{control_group}/")))
}

/// What can be said of the main process; `None` about an end, of which systemd has the word.
pub(super) fn state(live: &LiveOwner) -> Option<Outcome> {
    match Stat::read(live.pid) {
        _ if live.exited() => None,
        Ok(stat) if matches!(stat.state, 'T' | 't') => Some(Outcome::Fail {
            cause: Cause::PeerStuck,
            detail: format!("its main process is stopped by a signal (state {})", stat.state),
        }),
        Ok(_) => Some(Outcome::Pass),
        Err(error) => Some(Outcome::Unknown {
            detail: format!("cannot read /proc/{}/stat: {error}", live.pid),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_the_units_if_its_cgroup_is() {
        let group = "/system.slice/feed.service";
        for lines in [
            "0::/system.slice/feed.service\n",
            "9:name=systemd:/system.slice/feed.service\n0::/\n",
            "0::/test/system.slice/feed.service\n",
            "0::/system.slice/feed.service/worker\n",
        ] {
            assert!(is_in(lines, group), "{lines}");
        }
        for lines in [
            "",
            "0::/\n",
            "0::/system.slice/other-feed.service2\n",
            "0::/system.slice/feed.servicex\n",
        ] {
            assert!(!is_in(lines, group), "{lines}");
        }
        assert!(!is_in("0::/\n", "") && !is_in("0::/\n", "/"));
    }
}
