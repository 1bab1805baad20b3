//! Sockets that have a name in the file system: nobody finds one half made (what stands under its name with `.new` is
//! removed for that), one that a dead process left behind is replaced, nothing else is touched, and the name goes with the
//! socket.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// Why a socket could not be placed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A running process has it.
    #[error("is in use by a running process")]
    InUse,
    /// Something that is no socket lies there.
    #[error("exists and is not a socket")]
    NotASocket,
    /// It could not be made.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The socket's file, removed with its owner unless somebody else's lies there by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it still lies there.
    pub fn is_in_place(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_in_place()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "the socket's file stays behind");
        }
    }
}

/// Places a socket of this kind at `path` with these permissions; `bind` makes it under the name that it is given.
/// Directories that are missing are made with `dir_mode`.
///
/// # Errors
/// If somebody is there, or the file system refuses.
pub fn place<S>(
    path: &Path,
    kind: Type,
    mode: u32,
    dir_mode: u32,
    bind: impl FnOnce(&Path) -> io::Result<S>,
) -> Result<(S, SocketFile), PlaceError> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(dir_mode)
            .create(parent)?;
    }
    make_way(path, kind)?;

    // Made under another name and moved once its mode is right: a socket is born with the umask's mode, and
    // whoever connects in that moment stays connected.
    let mut unborn = path.as_os_str().to_owned();
    unborn.push(".new");
    let unborn = PathBuf::from(unborn);
    match fs::remove_file(&unborn) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let socket = bind(&unborn)?;
    let placed = (|| {
        fs::set_permissions(&unborn, fs::Permissions::from_mode(mode))?;
        let found = fs::symlink_metadata(&unborn)?;
        fs::rename(&unborn, path)?;
        Ok((found.dev(), found.ino()))
    })();
    match placed {
        Ok(identity) => Ok((
            socket,
            SocketFile {
                path: path.to_owned(),
                identity,
            },
        )),
        Err(error) => {
            drop(fs::remove_file(&unborn));
            Err(PlaceError::Io(error))
        }
    }
}

/// Whether a socket could be placed there. Changes nothing.
///
/// # Errors
/// As [`place`].
pub fn is_free(path: &Path, kind: Type) -> Result<(), PlaceError> {
    match found(path, kind)? {
        Found::Nothing | Found::Stale => Ok(()),
    }
}

enum Found {
    Nothing,
    /// Left behind by a process that is gone.
    Stale,
}

/// Removes the socket of a process that is gone; refuses to touch anything else.
fn make_way(path: &Path, kind: Type) -> Result<(), PlaceError> {
    match found(path, kind)? {
        Found::Nothing => Ok(()),
        Found::Stale => Ok(fs::remove_file(path)?),
    }
}

fn found(path: &Path, kind: Type) -> Result<Found, PlaceError> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return Err(PlaceError::NotASocket);
    }
    match connects(path, kind) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Found::Stale),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        // A full backlog says "would block", a socket of another type EPROTOTYPE: somebody listens.
        Err(error)
            if error.kind() != io::ErrorKind::WouldBlock
                && error.raw_os_error() != Some(rustix::io::Errno::PROTOTYPE.raw_os_error()) =>
        {
            Err(PlaceError::Io(error))
        }
        Ok(()) | Err(_) => Err(PlaceError::InUse),
    }
}

fn connects(path: &Path, kind: Type) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    fn placed(path: &Path) -> Result<(UnixDatagram, SocketFile), PlaceError> {
        place(path, Type::DGRAM, 0o620, 0o750, |path| UnixDatagram::bind(path))
    }

    #[test]
    fn a_socket_gets_its_mode_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("below/a.sock");
        let (socket, file) = placed(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(b"hello", &path).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(socket.recv(&mut buffer).unwrap(), 5);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn only_what_the_dead_left_behind_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        drop(UnixDatagram::bind(&path).unwrap());
        assert!(path.exists(), "left behind");
        assert!(is_free(&path, Type::DGRAM).is_ok());
        let (_socket, file) = placed(&path).unwrap();
        assert!(matches!(placed(&path), Err(PlaceError::InUse)));
        assert!(matches!(is_free(&path, Type::DGRAM), Err(PlaceError::InUse)));
        // Another's lies there by now.
        fs::remove_file(&path).unwrap();
        let stream = UnixListener::bind(&path).unwrap();
        assert!(!file.is_in_place());
        drop(file);
        assert!(path.exists());
        assert!(matches!(placed(&path), Err(PlaceError::InUse)), "of another type");
        drop(stream);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(placed(&path), Err(PlaceError::NotASocket)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
