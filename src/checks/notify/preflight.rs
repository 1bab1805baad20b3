//! Whether the socket could be made here, and whether those who are believed get to it. Changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Notify;
use crate::preflight::{Finding, writable_dir};
use crate::socket_file::{self, PlaceError};

/// May block.
pub(in crate::checks) fn preflight(notify: &Notify) -> Finding {
    let (path, shown) = (&notify.socket, notify.socket.display());
    match socket_file::is_free(path, socket2::Type::DGRAM) {
        // As a rule by this very node.
        Ok(()) | Err(PlaceError::InUse) => {}
        Err(error @ PlaceError::NotASocket) => {
            return Finding::missing(
                format!("{shown} {error}"),
                "remove it, or give the check another `socket`",
            );
        }
        Err(PlaceError::Io(error)) => {
            return Finding::missing(
                format!("{shown}: {error}"),
                "give the check a `socket` below a directory that this user may write to",
            );
        }
    }
    let Some(dir) = path.parent() else {
        return Finding::missing(
            format!("{shown} is no path of a file"),
            "give the check another `socket`",
        );
    };
    let writable = writable_dir(dir);
    if writable != Finding::OK {
        return writable;
    }
    let shut_out = notify
        .users
        .iter()
        .find_map(|uid| Some((*uid, dir.ancestors().find(|above| shuts_out(above, *uid))?)));
    match shut_out {
        Some((uid, above)) => Finding::missing(
            format!("uid {uid} may not pass through {} to {shown}", above.display()),
            "give the check a `socket` in a directory that it may enter, as in /run/defib",
        ),
        None => Finding::noted(format!("start it with NOTIFY_SOCKET={shown}")),
    }
}

/// Only if it certainly does: which groups a user is in is not known here.
fn shuts_out(dir: &Path, uid: u32) -> bool {
    let Ok(found) = fs::metadata(dir) else {
        return false;
    };
    let passes = if found.uid() == uid { 0o100 } else { 0o011 };
    uid != 0 && found.mode() & passes == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_would_keep_a_sender_away_is_found_beforehand() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        let mut notify = Notify {
            socket: dir.path().join("deeper/a.sock"),
            mode: 0o660,
            users: Vec::new(),
            max_watchdog: Duration::from_secs(1),
            required: false,
            names_lives: true,
        };
        mode(0o700);
        assert!(matches!(preflight(&notify), Finding::Ok { .. }));
        notify.users = vec![4711];
        let finding = preflight(&notify);
        assert!(finding.is_missing(), "{finding}");
        assert!(
            finding.to_string().contains("uid 4711 may not pass through"),
            "{finding}"
        );
        mode(0o711);
        assert!(
            matches!(preflight(&notify), Finding::Ok { .. }),
            "{}",
            preflight(&notify)
        );
        fs::write(dir.path().join("a.sock"), "").unwrap();
        notify.socket = dir.path().join("a.sock");
        assert!(preflight(&notify).is_missing());
    }
}
