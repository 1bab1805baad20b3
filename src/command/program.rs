//! Whether a program could be started from here, found out without starting it.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::preflight::Finding;

/// As `execvp` looks for a program: a name with a slash is a path, any other is looked for along PATH.
pub fn runnable(program: Option<&str>) -> Finding {
    let Some(program) = program.filter(|program| !program.is_empty()) else {
        return Finding::missing("the command is empty", "name a program");
    };
    let places: Vec<PathBuf> = if program.contains('/') {
        vec![PathBuf::from(program)]
    } else {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).map(|dir| dir.join(program)).collect()
    };
    if places.iter().any(|place| place.is_file() && executable(place)) {
        return Finding::OK;
    }
    if let Some(file) = places.iter().find(|place| place.is_file()) {
        let uid = rustix::process::geteuid().as_raw();
        return Finding::missing(
            format!("uid {uid} may not execute {}", file.display()),
            format!("chmod a+x {}", file.display()),
        );
    }
    let cure = if program.contains('/') {
        "install it here (in a container: in defib's image), or name another".to_owned()
    } else {
        let path = env::var_os("PATH").unwrap_or_default();
        format!(
            "install it here, or name it by its path (PATH is {})",
            shown(&path)
        )
    };
    Finding::missing(format!("there is no program {program}"), cure)
}

fn executable(path: &Path) -> bool {
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

fn shown(path: &OsStr) -> String {
    path.to_string_lossy().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_program_is_looked_for_as_it_will_be() {
        assert_eq!(runnable(Some("sh")), Finding::OK);
        assert_eq!(runnable(Some("/bin/sh")), Finding::OK);
        for missing in ["no-such-program", "/no/such/program", "", "/tmp"] {
            assert!(runnable(Some(missing)).is_missing(), "{missing}");
        }
        assert!(runnable(None).is_missing());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("restart");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let told = runnable(file.to_str()).to_string();
        assert!(
            told.contains("may not execute") && told.contains("chmod a+x"),
            "{told}"
        );
    }
}
