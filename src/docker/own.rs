//! Which container this process runs in.

use std::fs;
use std::sync::OnceLock;

/// The whole id of the container in which this process runs, if it does and can be told.
pub fn own_id() -> Option<String> {
    static ID: OnceLock<Option<String>> = OnceLock::new();
    ID.get_or_init(|| {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        find(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
    })
    .clone()
}

/// cgroup v1, and v2 without a namespace of its own, have the id in a path. Else there is the mount of `/dev/shm`.
/// (Those of `/etc/hosts` and `/etc/hostname` are of the container whose *network* this is, so they lie to a sidecar;
/// and the host's name is anybody's choice.)
fn find(cgroup: &str, mounts: &str) -> Option<String> {
    let by_cgroup = cgroup.lines().rev().find_map(|line| {
        let last = line.rsplit('/').next()?;
        let last = last.strip_prefix("docker-").unwrap_or(last);
        is_id(last.strip_suffix(".scope").unwrap_or(last))
    });
    by_cgroup.or_else(|| {
        mounts.lines().find_map(|line| {
            let (_, rest) = line.split_once("/containers/")?;
            let (id, rest) = rest.split_once('/')?;
            rest.starts_with("mounts/shm").then(|| is_id(id))?
        })
    })
}

fn is_id(text: &str) -> Option<String> {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == 64 && text.bytes().all(hex)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_container_is_told_by_its_cgroup_or_its_shared_memory() {
        let (own, other) = ("a".repeat(64), "b".repeat(64));
        let v1 = format!("12:pids:/docker/{own}\n1:name=systemd:/docker/{own}\n");
        let v2 = format!("0::/system.slice/docker-{own}.scope\n");
        let hidden = "0::/\n";
        let mounts = format!(
            "770 769 0:61 / /dev/shm rw - tmpfs shm rw\n\
             771 760 8:1 /var/lib/docker/containers/{other}/hostname /etc/hostname rw - ext4 /dev/sda1 rw\n\
             772 760 8:1 /var/lib/docker/containers/{other}/hosts /etc/hosts rw - ext4 /dev/sda1 rw\n"
        );
        let shm =
            format!("773 760 0:50 /var/lib/docker/containers/{own}/mounts/shm /dev/shm rw - tmpfs shm rw\n");
        assert_eq!(find(&v1, &mounts), Some(own.clone()));
        assert_eq!(find(&v2, ""), Some(own.clone()));
        assert_eq!(find(hidden, &format!("{mounts}{shm}")), Some(own));
        assert_eq!(
            find(hidden, &mounts),
            None,
            "the network's owner is not this container"
        );
        assert_eq!(find("0::/user.slice\n", ""), None);
    }
}
