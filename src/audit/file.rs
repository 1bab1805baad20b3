//! The file that is written: appended to, bounded, turned over, and whole again after a crash.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::{FILES, Settings};

/// The newest file, held open.
#[derive(Debug)]
pub(super) struct File {
    settings: Settings,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: fs::File,
    len: u64,
    /// It ends in the middle of a record.
    torn: bool,
}

/// The older file of that number; 0 is the newest.
pub(super) fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = OsString::from(path.as_os_str());
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Opens for reading; anything but a regular file is an error, and a FIFO is not waited for.
pub(super) fn open_to_read(path: &Path) -> io::Result<fs::File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    regular(&file).map(|_| file)
}

/// Which file it is, whatever its name.
pub(super) fn identity(found: &fs::Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn regular(file: &fs::File) -> io::Result<fs::Metadata> {
    let found = file.metadata()?;
    if found.is_file() {
        Ok(found)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

impl File {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.clone(),
            open: None,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.settings.path
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Adds whole lines, blocking, and sees them onto the disk. After an error the file ends where it ended before, as
    /// far as the disk lets it.
    pub(super) fn append(&mut self, lines: &[Vec<u8>]) -> io::Result<()> {
        let limit = self.settings.max_bytes / u64::from(FILES);
        let mut rest = lines;
        while !rest.is_empty() {
            let open = self.opened()?;
            let mut room = limit.saturating_sub(open.len);
            let fits = rest
                .iter()
                .take_while(|line| {
                    let len = line.len() as u64;
                    let fits = len <= room;
                    room = room.saturating_sub(len);
                    fits
                })
                .count();
            if fits == 0 && open.len > 0 {
                self.turn_over()?;
                continue;
            }
            // (One line alone always fits into an empty file.)
            let (now, later) = rest.split_at(fits.max(1));
            if let Err(error) = open.write(&now.concat()) {
                self.open = None;
                return Err(error);
            }
            rest = later;
        }
        Ok(())
    }

    fn opened(&mut self) -> io::Result<&mut Open> {
        // Removed, or turned over by somebody else (logrotate renames it): what is written must be found where it is looked for.
        let path = &self.settings.path;
        let in_place = |open: &Open| {
            let (ours, there) = (open.file.metadata(), fs::symlink_metadata(path));
            matches!((ours, there), (Ok(ours), Ok(there)) if identity(&ours) == identity(&there))
        };
        if !self.open.as_ref().is_some_and(in_place) {
            self.open = None;
        }
        match self.open.take() {
            Some(open) => Ok(self.open.insert(open)),
            None => {
                let opened = Open::at(&self.settings.path)?;
                Ok(self.open.insert(opened))
            }
        }
    }

    /// The newest file becomes the first of the older ones; the oldest goes.
    fn turn_over(&mut self) -> io::Result<()> {
        self.open = None;
        for number in (0..FILES - 1).rev() {
            let from = numbered(&self.settings.path, number);
            match fs::rename(from, numbered(&self.settings.path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::create_dir_all(dir)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(path)?;
        let len = regular(&file)?.len();
        let mut last = [b'\n'];
        if len > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        let torn = last != [b'\n'];
        if torn {
            tracing::warn!(
                "the last record of the audit {} is torn: this node, or its machine, ended while it was written; it is \
                 passed over",
                path.display()
            );
        }
        Ok(Self { file, len, torn })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut all = Vec::with_capacity(bytes.len() + 1);
        if self.torn {
            all.push(b'\n');
        }
        all.extend_from_slice(bytes);
        let written = self.file.write_all(&all).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // On a full disk half a record would take the last room from others. If even that fails, the next to open
            // the file finds it torn.
            let _ = self.file.set_len(self.len);
            return Err(error);
        }
        self.torn = false;
        self.len += all.len() as u64;
        Ok(())
    }
}
