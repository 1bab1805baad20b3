//! Reads a file whose path may name anything by now: a pipe is not waited for, a device not read, and what has no end
//! is not read to it. It decides nothing.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Its first bytes, `limit` at most. On a file system that is away this blocks for as long as that is.
///
/// # Errors
/// If it cannot be read, or is no regular file.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // Without O_NONBLOCK the opening of a FIFO waits for its writer, for ever; O_NOCTTY: a terminal is not to become ours.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn only_a_regular_file_is_read_and_no_more_of_it_than_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        fs::write(place("file"), "0123456789").unwrap();
        assert_eq!(read(&place("file"), 4).unwrap(), b"0123");
        // Nobody writes to it: it would be waited for.
        mknodat(CWD, place("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for what in [place("fifo"), dir.path().to_owned(), "/dev/zero".into()] {
            let why = read(&what, 4).unwrap_err().to_string();
            assert_eq!(why, "it is no regular file", "{}", what.display());
        }
        assert_eq!(
            read(&place("missing"), 4).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
