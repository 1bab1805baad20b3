//! Reading what is at a path, whatever it is: bounded, and never waiting for a writer.

use std::fs::{Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Most bytes of a heartbeat that are read.
pub const MAX_BYTES: usize = 64 * 1024;

/// What was found.
#[derive(Clone, Debug)]
pub struct Content {
    /// The first [`MAX_BYTES`] bytes.
    pub bytes: Vec<u8>,
    /// There are more.
    pub cut: bool,
    /// Of the file that was read.
    pub meta: Metadata,
}

/// Why nothing was read. In words for people, without the path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// There is no file, or something in its place that cannot be one.
    #[error("{0}")]
    Absent(String),
    /// There may be one, and this node may not read it.
    #[error("{0}: let this node's user read it")]
    Refused(String),
    /// There may be one, and it could not be read: a failing disk, a dead mount.
    #[error("{0}")]
    Failed(String),
}

impl Content {
    /// When it was last written, since 1970; by the clock of the file system.
    pub fn modified(&self) -> Duration {
        let seconds = u64::try_from(self.meta.mtime()).unwrap_or(0);
        let nanos = u32::try_from(self.meta.mtime_nsec()).unwrap_or(0);
        Duration::new(seconds, nanos.min(999_999_999))
    }
}

/// Reads the file. Symbolic links are followed: a ConfigMap consists of them. Blocks for as long as the file system
/// does, which on a network mount may be for ever.
///
/// # Errors
/// Tells what is not there from what could not be seen.
pub fn read(path: &Path) -> Result<Content, Unread> {
    // O_NONBLOCK: a FIFO in its place has no writer to wait for. O_NOCTTY: nor is a terminal to become ours.
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(unread)?;
    let meta = file.metadata().map_err(unread)?;
    if !meta.is_file() {
        return Err(Unread::Absent("it is not a regular file".into()));
    }
    let mut bytes = Vec::new();
    let limit = MAX_BYTES as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(unread)?;
    let cut = bytes.len() > MAX_BYTES;
    bytes.truncate(MAX_BYTES);
    Ok(Content { bytes, cut, meta })
}

fn unread(error: io::Error) -> Unread {
    match Errno::from_io_error(&error) {
        Some(Errno::NOENT) => Unread::Absent("it is missing".into()),
        Some(Errno::NOTDIR) => Unread::Absent("a part of its path is not a directory".into()),
        Some(Errno::LOOP) => Unread::Absent("its symbolic links lead nowhere (a loop)".into()),
        // A socket, or a device without a driver.
        Some(Errno::NXIO) => Unread::Absent("it is not a regular file".into()),
        Some(Errno::ACCESS | Errno::PERM) => Unread::Refused(format!("it cannot be read: {error}")),
        _ => Unread::Failed(format!("it cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_no_file_is_told_from_what_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("beat");
        let absent = |what: &str| match read(&path) {
            Err(Unread::Absent(why)) => assert!(why.contains(what), "{why}"),
            other => panic!("{what}: {other:?}"),
        };
        absent("missing");
        fs::create_dir(&path).unwrap();
        absent("not a regular file");
        fs::remove_dir(&path).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        absent("not a regular file");
        fs::remove_file(&path).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        absent("not a regular file");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&path, &path).unwrap();
        absent("loop");
        fs::remove_file(&path).unwrap();
        fs::write(dir.path().join("plain"), "x").unwrap();
        match read(&dir.path().join("plain/beat")) {
            Err(Unread::Absent(why)) => assert!(why.contains("not a directory"), "{why}"),
            other => panic!("{other:?}"),
        }
        // A failing disk, or a number that is nobody's memory: read, and refused in the middle of it.
        match read(Path::new("/proc/self/mem")) {
            Err(Unread::Failed(why)) => assert!(why.contains("cannot be read"), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_long_file_is_cut_off_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("beat");
        fs::write(&path, vec![b'x'; MAX_BYTES]).unwrap();
        assert!(!read(&path).unwrap().cut);
        fs::write(&path, vec![b'x'; 10 << 20]).unwrap();
        let long = read(&path).unwrap();
        assert!(long.cut);
        assert_eq!(long.bytes.len(), MAX_BYTES);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(read(&link).unwrap().meta.ino(), long.meta.ino());
    }
}
