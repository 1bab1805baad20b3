//! Whether the file could be watched from here.

use super::{File, Format, Pid};
use crate::checks::process::alone_in_pid_namespace;
use crate::heartbeat_file::{self, Beat, Unread};
use crate::preflight::Finding;

impl File {
    /// One look. That the file is not there now is no fault of the setup; that it cannot be read is. Blocks.
    pub(in crate::checks) fn found(&self) -> Finding {
        let shown = self.path.display();
        let content = match heartbeat_file::read(&self.path) {
            Ok(content) => content,
            Err(Unread::Refused(why)) => {
                let uid = rustix::process::geteuid().as_raw();
                return Finding::missing(format!("{shown}: {why}"), format!("let uid {uid} read it"));
            }
            Err(why) => return Finding::unknown(format!("{shown}: {why}")),
        };
        if self.format == Format::Plain {
            return Finding::OK;
        }
        if content.cut {
            return Finding::missing(
                format!("{shown} is too long for a heartbeat"),
                "watch it with format = \"plain\"",
            );
        }
        match Beat::parse(&content.bytes) {
            Ok(beat) => self.fits(&beat),
            Err(why) => Finding::noted(format!("it fails now: {shown}: {why}")),
        }
    }

    fn fits(&self, beat: &Beat) -> Finding {
        let host = heartbeat_file::hostname();
        if let Some(other) = beat.hostname().filter(|other| !self.any_host && *other != host) {
            let other: String = other.chars().take(64).collect();
            return Finding::missing(
                format!("it was written on host {other:?}, and this is {host:?}"),
                "any_host = true takes it nevertheless",
            );
        }
        if self.pid == Pid::Always && alone_in_pid_namespace() {
            return Finding::missing(
                "its `pid` cannot be looked at: this node has a pid namespace of its own",
                "share one: `pid: \"service:APP\"` in compose, shareProcessNamespace in a pod; or pid = \"ignored\"",
            );
        }
        let fields = [
            self.progress.as_ref().map(|progress| &progress.field),
            self.stopped_when.as_ref().map(|condition| &condition.field),
        ];
        match fields
            .into_iter()
            .flatten()
            .find(|field| beat.field(field).is_none())
        {
            Some(field) => Finding::unknown(format!("it has no field {field} now")),
            None => Finding::OK,
        }
    }
}
