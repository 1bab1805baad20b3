//! How much memory a process or a cgroup holds, as the kernel counts it.
//!
//! | of | what is read |
//! |---|---|
//! | a process | `VmRSS`, without its children. Memory that it shares with others counts in full; off by up to some 100 KiB, for the kernel counts in batches |
//! | a cgroup | `anon` + `shmem`, those below it included: what dropping files cannot give back (version 1: `total_rss` + `total_shmem`) |
//!
//! Not `memory.current`: it holds the page cache, which grows with every file that is read and is no leak.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

/// Bytes of a file that are read; `memory.stat` has some 2 KiB, `status` less.
const MAX_FILE: u64 = 64 * 1024;
/// Where cgroups are mounted: version 2 alone, beside version 1, and version 1's controller of memory.
const MOUNTS: [(&str, Version); 3] = [
    ("/sys/fs/cgroup", Version::Two),
    ("/sys/fs/cgroup/unified", Version::Two),
    ("/sys/fs/cgroup/memory", Version::One),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Of this process, in bytes.
///
/// # Errors
/// In words.
pub(super) fn of_process(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/status");
    let status = read(Path::new(&path)).map_err(|error| format!("cannot read {path}: {error}"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = resident.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.and_then(|kib| kib.checked_mul(1024))
        .ok_or_else(|| format!("{path} has no VmRSS: a zombie, or a thread of the kernel"))
}

/// Of the cgroup of this process, in bytes.
///
/// # Errors
/// In words, with the cure.
pub(super) fn of_cgroup(pid: u32) -> Result<u64, String> {
    let file = format!("/proc/{pid}/cgroup");
    let lines = read(Path::new(&file)).map_err(|error| format!("cannot read {file}: {error}"))?;
    let mut seen = None;
    for (mount, version) in MOUNTS {
        let Some(path) = path_in(&lines, version) else {
            continue;
        };
        let cgroup = Path::new(mount).join(path);
        // A path of another cgroup namespace is not to be found here, or is somebody else's.
        let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        if !members.lines().any(|line| line.parse() == Ok(pid)) {
            continue;
        }
        if cgroup == Path::new(mount) && !cgroup.join("memory.current").exists() {
            seen = Some("it runs in the root cgroup, with everybody who has none of their own".to_owned());
            continue;
        }
        match read(&cgroup.join("memory.stat")) {
            Ok(stat) => return held(&stat, version).ok_or_else(|| unreadable(&cgroup)),
            Err(error) => seen = Some(format!("{}/memory.stat: {error}", cgroup.display())),
        }
    }
    Err(seen.unwrap_or_else(|| {
        "its cgroup is not to be found under /sys/fs/cgroup: mount the host's there, read-only, and run the node \
         with `cgroup: host`"
            .into()
    }))
}

fn unreadable(cgroup: &Path) -> String {
    format!("{}/memory.stat does not say how much is held", cgroup.display())
}

/// The path of the cgroup in `/proc/<pid>/cgroup`, relative to its mount.
fn path_in(lines: &str, version: Version) -> Option<&Path> {
    let path = lines.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let is = match version {
            Version::Two => controllers.is_empty() && line.starts_with("0:"),
            Version::One => controllers.split(',').any(|controller| controller == "memory"),
        };
        is.then_some(path)
    })?;
    let path = path.strip_prefix('/')?;
    (!path.split('/').any(|part| part == "..")).then(|| Path::new(path))
}

/// What `memory.stat` says.
fn held(stat: &str, version: Version) -> Option<u64> {
    let value = |key: &str| {
        let lines = stat.lines().filter_map(|line| line.split_once(' '));
        let mut of = lines.filter(|(name, _)| *name == key);
        of.next()?.1.trim().parse::<u64>().ok()
    };
    let (own, shared) = match version {
        Version::Two => ("anon", "shmem"),
        Version::One => ("total_rss", "total_shmem"),
    };
    value(own)?.checked_add(value(shared).unwrap_or(0))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_something() {
        let bytes = of_process(std::process::id()).unwrap();
        assert!((100 * 1024..1 << 40).contains(&bytes), "{bytes}");
        assert!(
            of_process(u32::MAX)
                .unwrap_err()
                .contains("cannot read /proc/4294967295/status")
        );
    }

    #[test]
    fn a_cgroup_is_found_in_either_version() {
        let hybrid = "5:cpu:/\n4:memory,hugetlb:/docker/abc\n0::/init.scope\n";
        assert_eq!(path_in(hybrid, Version::One), Some(Path::new("docker/abc")));
        assert_eq!(path_in(hybrid, Version::Two), Some(Path::new("init.scope")));
        assert_eq!(path_in("0::/\n", Version::Two), Some(Path::new("")));
        // A process of another cgroup namespace, and a name that looks like a controller.
        assert_eq!(path_in("0::/../abc\n", Version::Two), None);
        assert_eq!(path_in("4:memory:/../../etc\n", Version::One), None);
        assert_eq!(path_in("1:name=memory:/abc\n", Version::One), None);
        assert_eq!(path_in("nonsense\n::\n", Version::Two), None);
    }

    #[test]
    fn files_are_not_counted() {
        let two = "anon 1000\nfile 9000000\nkernel 5\nshmem 24\nfile_mapped 7\n";
        assert_eq!(held(two, Version::Two), Some(1024));
        let one = "cache 7\nrss 1\nshmem 1\ntotal_cache 9000000\ntotal_rss 1000\ntotal_shmem 24\n";
        assert_eq!(held(one, Version::One), Some(1024));
        // Older kernels have no total_shmem.
        assert_eq!(held("total_rss 5\n", Version::One), Some(5));
        assert_eq!(held("anon x\n", Version::Two), None);
        assert_eq!(held("anon 18446744073709551615\nshmem 1\n", Version::Two), None);
    }
}
