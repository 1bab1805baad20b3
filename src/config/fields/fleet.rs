//! The fields of what guards ask of the outside: `[fleet]`, `[blocker.NAME]`.

use super::{HOUR, field, ms, secs};
use crate::config::schema::Section;
use crate::config::schema::Takes::{Int, OneOf, Secret, Text, Time, Url};
use crate::config::schema::Unless::{Absent, Is};

/// `[fleet]`
pub const FLEET: Section = Section {
    title: "[fleet]",
    sample: "[fleet]",
    about: "How the nodes of a group keep from healing all at once. With a Redis bus every remedy that restarts needs the group's \
            leave: one node at a time at a peer, `budget` of the peer and `[budget]` for all of them together, each rung once \
            on a life. It is kept in that Redis under `defib:{GROUP}:fleet:` (database 0; every key ends by itself), and this \
            node's own budgets hold besides. See docs/fleet.md.",
    fields: &[
        field(
            "peers",
            OneOf(&["auto", "own", "shared"]),
            Is("\"auto\""),
            "Which nodes mean the same peer by one name: those share its budget, and one of them heals it at a time. `auto`: by its \
             owner. Of a port, those in one network namespace; of a process, those in one pid namespace; of a unit or a \
             container, those on one machine. Without an owner, all; but a `healthz` remedy and a `notify` check are of this \
             node's own. Through a Docker that is reached by tcp, all. `own`: each node its own, unless they are remote. \
             `shared`: all.",
        ),
        field(
            "lease",
            OneOf(&["group", "none"]),
            Is("\"group\""),
            "Who is asked before a restart. `none`: nobody, as where this node is the only one of its group that heals, on a \
             bus that runs no scripts; it must be the only one.",
        ),
        field(
            "size",
            Int(1, 100_000),
            Absent("40"),
            "Nodes of a group that has no bus: each restarts something only in its turn of the clock. A node's turn is the \
             number that its name ends with, if less than this, else a hash of the name (some may share one).",
        ),
        field(
            "turn",
            Time(secs(2), HOUR),
            Is("\"1m\""),
            "How long such a turn lasts. Its first half may be used: the clocks of the nodes must agree to the other. At least \
             twice `budget.spacing`; long enough for a peer to come back, or several are down at once.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `[blocker.NAME]`
pub const BLOCKER: Section = Section {
    title: "[blocker.NAME]",
    sample: "[blocker.deploys]",
    about: "Something outside that forbids remedies: an alert that fires, a deploy that runs. Asked right before each remedy that \
            acts, once every other guard at home permits it; what is not empty, and what cannot be found out, blocks. Exactly one \
            of `http` and `prometheus`. At most 16.",
    fields: &[
        field(
            "http",
            Url,
            Absent("\"http://deployer:8080/running\""),
            "`GET` this: a 2xx whose body is empty, or an empty JSON list or object, null or false, is clear. (Alertmanager's \
             `/api/v2/alerts?filter=…` is `[]` when none fires.)",
        ),
        field(
            "prometheus",
            Url,
            Absent("\"http://prometheus:9090\""),
            "A Prometheus; goes with `query`.",
        ),
        field(
            "query",
            Text(4096),
            Absent("\"ALERTS{alertname=\\\"Maintenance\\\", alertstate=\\\"firing\\\"}\""),
            "PromQL: a query without a result is clear.",
        ),
        field(
            "bearer",
            Secret,
            Absent("{ env = \"PROMETHEUS_TOKEN\" }"),
            "Sent as `Authorization: Bearer …`.",
        ),
        field(
            "timeout",
            Time(ms(100), secs(10)),
            Is("\"5s\""),
            "Bound on one question.",
        ),
    ],
    tables: &[],
    later: &[],
};
