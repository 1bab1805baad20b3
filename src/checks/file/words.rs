//! Last words: a program writes that it stops on purpose, and exits. The owner watch sees the exit within a
//! millisecond, so it is the one that has to look first.

use std::time::Duration;

use super::judge::Sight;
use super::{Condition, File};
use crate::engine::event::CheckId;
use crate::heartbeat_file::Beat;
use crate::http_client::same;

/// Where a peer leaves its last words, and what they are.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::checks) struct LastWords {
    /// The check in whose name they are told.
    pub(in crate::checks) check: CheckId,
    file: File,
}

impl LastWords {
    /// `None`: nothing in this file tells a purpose.
    pub(in crate::checks) fn of(check: CheckId, file: &File) -> Option<Self> {
        file.stopped_when.as_ref()?;
        let file = file.clone();
        Some(Self { check, file })
    }

    /// The purpose, if this process tells one. `began`: since 1970, when it did. Blocks.
    pub(in crate::checks) fn of_process(&self, pid: u32, began: Duration) -> Option<String> {
        let condition = self.file.stopped_when.as_ref()?;
        let sight = Sight::read(&self.file.path, false).ok()?;
        let beat = sight.beat.as_ref()?.as_ref().ok()?;
        let said = condition.met_by(beat)?;
        let its_own = match beat.pid() {
            Ok(Some(writer)) if self.file.checks_pid() => writer == pid,
            // Without a number that says something: what was written in its time.
            Ok(_) => sight.modified >= began,
            Err(_) => false,
        };
        its_own.then_some(said)
    }
}

impl Condition {
    /// In words, if it is so.
    pub(super) fn met_by(&self, beat: &Beat) -> Option<String> {
        let value = beat.field(&self.field)?;
        same(value, &self.equals).then(|| format!("its {} is {}", self.field, self.equals))
    }
}
