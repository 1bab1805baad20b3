//! One healer per peer on this machine: a lock file that the kernel frees when its holder ends, however it ends.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::engine::event::RemedyOutcome;

/// Held until it is dropped. The file stays: removing it would let two holders in.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code, reason = "held, not used")] File);

/// Takes the peer's lock, or says who has it. A lock that cannot be made is not passed over: nobody could tell
/// whether another node is healing at this moment.
pub(super) fn take(dir: &Path, peer: &str) -> Result<Lock, RemedyOutcome> {
    let path = dir.join(file_name(peer));
    let not_acted = |why: String| RemedyOutcome::NotActed { detail: why };
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags)
        .open(&path)
        .map_err(|error| {
            let path = path.display();
            not_acted(format!(
                "cannot open the lock file {path}: {error}; make its directory writable"
            ))
        })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(file)),
        Err(Errno::WOULDBLOCK) => Err(RemedyOutcome::Fenced {
            detail: "another defib, or an earlier remedy, is healing it".to_owned(),
        }),
        Err(error) => Err(not_acted(format!("cannot lock {}: {error}", path.display()))),
    }
}

/// Distinct for distinct names of a reasonable length, whatever is in them.
fn file_name(peer: &str) -> String {
    let mut name: String = peer
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => char::from(byte).to_string(),
            other => format!("%{other:02x}"),
        })
        .collect();
    name.truncate(200);
    format!("heal-{name}.lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path(), "feed").unwrap();
        assert!(matches!(
            take(dir.path(), "feed"),
            Err(RemedyOutcome::Fenced { .. })
        ));
        let _other = take(dir.path(), "recorder").unwrap();
        drop(first);
        take(dir.path(), "feed").unwrap();
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        take(dir.path(), "../../etc/x y").unwrap();
        assert!(
            dir.path()
                .join("heal-%2e%2e%2f%2e%2e%2fetc%2fx%20y.lock")
                .exists()
        );
        assert_ne!(file_name("a.b"), file_name("a_b"));
        take(dir.path(), &"x".repeat(4000)).unwrap();
        let link = dir.path().join("heal-link.lock");
        std::os::unix::fs::symlink("/tmp/elsewhere", link).unwrap();
        assert!(take(dir.path(), "link").is_err());
        assert!(take(&dir.path().join("missing"), "feed").is_err());
    }
}
