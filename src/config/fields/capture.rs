//! The fields of captures: evidence that is kept before a remedy destroys it.

use super::super::schema::Section;
use super::super::schema::Takes::{Bool, Int, Path, Size, Texts, Time};
use super::super::schema::Unless::{Absent, Derived, Is};
use super::{field, ms, secs};

/// `[capture]`
pub const CAPTURE: Section = Section {
    title: "[capture]",
    sample: "[capture]",
    about: "Where `capture` remedies keep evidence.",
    fields: &[
        field(
            "dir",
            Path,
            Derived("`captures` in the state directory", "\"/var/lib/defib/captures\""),
            "Each capture is a directory in it. It is made if it is not there, mode 0700; nobody else may write to it, and two nodes \
             share none.",
        ),
        field(
            "max_total",
            Size(1 << 16, 1 << 40),
            Is("\"256MiB\""),
            "All finished captures together, by what they take on disk: as one is finished, the oldest go. 1000 at most, however \
             small they are. Those that are being written come on top, and may be as much again.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `capture`
pub const REMEDY_CAPTURE: Section = Section {
    title: "[[peer.NAME.remedies]], `do = \"capture\"`",
    sample: "[[peer.cache.remedies]]\ndo = \"capture\"",
    about: "Keeps evidence right before the next remedy, once that is permitted: the owner's TCP sockets, the last lines of its \
            container's log, what a command prints or writes. It costs no budget and no backoff, needs no proof, is done once an \
            episode, and if it fails the next remedy follows all the same (docs/operators.md).",
    fields: &[
        field(
            "command",
            Texts(64, 4096),
            Absent("[\"gcore\", \"-o\", \"{dir}/core\", \"{pid}\"]"),
            "Program and arguments, without a shell. `{pid}` is the peer's process, `{dir}` the capture's directory. In its \
             environment: what `exec` has, DEFIB_PID, DEFIB_CAPTURE_DIR, and of the node's own no more than PATH, HOME, USER, \
             LOGNAME, LANG, LANGUAGE, LC_*, TZ, TMPDIR and XDG_RUNTIME_DIR. What it prints is kept.",
        ),
        field(
            "timeout",
            Time(ms(100), secs(600)),
            Is("\"10s\""),
            "Bound on all of it: the next remedy waits no longer. A command that still runs gets SIGTERM half of it (4 s at most) \
             before, and its process group SIGKILL a quarter (2 s) before.",
        ),
        field(
            "logs",
            Int(0, 100_000),
            Is("200"),
            "Last lines of the container's log; 0: none. A quarter of `max_size` at most.",
        ),
        field(
            "sockets",
            Bool,
            Is("true"),
            "The owner's TCP sockets, as the kernel lists them. A quarter of `max_size` at most.",
        ),
        field(
            "max_size",
            Size(1 << 12, 1 << 38),
            Is("\"16MiB\""),
            "Of one capture, and never more than a quarter of what is free on its disk (all that are being written: half). A \
             command that writes more, or one file that is longer, is ended, and the largest files go.",
        ),
    ],
    tables: &[],
    later: &[],
};
