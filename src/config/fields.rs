//! Every field there is: what it takes, its default, what it means. Data only. The reader takes bounds and defaults from here,
//! and config/defib.toml and docs/configuration.md are written from here, so none of them can say anything else.

mod active;
mod capture;
mod fleet;
mod notify;

use std::time::Duration;

pub use active::{CHECK_EXEC, CHECK_REDIS_KEY, CHECK_REDIS_LOCK, CHECK_TCP, WHEN};
pub use capture::{CAPTURE, REMEDY_CAPTURE};
pub use fleet::{BLOCKER, FLEET};
pub use notify::NOTIFY;

use super::schema::Takes::{
    Address, Bool, Causes, FailAfter, Int, Listens, LogFilter, Name, Number, OneOf, Path, Ports, Scalar,
    Secret, Series, Size, Statuses, Text, Texts, Time, Url, Users,
};
use super::schema::Unless::{Absent, Derived, Is, Must};
use super::schema::{Field, Section, Takes, Unless};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const DAY: Duration = secs(86_400);
const MONTH: Duration = secs(31 * 86_400);
const HOUR: Duration = secs(3600);

const fn field(key: &'static str, takes: Takes, unless: Unless, about: &'static str) -> Field {
    Field {
        key,
        takes,
        unless,
        about,
    }
}

/// Top level.
pub const ROOT: Section = Section {
    title: "top level",
    sample: "",
    about: "What this node is.",
    fields: &[
        field(
            "node",
            Name,
            Derived(
                "$POD_NAME, else an id kept in the state directory, else the host's name",
                "\"node-a\"",
            ),
            "This node's name; unique in its group.",
        ),
        field(
            "group",
            Name,
            Is("\"default\""),
            "Nodes of one group share a bus and hear each other.",
        ),
        field(
            "dry_run",
            Bool,
            Is("false"),
            "Decide, record and show every remedy, and carry out none.",
        ),
    ],
    tables: &[
        "bus",
        "heartbeat",
        "http",
        "budget",
        "breaker",
        "quorum",
        "log",
        "store",
        "audit",
        "shutdown",
        "docker",
        "systemd",
        "leases",
        "fleet",
        "blocker",
        "signing",
        "notify",
        "capture",
        "when",
        "maintenance",
        "peer",
    ],
    later: &["topology"],
};

/// `[bus]`
pub const BUS: Section = Section {
    title: "[bus]",
    sample: "[bus]",
    about: "Where heartbeats travel.",
    fields: &[
        field(
            "url",
            Text(4096),
            Is("\"embedded\""),
            "`embedded` (inside this process: one machine, no Redis), or `redis://`, `rediss://`, `unix:///path` with \
             user, password and database as usual.",
        ),
        field(
            "user",
            Text(256),
            Absent("\"defib\""),
            "ACL user, if not in the URL.",
        ),
        field(
            "password",
            Secret,
            Absent("{ env = \"REDIS_PASSWORD\" }"),
            "Its password, if not in the URL.",
        ),
        field(
            "ca",
            Path,
            Absent("\"/etc/ssl/redis-ca.pem\""),
            "PEM file of the CA for `rediss://`; else the system's roots.",
        ),
        field(
            "server_name",
            Text(253),
            Absent("\"redis.internal\""),
            "Name in the certificate for `rediss://`, if it is not the host.",
        ),
        field(
            "connect_timeout",
            Time(ms(100), secs(60)),
            Is("\"2s\""),
            "Bound on connecting, the TLS handshake included.",
        ),
        field(
            "settle",
            Time(secs(0), HOUR),
            Is("\"1m\""),
            "How long after this node's start, and after an outage of the bus, no remedy runs; and how long \
             `subscription` and `sockets` give clients whose server was away to come back. Never below the slowest \
             reconnect of a peer: an outage makes clients exit.",
        ),
        field(
            "listen",
            Address,
            Absent("\"127.0.0.1:7379\""),
            "With `embedded`: a loopback address where other processes of this machine join by the Redis protocol.",
        ),
    ],
    tables: &[],
    later: &["sentinel", "cluster"],
};

/// `[heartbeat]`
pub const HEARTBEAT: Section = Section {
    title: "[heartbeat]",
    sample: "[heartbeat]",
    about: "This node's own heartbeats, which it must hear back before it judges anybody.",
    fields: &[
        field(
            "interval",
            Time(ms(100), secs(60)),
            Is("\"1s\""),
            "Between two of them; also between two PINGs on each link.",
        ),
        field(
            "channel",
            Text(256),
            Derived("`defib:` and the group", "\"defib:default\""),
            "Where they go out, and where nodes of the group listen. Never a data channel.",
        ),
        field(
            "file",
            Path,
            Absent("\"/run/defib/heartbeat.json\""),
            "Also write them here, each `interval`, as kstlib does: replaced as a whole, mode 0644, dated by the last turn of the \
             node's event loop, and not written while that is stuck. At an end that was asked for its `status` is `stopped`, else `running`. \
             Its directory must be there.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `[http]`
pub const HTTP: Section = Section {
    title: "[http]",
    sample: "[http]",
    about: "Probes, metrics and status for people; and the admin listener, which changes something.",
    fields: &[
        field(
            "listen",
            Address,
            Is("\"127.0.0.1:7337\""),
            "The public listener. A kubelet's probes come from outside: in a pod use `0.0.0.0:7337`.",
        ),
        field(
            "admin_socket",
            Text(100),
            Derived(
                "`admin.sock` in the runtime directory",
                "\"/run/defib/admin.sock\"",
            ),
            "The admin listener's Unix socket (0660), or `none`.",
        ),
        field(
            "admin_listen",
            Address,
            Absent("\"127.0.0.1:7338\""),
            "The admin listener's loopback port, on request. Needs `admin_token`.",
        ),
        field(
            "admin_token",
            Secret,
            Absent("{ file = \"/run/secrets/defib\" }"),
            "Bearer token of `admin_listen`.",
        ),
        field(
            "max_connections",
            Int(1, 65_535),
            Is("256"),
            "Concurrent connections on each listener; past it, the one that has been idle longest is closed for the next.",
        ),
    ],
    tables: &[],
    later: &["tls"],
};

/// `[budget]`
pub const GROUP_BUDGET: Section = Section {
    title: "[budget]",
    sample: "[budget]",
    about: "What the group as a whole may suffer by our hand.",
    fields: &[
        field(
            "spacing",
            Time(secs(0), HOUR),
            Is("\"10s\""),
            "At least this long between two remedies that restart.",
        ),
        field(
            "down_percent",
            Int(0, 100),
            Is("5"),
            "At most max(1, this share of the peers, in percent) down by our hand at once.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `[breaker]`
pub const BREAKER: Section = Section {
    title: "[breaker]",
    sample: "[breaker]",
    about: "Mass silence: many remote peers that fall silent together are not the fault of each of them.",
    fields: &[
        field(
            "window",
            Time(secs(1), HOUR),
            Is("\"1m\""),
            "Suspicions within this time count as together.",
        ),
        field(
            "min",
            Int(1, 4096),
            Is("2"),
            "More than max(`min`, `percent` of the remote peers) trip it; so do all of two or more.",
        ),
        field("percent", Int(0, 100), Is("5"), "See `min`."),
        field(
            "canary_after",
            Time(secs(1), DAY),
            Is("\"5m\""),
            "How long all is held before one canary is healed.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `[quorum]`
pub const QUORUM: Section = Section {
    title: "[quorum]",
    sample: "[quorum]",
    about: "Agreement of observers: nodes that hear the heartbeats of each other, and listen to the same peer.",
    fields: &[
        field(
            "k",
            Int(2, 32),
            Is("2"),
            "So many observers, this node among them, must agree before a remote peer is restarted. None may have heard it \
             since, and more than half of the nodes known of the group must be heard. With fewer it is alerted on, unless \
             `single_observer = true`. A local peer needs no vote.",
        ),
        field(
            "fast",
            Bool,
            Is("true"),
            "So many that agree are also enough to hold a silent peer dead before `dead_after`, if every check that looks at \
             the peer itself fails, too. Never before `suspect_after`, never during mass silence.",
        ),
        field(
            "lifetime",
            Time(ms(200), HOUR),
            Derived("three times `heartbeat.interval`", "\"3s\""),
            "How long a vote counts after it was heard, and how long a node is heard after its heartbeat. At least twice \
             `heartbeat.interval`.",
        ),
        field(
            "ask",
            Texts(64, 256),
            Is("[]"),
            "Addresses of other nodes' public listeners, as in `[\"http://node-b:7337\"]`. While this node suspects somebody, each is \
             asked over HTTP for its latest heartbeat, votes and all: the bus is a suspect, too. What it answers is a vote or an \
             objection as on the bus, and no more: no sign of life there, and no part of the majority. The other node must ask this \
             one, too, if its vote is to count. Where nobody signs, whoever can answer at that address has one vote.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `[log]`
pub const LOG: Section = Section {
    title: "[log]",
    sample: "[log]",
    about: "A `warn` means that somebody may have to look.",
    fields: &[
        field(
            "format",
            OneOf(&["auto", "human", "json"]),
            Is("\"auto\""),
            "`auto`: JSON in Kubernetes, human elsewhere.",
        ),
        field(
            "level",
            LogFilter,
            Is("\"info\""),
            "What is logged, as in `info` or `warn,defib::bus=debug`.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `[store]`
pub const STORE: Section = Section {
    title: "[store]",
    sample: "[store]",
    about: "Budgets, open episodes and pauses survive a restart of the node.",
    fields: &[field(
        "path",
        Path,
        Derived(
            "`state.json` in the state directory",
            "\"/var/lib/defib/state.json\"",
        ),
        "The file. The state directory is $STATE_DIRECTORY, else $XDG_STATE_HOME/defib, else ~/.local/state/defib.",
    )],
    tables: &[],
    later: &[],
};

/// `[audit]`
pub const AUDIT: Section = Section {
    title: "[audit]",
    sample: "[audit]",
    about: "What acted and what forbade, and who asked for it: one JSON object a line, for `defib history`. Mode 0600.",
    fields: &[
        field(
            "path",
            Text(4096),
            Derived(
                "the store's, with `.audit.jsonl` for its ending",
                "\"/var/lib/defib/state.audit.jsonl\"",
            ),
            "The file, as an absolute path, or `none`. Older ones are beside it: `.1` to `.3`.",
        ),
        field(
            "max_bytes",
            Size(64 << 10, 256 << 20),
            Is("\"4MiB\""),
            "Of the four files together; the oldest records go first.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `[shutdown]`
pub const SHUTDOWN: Section = Section {
    title: "[shutdown]",
    sample: "[shutdown]",
    about: "How the node ends.",
    fields: &[field(
        "deadline",
        Time(ms(100), secs(600)),
        Is("\"10s\""),
        "How long a shutdown may take; a task that hangs is named in the log and left. Below the grace period of what stops the node.",
    )],
    tables: &[],
    later: &[],
};

/// `[leases]`
pub const LEASES: Section = Section {
    title: "[leases]",
    sample: "[leases]",
    about: "Leases for applications: keys that one holder has for a time, taken over the admin listener or by `defib lease`. They are \
            in the Redis of `[bus]`, or in this process if that is embedded; see docs/leases.md.",
    fields: &[
        field(
            "prefixes",
            Texts(16, 200),
            Is("[]"),
            "What the key of a lease may begin with, as in `[\"app:lock:\"]`; nothing else can be taken. None: there are no leases.",
        ),
        field(
            "max_ttl",
            Time(secs(1), DAY),
            Is("\"1h\""),
            "Longest time that may be asked for; a lease outlives its holder, or a Redis that is away, by no more.",
        ),
        field(
            "max",
            Int(1, 1024),
            Is("64"),
            "Leases that this node keeps at once.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `[signing]`
pub const SIGNING: Section = Section {
    title: "[signing]",
    sample: "[signing]",
    about: "Signs what this node says to its group, and believes nothing there that is not signed: what does not verify is \
            counted and changes nothing. `shared`, or `key` and `trusted`. Keys are read again when their files change. \
            Peers' own channels and data are not signed; see docs/signing.md.",
    fields: &[
        field(
            "shared",
            Secret,
            Absent("{ file = \"/etc/defib/group.key\" }"),
            "One key for the whole group (HMAC-SHA256), of at least 32 bytes, as `openssl rand -hex 32` makes: whoever has it may \
             speak for every node. One a line: the first signs, all verify.",
        ),
        field(
            "key",
            Secret,
            Absent("{ file = \"/etc/defib/node.key\" }"),
            "This node's own private key (Ed25519), as `openssl genpkey -algorithm ed25519` writes it. Goes with `trusted`.",
        ),
        field(
            "trusted",
            Path,
            Absent("\"/etc/defib/trusted\""),
            "Directory of all nodes' public keys, `NAME.pub` each, as `openssl pkey -pubout` writes it; in one file there may be \
             several. A node is believed only what it says in its own name.",
        ),
        field(
            "window",
            Time(secs(1), HOUR),
            Derived("1m", "\"1m\""),
            "So far the wall clock of another node may differ from this one's when it begins to be heard; later no wall clock \
             matters. So old a message can be that is told again to a node that has forgotten who it heard.",
        ),
        field(
            "require",
            Bool,
            Derived("true", "false"),
            "`false`: what is not signed at all is counted, and believed. For the time in which not all nodes of a group sign yet.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `[docker]`
pub const DOCKER: Section = Section {
    title: "[docker]",
    sample: "[docker]",
    about: "The Docker engine, for peers that are containers. Nothing is asked of it otherwise. Whoever may use its socket is \
            root on its machine: mount it only if a remedy needs it, or put a proxy before it that allows GET, and POST of \
            `/containers/*/restart`.",
    fields: &[
        field(
            "host",
            Text(256),
            Is("\"unix:///var/run/docker.sock\""),
            "Where it listens: `unix:///path` or `tcp://host:port`. `${DOCKER_HOST:-unix:///var/run/docker.sock}` follows that variable.",
        ),
        field(
            "ca",
            Path,
            Absent("\"/etc/defib/docker-ca.pem\""),
            "PEM file of the CA that signed the engine's certificate; with it, `tcp://` is TLS.",
        ),
        field(
            "cert",
            Path,
            Absent("\"/etc/defib/docker-cert.pem\""),
            "PEM file of this node's own certificate. Goes with `key`.",
        ),
        field(
            "key",
            Path,
            Absent("\"/etc/defib/docker-key.pem\""),
            "PEM file of its private key.",
        ),
        field(
            "timeout",
            Time(ms(100), secs(60)),
            Is("\"5s\""),
            "Bound on each call that only looks. A restart has its stop timeout on top.",
        ),
        field(
            "discover",
            OneOf(&["off", "project", "all"]),
            Is("\"off\""),
            "Also watch containers with the label `defib.enable=true`, or `autoheal=true` as docker-autoheal's users have it: \
             those of the compose project in which this node runs, or all. At the start and at each reload: let the node's \
             service `depends_on` them. Further labels: `defib.name`, `defib.grace`, `defib.http` (a URL to check), \
             `defib.stop_timeout`, `autoheal.stop.timeout`. The remedy is a restart, for `autoheal` only of what is unhealthy.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `[systemd]`
pub const SYSTEMD: Section = Section {
    title: "[systemd]",
    sample: "[systemd]",
    about: "Where systemd is asked, for peers that are units. Nothing is asked of it otherwise.",
    fields: &[
        field(
            "system_bus",
            Path,
            Is("\"/run/dbus/system_bus_socket\""),
            "Socket of the system's D-Bus. In a container: mount the host's.",
        ),
        field(
            "user_bus",
            Path,
            Derived("$XDG_RUNTIME_DIR/bus", "\"/run/user/1000/bus\""),
            "Socket of this user's D-Bus, for units of the user's manager.",
        ),
        field(
            "timeout",
            Time(ms(100), secs(60)),
            Is("\"5s\""),
            "Bound on connecting and on each call. The wait for a job is the remedy's own.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `[[maintenance]]`
pub const MAINTENANCE: Section = Section {
    title: "[[maintenance]]",
    sample: "[[maintenance]]",
    about: "A window in which nothing is done, and everything is judged: a pause by the wall clock. At its end, whoever is dead is \
            healed, also who exited within it, unless that was on purpose (`docker stop`, `systemctl stop`). At most 64.",
    fields: &[
        field(
            "reason",
            Text(200),
            Must("\"nightly backup\""),
            "Why, as `explain` and the audit say it.",
        ),
        field(
            "from",
            Text(20),
            Must("\"02:00\""),
            "Its beginning: a time of day (seconds may follow), or for a window that comes once a date and time, as in `2026-12-24 22:00`.",
        ),
        field(
            "to",
            Text(20),
            Must("\"03:30\""),
            "Its end, likewise. A time of day that is not after `from` is one of the next day; `24:00` is midnight.",
        ),
        field(
            "days",
            Texts(7, 3),
            Is("[]"),
            "The days on which it begins: `mon`, `tue`, `wed`, `thu`, `fri`, `sat`, `sun`. None: every day.",
        ),
        field(
            "zone",
            Text(6),
            Is("\"UTC\""),
            "By whose clock: `UTC`, or a fixed distance from it, as in `+01:00`. It does not follow daylight saving.",
        ),
        field(
            "peers",
            Texts(4096, 63),
            Is("[]"),
            "Whose it is. None: all peers.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `[peer.NAME]`
pub const PEER: Section = Section {
    title: "[peer.NAME]",
    sample: "[peer.feed]",
    about: "What is watched. At most 4096. A peer with neither an owner nor a check on this machine is remote: known by \
            the bus alone.",
    fields: &[
        field(
            "grace",
            Time(secs(0), HOUR),
            Is("\"10s\""),
            "After a new incarnation appears or a remedy ended, failures are ignored until the first pass or for this long.",
        ),
        field(
            "single_observer",
            Bool,
            Is("false"),
            "This node alone is enough to heal this peer if it is remote.",
        ),
        field(
            "when_bus_down",
            OneOf(&["hold", "local"]),
            Is("\"hold\""),
            "While the bus is away. `hold`: no remedy. `local`: what exited, and was seen to while the bus still worked, is \
             healed under this node's own budgets; nothing else.",
        ),
        field(
            "blockers",
            Texts(16, 63),
            Derived("every `[blocker.NAME]`", "[\"deploys\"]"),
            "Which blockers may forbid its remedies; `[]`: none.",
        ),
        field(
            "leave_within",
            Time(secs(1), DAY),
            Is("\"5m\""),
            "Who says that it stops (a notification, a push, its file) and is still there after so long is told of, and left alone.",
        ),
        field(
            "healthz_hold",
            Time(secs(1), secs(600)),
            Is("\"45s\""),
            "How long `/healthz/NAME` answers 503 for one pulse. More than the probe's period × failureThreshold.",
        ),
    ],
    tables: &["owner", "checks", "remedies", "backoff", "budget"],
    later: &["stopped_when", "quorum"],
};

/// `peer.NAME.owner`
pub const OWNER: Section = Section {
    title: "[peer.NAME.owner]",
    sample: "[peer.feed.owner]",
    about: "How the peer's process, container or unit is found: exactly one of these. An owner implies a check `process`. What is \
            stopped on purpose (`docker stop`, `kill`, `rm -f`, a pause; an exit with 0 under restart policy `no` or \
            `on-failure`; `systemctl stop`, a unit that is `inactive`; an end that nobody saw) is left alone, and what Docker \
            or systemd itself restarts is left to it.",
    fields: &[
        field(
            "listens",
            Listens,
            Absent("9080"),
            "The process that listens on this TCP port, or on this very address; of a server's several the oldest. Two that have \
             nothing to do with each other (on two addresses of one port) are no owner. If it cannot be seen, its LISTEN socket stands for it, and nothing can be signalled.",
        ),
        field(
            "pid_file",
            Path,
            Absent("\"/run/feed.pid\""),
            "The process whose number is in this file.",
        ),
        field(
            "heartbeat_file",
            Path,
            Absent("\"/run/bot/heartbeat.json\""),
            "The process whose `pid` is in this heartbeat file: one of this machine and of this node's pid namespace. One that is younger than the file is another.",
        ),
        field(
            "command",
            Text(4096),
            Absent("\"python3 feed.py\""),
            "The only process whose command line contains this.",
        ),
        field(
            "pid",
            Int(1, 4_194_304),
            Absent("4711"),
            "This process, never a successor.",
        ),
        field(
            "unit",
            Text(255),
            Absent("\"feed.service\""),
            "The service of systemd of this name. A life is one InvocationID. Each takes a connection to the bus, which gives one user 256.",
        ),
        field(
            "user",
            Bool,
            Derived("false", "true"),
            "With `unit`: it is one of the user's manager, not of the machine's.",
        ),
        field(
            "container",
            Text(255),
            Absent("\"daq-telemetry\""),
            "The Docker container of this name or id; twelve letters of an id will do.",
        ),
        field(
            "compose",
            Text(511),
            Absent("\"telemetry\""),
            "The only container of this compose service of the project in which this node runs; or `project/service`.",
        ),
        field(
            "label",
            Text(1024),
            Absent("\"app=telemetry\""),
            "The only Docker container with this label.",
        ),
    ],
    tables: &[],
    later: &["pod"],
};

/// `peer.NAME.backoff`
pub const BACKOFF: Section = Section {
    title: "[peer.NAME.backoff]",
    sample: "[peer.feed.backoff]",
    about: "Waiting time between remedies of this peer. It may not space them so far that the budget is never spent.",
    fields: &[
        field(
            "initial",
            Time(ms(100), HOUR),
            Is("\"10s\""),
            "After the first remedy; doubled after each.",
        ),
        field(
            "max",
            Time(ms(100), DAY),
            Is("\"5m\""),
            "Upper bound; at least `initial`.",
        ),
        field(
            "reset_after",
            Time(secs(1), DAY),
            Is("\"10m\""),
            "Verified life of this length starts it anew.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `peer.NAME.budget`
pub const BUDGET: Section = Section {
    title: "[peer.NAME.budget]",
    sample: "[peer.feed.budget]",
    about: "So many remedies that restart in so long; spent, the peer is given up, loudly, and still watched.",
    fields: &[
        field("count", Int(1, 100), Is("3"), "So many."),
        field("window", Time(secs(1), DAY), Is("\"10m\""), "In so long."),
    ],
    tables: &[],
    later: &[],
};

/// Of every check.
pub const CHECK: Section = Section {
    title: "[peer.NAME.checks.CHECK], every type",
    sample: "",
    about: "One way to gather evidence. Its type is its key, unless `type` says otherwise.",
    fields: &[
        field(
            "type",
            OneOf(CHECK_TYPES),
            Derived("the check's key", "\"heartbeat\""),
            "Which kind of check.",
        ),
        field(
            "decides",
            OneOf(&["liveness", "readiness", "nothing"]),
            Is("\"liveness\""),
            "What its verdict changes: the peer's liveness (and readiness), `/readyz/NAME` only, or nothing (shown and exported).",
        ),
        field(
            "grace",
            Time(secs(0), HOUR),
            Derived("the peer's `grace`", "\"10s\""),
            "Failures are ignored after the start until the first pass or for this long.",
        ),
        field(
            "needs",
            Text(64),
            Absent("\"car\""),
            "The `[when.NAME]` outside of which it says unknown.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// Of checks that are run.
pub const CHECK_RUN: Section = Section {
    title: "[peer.NAME.checks.CHECK], types that are run: all but `heartbeat`, `traffic`, `push` and `notify`",
    sample: "",
    about: "",
    fields: &[
        field(
            "interval",
            Time(ms(100), HOUR),
            Is("\"1s\""),
            "Between the starts of two runs. One that still runs is not started twice.",
        ),
        field(
            "timeout",
            Time(ms(10), secs(300)),
            Is("\"1s\""),
            "Bound on one run. An `http` check that exceeds it fails; of others, nothing is known.",
        ),
        field(
            "fail_after",
            FailAfter,
            Is("\"3 of 3\""),
            "So many failures among the last so many runs condemn. Unknown runs count for neither side.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// Of checks that wait for life.
pub const CHECK_PASSIVE: Section = Section {
    title: "[peer.NAME.checks.CHECK], types `heartbeat` and `traffic`",
    sample: "",
    about: "",
    fields: &[
        field(
            "detector",
            OneOf(&["deadline", "phi", "chen"]),
            Is("\"deadline\""),
            "When silence is too long: after two fixed times; or as learned from how the heartbeats came until now, \
             because so long a silence is too improbable (`phi`, after Hayashibara) or because the next one is too long \
             overdue (`chen`, NFD-E). What learns is never hastier than two intervals (heartbeat.interval, or the \
             sender's if that is longer), nor dead before five.",
        ),
        field(
            "suspect_after",
            Time(ms(200), HOUR),
            Derived(
                "2s, or twice heartbeat.interval if that is more; for a detector that learns, ten times heartbeat.interval",
                "\"2s\"",
            ),
            "Silence of this length is suspicion. At least twice heartbeat.interval. For a detector that learns: in any \
             case, and until it has learned something.",
        ),
        field(
            "dead_after",
            Time(ms(200), DAY),
            Derived(
                "5s, or 2.5 × suspect_after if that is more; for a detector that learns, 3 × suspect_after",
                "\"5s\"",
            ),
            "Silence of this length is death. More than `suspect_after`.",
        ),
        field(
            "window",
            Int(1, 1_000),
            Derived("200", "200"),
            "With `phi` or `chen`: so many heartbeats are remembered, 4 bytes each.",
        ),
        field(
            "phi",
            Number,
            Derived("8", "8"),
            "With `phi`: suspicion from this value on, which is -log10 of the probability that a heartbeat still comes. \
             0.5 to 300.",
        ),
        field(
            "dead_phi",
            Number,
            Derived("16, or twice `phi` if that is more", "16"),
            "With `phi`: death from this value on. More than `phi`; at most 600.",
        ),
        field(
            "min_deviation",
            Time(ms(1), HOUR),
            Derived("a tenth of heartbeat.interval", "\"100ms\""),
            "With `phi`: heartbeats are held to scatter by at least so much (standard deviation).",
        ),
        field(
            "acceptable_pause",
            Time(secs(0), HOUR),
            Derived("heartbeat.interval", "\"1s\""),
            "With `phi`: so much later than expected is nothing yet. One interval: a lost message is nothing.",
        ),
        field(
            "margin",
            Time(ms(1), HOUR),
            Derived("1.5 × heartbeat.interval", "\"1500ms\""),
            "With `chen`: so long after the next heartbeat was expected is suspicion.",
        ),
        field(
            "dead_margin",
            Time(ms(1), DAY),
            Derived(
                "4 × heartbeat.interval, or 2.5 × `margin` if that is more",
                "\"4s\"",
            ),
            "With `chen`: and so long after it, death. More than `margin`.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `heartbeat`
pub const CHECK_HEARTBEAT: Section = Section {
    title: "[peer.NAME.checks.heartbeat]",
    sample: "[peer.feed.checks.heartbeat]",
    about: "Passive, on the bus: the peer's own messages are its life. Exactly one of `channel` and `node`.",
    fields: &[
        field(
            "channel",
            Text(256),
            Absent("\"telemetry_heartbeat\""),
            "The peer's own channel: any message on it is life. Never a data channel.",
        ),
        field(
            "node",
            Name,
            Absent("\"node-b\""),
            "Heartbeats of that node: \"the node is alive\".",
        ),
        field(
            "peer",
            Name,
            Absent("\"feed\""),
            "With `node`: what that node says of this peer of its own: \"the application is alive\".",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `traffic`
pub const CHECK_TRAFFIC: Section = Section {
    title: "[peer.NAME.checks.traffic]",
    sample: "[peer.feed.checks.traffic]",
    about: "Passive, on the bus: any message on data channels.",
    fields: &[field(
        "channels",
        Texts(64, 256),
        Must("[\"can_messages\"]"),
        "The channels. Nothing is ever published on them.",
    )],
    tables: &[],
    later: &[],
};

/// `push`
pub const CHECK_PUSH: Section = Section {
    title: "[peer.NAME.checks.push]",
    sample: "[peer.feed.checks.push]",
    about: "Passive, on this machine: `POST /api/v1/beat/NAME` on the admin listener (or `defib beat NAME`) is life; with \
            /fail after it, a failure; with /start, the begin of a run; with /stop, a leave on purpose.",
    fields: &[
        field(
            "suspect_after",
            Time(secs(1), MONTH),
            Is("\"1m\""),
            "Without a beat for this long it is suspect. More than the time between two beats.",
        ),
        field(
            "dead_after",
            Time(secs(1), MONTH),
            Derived("2.5 × suspect_after", "\"150s\""),
            "Without a beat for this long it is dead. More than `suspect_after`.",
        ),
        field(
            "run_within",
            Time(secs(1), MONTH),
            Derived("dead_after", "\"1h\""),
            "After /start it is dead unless it beats, or starts anew, within this time.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `notify`
pub const CHECK_NOTIFY: Section = Section {
    title: "[peer.NAME.checks.notify]",
    sample: "[peer.feed.checks.notify]",
    about: "Passive, on this machine: what the peer sends by systemd's sd_notify protocol. Start it with NOTIFY_SOCKET set \
            to the socket's path, and with WATCHDOG_USEC if it pings.",
    fields: &[
        field(
            "socket",
            Path,
            Derived(
                "notify/NAME.sock in $RUNTIME_DIRECTORY",
                "\"/run/defib/notify/feed.sock\"",
            ),
            "Where the socket is made.",
        ),
        field(
            "mode",
            OneOf(&["0600", "0620", "0660", "0622", "0666"]),
            Is("\"0660\""),
            "Its permissions: who may write to it may send. Whom it believes is another question.",
        ),
        field(
            "users",
            Users,
            Absent("[1000]"),
            "Users whose word is believed, besides root and defib's own. With an owner, its process or a child of it must send.",
        ),
        field(
            "watchdog",
            Time(secs(1), DAY),
            Is("\"30s\""),
            "Without a ping (WATCHDOG=1) for this long it is dead; suspect after three quarters of it. As WATCHDOG_USEC in its \
             environment, at half of which programs ping. It may tell another time (WATCHDOG_USEC=).",
        ),
        field(
            "max_watchdog",
            Time(secs(1), DAY),
            Is("\"10m\""),
            "The longest that it may tell. Not less than `watchdog`.",
        ),
        field(
            "watchdog_required",
            Bool,
            Is("false"),
            "Expect pings from READY on. Else only from the first one on: not every program sends them.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `process`
pub const CHECK_PROCESS: Section = Section {
    title: "[peer.NAME.checks.process]",
    sample: "[peer.feed.checks.process]",
    about: "On this machine: the owner's process or container. A witnessed exit condemns at once; a stopped process goes by \
            `fail_after`. Implied by an owner.",
    fields: &[],
    tables: &[],
    later: &[],
};

/// `http`
pub const CHECK_HTTP: Section = Section {
    title: "[peer.NAME.checks.http]",
    sample: "[peer.feed.checks.http]",
    about: "On this machine: asks a URL. No redirects are followed.",
    fields: &[
        field(
            "url",
            Url,
            Must("\"http://127.0.0.1:9080/health\""),
            "Where to ask.",
        ),
        field(
            "status",
            Statuses,
            Is("\"200-299\""),
            "Statuses that pass: one, or a range.",
        ),
        field(
            "json",
            Text(256),
            Absent("\"healthy\""),
            "Path of a field in the JSON answer: keys and indices, separated by dots.",
        ),
        field("equals", Scalar, Absent("true"), "The field must be this."),
        field(
            "below",
            Number,
            Absent("5"),
            "The field must be a number below this.",
        ),
        field(
            "above",
            Number,
            Absent("0"),
            "The field must be a number above this.",
        ),
        field(
            "ignore",
            Texts(64, 256),
            Is("[]"),
            "Components whose ill health alone fails nothing.",
        ),
        field(
            "body_limit",
            Int(1, 1_048_576),
            Is("65536"),
            "Bytes of the answer that are read; a longer one is unknown.",
        ),
        field(
            "bearer",
            Secret,
            Absent("{ env = \"FEED_TOKEN\" }"),
            "Sent as `Authorization: Bearer …`.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `docker`
pub const CHECK_DOCKER: Section = Section {
    title: "[peer.NAME.checks.docker]",
    sample: "[peer.cache]\nowner = { container = \"cache\" }\n[peer.cache.checks.docker]",
    about: "What the health check of the owner's container says. `unhealthy` fails; `starting` is unknown, and so is a container \
            without a health check. (Docker tries several times itself: `fail_after = \"1 of 1\"` is often enough.)",
    fields: &[],
    tables: &[],
    later: &[],
};

/// `systemd`
pub const CHECK_SYSTEMD: Section = Section {
    title: "[peer.NAME.checks.systemd]",
    sample: "[peer.bot]\nowner = { unit = \"bot.service\" }\n[peer.bot.checks.systemd]",
    about: "Whether the owner's unit finishes what it began: starting (or reloading) for `settle_within` fails. An end is told \
            by the owner itself, and a unit that is being stopped is unknown.",
    fields: &[field(
        "settle_within",
        Time(secs(1), DAY),
        Is("\"2m\""),
        "How long it may be starting or reloading. More than the unit's `TimeoutStartSec=`, so that systemd acts first.",
    )],
    tables: &[],
    later: &[],
};

/// Bytes of a metrics page that are read at most.
const PAGE: Field = field(
    "body_limit",
    Int(1, 8_388_608),
    Is("1048576"),
    "Bytes of the page that are read; a longer one is unknown.",
);

const PAGE_BEARER: Field = field(
    "bearer",
    Secret,
    Absent("{ env = \"FEED_TOKEN\" }"),
    "Sent as `Authorization: Bearer …`.",
);

/// `metric`
pub const CHECK_METRIC: Section = Section {
    title: "[peer.NAME.checks.metric]",
    sample: "[peer.feed.checks.metric]",
    about: "On this machine: a number of the application's metrics page (Prometheus text or OpenMetrics), or how fast \
            it grows. A page that is refused, late, malformed, not there, or without the series is unknown, and so is \
            a NaN. Series that the page declares (`# TYPE`) and has not used yet are 0, which passes or is unknown. \
            Exactly one of `below` and `above`. Cause: `peer_stuck`.",
    fields: &[
        field(
            "url",
            Url,
            Must("\"http://127.0.0.1:9080/metrics\""),
            "The page. No redirects are followed.",
        ),
        field(
            "series",
            Series,
            Must("'queue_depth{queue=\"out\"}'"),
            "Which series, as in PromQL. An OpenMetrics counter's name ends in `_total`.",
        ),
        field("below", Number, Absent("1000"), "The number must be below this."),
        field("above", Number, Absent("0"), "The number must be above this."),
        field(
            "aggregate",
            OneOf(&["sum", "max", "min"]),
            Is("\"sum\""),
            "What is made of several series: with `max`, `below` holds for each; with `min`, `above` does.",
        ),
        field(
            "rate_over",
            Time(secs(1), DAY),
            Absent("\"1m\""),
            "Of counters: their growth a second over this time, in place of their value. At least twice the interval. \
             A counter that falls began anew at 0. Where all fell, the process is a new one, and the time begins \
             anew: it fails `below` only by what it grew since, and `above` when the time is over.",
        ),
        PAGE,
        PAGE_BEARER,
    ],
    tables: &[],
    later: &[],
};

/// `connections`
pub const CHECK_CONNECTIONS: Section = Section {
    title: "[peer.NAME.checks.connections]",
    sample: "[peer.feed.checks.connections]",
    about: "On this machine: ghosts, connections that the application still counts in a gauge of its metrics page and \
            the kernel no longer has. Only ESTABLISHED ones exist; those that the other end closed and the \
            application did not (CLOSE_WAIT) are ghosts. Unknown where nobody listens on the ports in this network \
            namespace, and for what makes a `metric` check unknown. Cause: `peer_leaking`.",
    fields: &[
        field(
            "url",
            Url,
            Must("\"http://127.0.0.1:9080/metrics\""),
            "The page with the gauge. No redirects are followed.",
        ),
        field(
            "series",
            Series,
            Must("\"websocket_connections\""),
            "The gauge: of TCP connections, not of HTTP/2 streams. Several series are added.",
        ),
        field(
            "ports",
            Ports,
            Derived("the port of an owner that is found by `listens`", "[9080]"),
            "Where the counted connections come in.",
        ),
        field(
            "below",
            Int(1, 1_000_000),
            Is("10"),
            "There must be fewer ghosts than this. Some at a time are life: the application learns of an end after the kernel.",
        ),
        PAGE,
        PAGE_BEARER,
    ],
    tables: &[],
    later: &[],
};

/// `memory`
pub const CHECK_MEMORY: Section = Section {
    title: "[peer.NAME.checks.memory]",
    sample: "[peer.feed.checks.memory]",
    about: "On this machine: what the owner holds of the memory, against `below`, `growth`, or both. Unknown while its \
            process is not found. Cause: `peer_leaking`.",
    fields: &[
        field(
            "of",
            OneOf(&["process", "cgroup"]),
            Derived("`\"cgroup\"` of a container, else `\"process\"`", "\"process\""),
            "`process`: the resident memory (VmRSS) of the owner's (first) process, without its children. `cgroup`: `anon` + \
             `shmem` of the cgroup it runs in: a whole container or unit, without the files it read. Of a container whose processes \
             this node does not see, Docker is asked for the latter (with cgroups of version 1: `total_rss`).",
        ),
        field(
            "below",
            Size(1 << 20, 1 << 50),
            Absent("\"512MiB\""),
            "It must be below this.",
        ),
        field(
            "growth",
            Size(1 << 10, 1 << 50),
            Absent("\"50MiB\""),
            "It must grow by less than this in `over`. Growth is `over` × the smaller of the slopes of its older and newer half; a \
             slope is the median of those between every two samples. So a step and a garbage collector's saw are none.",
        ),
        field(
            "over",
            Time(secs(10), DAY),
            Derived("10m with `growth`", "\"10m\""),
            "See `growth`. At least 16 times the interval. A younger process passes while it has grown by less than `growth`, and is unknown after that.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `file`
pub const CHECK_FILE: Section = Section {
    title: "[peer.NAME.checks.file]",
    sample: "[peer.trader]\n[peer.trader.checks.file]",
    about: "On this machine: a heartbeat file, as kstlib writes it, any other JSON file, or any file at all. A change of its content is \
            life, timed by this node's clock; its own date (ISO 8601 with an offset, or a number of seconds or milliseconds \
            since 1970) decides only at first sight, where an age of exactly `max_age` is life and the future is none. \
            Missing, unchanged, truncated, not a JSON object or without its date: `peer_silent`. Its process has ended: \
            `peer_exited`. One that cannot be read, is longer than 64 KiB or comes from another host is unknown. The kernel \
            tells of changes (inotify), and it is looked at each `interval` besides.",
    fields: &[
        field(
            "path",
            Path,
            Must("\"/run/bot/heartbeat.json\""),
            "The file. Symbolic links are followed.",
        ),
        field(
            "max_age",
            Time(secs(1), DAY),
            Is("\"30s\""),
            "It must change within this. At least twice the interval. Time in which this node did not run, or could not read it, does not count.",
        ),
        field(
            "format",
            OneOf(&["json", "plain"]),
            Is("\"json\""),
            "`plain`: any file, of any length; its modification time is its date, and a new one is life, too (`touch`).",
        ),
        field(
            "timestamp",
            Text(256),
            Is("\"timestamp\""),
            "Path of the field with its date, keys and indices separated by dots; `none`: it has no date, and only its changes count.",
        ),
        field(
            "pid",
            OneOf(&["seen", "always", "ignored"]),
            Derived(
                "`always` if the owner is found by the same `heartbeat_file`, else `seen`",
                "\"seen\"",
            ),
            "What its `pid` is good for. A number means something in its own pid namespace only. `always`: it is one of \
             this node's namespace; no process, or one that is younger than the file, condemns from the first sight on. \
             `seen`: its end counts once it was seen to run while the file changed.",
        ),
        field(
            "any_host",
            Bool,
            Is("false"),
            "Take also a file whose `hostname` is another than this machine's, and look at no `pid`.",
        ),
    ],
    tables: &["progress", "stopped_when"],
    later: &[],
};

/// `progress`
pub const FILE_PROGRESS: Section = Section {
    title: "[peer.NAME.checks.file.progress]",
    sample: "[peer.trader.checks.file.progress]",
    about: "A field that must change, too: a thread may beat on while the loop hangs. Without the field it is unknown. \
            Cause: `peer_stuck`.",
    fields: &[
        field(
            "field",
            Text(256),
            Must("\"metadata.cycles\""),
            "Path of the field.",
        ),
        field(
            "max_age",
            Time(secs(1), DAY),
            Must("\"2m\""),
            "It must change within this. At least twice the interval.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `stopped_when`
pub const FILE_STOPPED: Section = Section {
    title: "[peer.NAME.checks.file.stopped_when]",
    sample: "[peer.trader.checks.file.stopped_when]",
    about: "By this the program says that it stops on purpose: the peer is left alone, whatever its other checks say, and so \
            is its exit, until the file says otherwise or another life of the owner appears.",
    fields: &[
        field("field", Text(256), Must("\"status\""), "Path of the field."),
        field("equals", Scalar, Must("\"stopped\""), "Its value, once it stops."),
    ],
    tables: &[],
    later: &[],
};

/// `sockets`
pub const CHECK_SOCKETS: Section = Section {
    title: "[peer.NAME.checks.sockets]",
    sample: "[peer.feed.checks.sockets]",
    about: "On this machine: the owner's TCP connections to a server, as the kernel sees them. It needs the owner's network namespace \
            and no privilege. Fewer than `min`, or silent ones, are `peer_deaf`; ones that are not read are `peer_stuck`. If the server \
            lets this node in neither, it is unknown; so it is for `bus.settle` after that, and after all connections ended at once.",
    fields: &[
        field(
            "to",
            Texts(16, 64),
            Must("[\"10.0.0.5:5432\"]"),
            "The server: an address and a port, or `*:PORT` for any address.",
        ),
        field(
            "min",
            Int(1, 65_535),
            Is("1"),
            "So many connections there must be.",
        ),
        field(
            "max_recv_q",
            Int(0, 1_073_741_824),
            Is("0"),
            "Bytes that may lie unread in one of them. A reader that is slow is not stuck, whatever waits.",
        ),
        field(
            "standing",
            Time(secs(1), HOUR),
            Is("\"10s\""),
            "How long more than that may lie there while nothing at all is read.",
        ),
        field(
            "max_silence",
            Time(secs(1), DAY),
            Absent("\"1m\""),
            "At least `min` of the connections must have received something within this.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `subscription`
pub const CHECK_SUBSCRIPTION: Section = Section {
    title: "[peer.NAME.checks.subscription]",
    sample: "[peer.feed.checks.subscription]",
    about: "From outside: the owner's connections to Redis, as the kernel and `CLIENT LIST` see them. Half-dead ones \
            are stuck, dark, orphaned or lost: docs/half-dead.md. For it the node shares the owner's network \
            namespace, and on a server with ACLs has +client|list.",
    fields: &[
        field(
            "channels",
            Texts(64, 256),
            Must("[\"can_messages\"]"),
            "What the owner is subscribed to. Listened to only while a comparison needs it.",
        ),
        field(
            "min",
            Int(1, 10_000),
            Absent("2"),
            "Fewest connections that must be subscribed; without it one, once there was one.",
        ),
        field(
            "window",
            Time(secs(2), HOUR),
            Is("\"6s\""),
            "How long a subscriber receives nothing of what is sent to it before it is dark, and how long subscribers \
             are missing before they are lost. At least twice `interval`.",
        ),
        field(
            "stuck_after",
            Time(secs(2), HOUR),
            Is("\"15s\""),
            "How long nothing is read although something waits. More than a healthy reader ever takes between two \
             reads: one that takes 64 KiB at a time and 50 ms for each message of 150 bytes takes 22 s.",
        ),
        field(
            "redis",
            Text(1024),
            Absent("\"redis://localhost:6379\""),
            "The server, as in bus.url; without it, that of the bus.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// Of every remedy.
pub const REMEDY: Section = Section {
    title: "[[peer.NAME.remedies]], every kind",
    sample: "",
    about: "One healing action; several are a ladder, mildest first: what did not help is left for the next.",
    fields: &[
        field("do", OneOf(REMEDY_KINDS), Must("\"log\""), "What it does."),
        field(
            "for",
            Causes,
            Is("[]"),
            "The causes it is for; empty: every one that lies in the peer.",
        ),
        field(
            "verify_within",
            Time(secs(1), HOUR),
            Is("\"1m\""),
            "How long the peer has for its own proof of life after the remedy ended.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `healthz`
pub const REMEDY_HEALTHZ: Section = Section {
    title: "[[peer.NAME.remedies]], `do = \"healthz\"`",
    sample: "[peer.web]\nowner = { listens = 8080 }\n[[peer.web.remedies]]\ndo = \"healthz\"",
    about: "`/healthz/NAME` answers 503 for `healthz_hold`, for a liveness probe to see. Local peers only.",
    fields: &[],
    tables: &[],
    later: &[],
};

/// `signal`
pub const REMEDY_SIGNAL: Section = Section {
    title: "[[peer.NAME.remedies]], `do = \"signal\"`",
    sample: "[[peer.feed.remedies]]\ndo = \"signal\"",
    about: "A signal to the very process that was condemned. Needs an owner. SIGCONT goes only to a process that is stopped, \
            and is no restart; any other is charged as one.",
    fields: &[
        field("signal", OneOf(SIGNALS), Is("\"SIGTERM\""), "Which."),
        field(
            "then",
            OneOf(SIGNALS),
            Absent("\"SIGKILL\""),
            "Sent if the process is still there after `after`.",
        ),
        field(
            "after",
            Time(ms(100), secs(600)),
            Derived("10s with `then`", "\"10s\""),
            "How long it has before `then`.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `client_kill`
pub const REMEDY_CLIENT_KILL: Section = Section {
    title: "[[peer.NAME.remedies]], `do = \"client_kill\"`",
    sample: "[[peer.feed.remedies]]\ndo = \"client_kill\"",
    about: "Redis closes the very connections that a `subscription` check condemned, told by id, address and name. \
            Restarts nothing: for clients that connect again. On a server with ACLs it takes +client|list +client|kill.",
    fields: &[field(
        "timeout",
        Time(ms(100), secs(60)),
        Is("\"5s\""),
        "Bound on each question to Redis.",
    )],
    tables: &[],
    later: &[],
};

/// `exec`
pub const REMEDY_EXEC: Section = Section {
    title: "[[peer.NAME.remedies]], `do = \"exec\"`",
    sample: "[peer.recorder]\nowner = { pid_file = \"/run/recorder.pid\" }\n[[peer.recorder.remedies]]\ndo = \"exec\"",
    about: "A command without a shell. In its environment: DEFIB_PEER, DEFIB_CAUSE, DEFIB_INCARNATION, DEFIB_ATTEMPT, \
            DEFIB_FENCING_TOKEN, and nothing that the configuration reads. Its output goes into the log.",
    fields: &[
        field(
            "command",
            Texts(64, 4096),
            Must("[\"systemctl\", \"restart\", \"recorder\"]"),
            "Program and arguments.",
        ),
        field(
            "timeout",
            Time(ms(100), HOUR),
            Is("\"30s\""),
            "Its whole process group is ended after this.",
        ),
        field(
            "restarts",
            Bool,
            Is("true"),
            "It makes a new incarnation: charged to the budgets.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `http`
pub const REMEDY_HTTP: Section = Section {
    title: "[[peer.NAME.remedies]], `do = \"http\"`",
    sample: "[peer.pusher]\nowner = { command = \"pusher.py\" }\n[[peer.pusher.remedies]]\ndo = \"http\"",
    about: "A request, then perhaps a wait for a condition: a drain.",
    fields: &[
        field(
            "url",
            Url,
            Must("\"http://127.0.0.1:9080/__internal/restart\""),
            "What is asked.",
        ),
        field(
            "method",
            OneOf(&["POST", "GET", "PUT", "PATCH", "DELETE"]),
            Is("\"POST\""),
            "How.",
        ),
        field("body", Text(65_536), Absent("\"{}\""), "Sent with it."),
        field(
            "bearer",
            Secret,
            Absent("{ env = \"PUSHER_TOKEN\" }"),
            "Sent as `Authorization: Bearer …`.",
        ),
        field(
            "timeout",
            Time(ms(10), secs(300)),
            Is("\"5s\""),
            "Bound on the request.",
        ),
        field(
            "restarts",
            Bool,
            Derived("true, or false with `until`", "true"),
            "It makes a new incarnation: charged to the budgets. False for a drain.",
        ),
    ],
    tables: &["until"],
    later: &[],
};

/// `until`
pub const UNTIL: Section = Section {
    title: "[peer.NAME.remedies.until]",
    sample: "[peer.sfu]\nowner = { command = \"sfu\" }\n[[peer.sfu.remedies]]\ndo = \"http\"\nurl = \"http://127.0.0.1:9090/drain\"\n[peer.sfu.remedies.until]",
    about: "What an `http` remedy waits for after its request. That it did not come true by `deadline` is no failure.",
    fields: &[
        field(
            "url",
            Url,
            Must("\"http://127.0.0.1:9090/connections\""),
            "Where to ask, again and again.",
        ),
        field(
            "status",
            Statuses,
            Is("\"200-299\""),
            "Statuses that end the wait: one, or a range.",
        ),
        field(
            "json",
            Text(256),
            Absent("\"open\""),
            "Path of a field in the JSON answer: keys and indices, separated by dots.",
        ),
        field("equals", Scalar, Absent("0"), "The field must be this."),
        field(
            "below",
            Number,
            Absent("5"),
            "The field must be a number below this.",
        ),
        field(
            "above",
            Number,
            Absent("0"),
            "The field must be a number above this.",
        ),
        field(
            "bearer",
            Secret,
            Absent("{ env = \"SFU_TOKEN\" }"),
            "Sent as `Authorization: Bearer …`.",
        ),
        field("deadline", Time(ms(100), HOUR), Is("\"30s\""), "Longest wait."),
        field(
            "interval",
            Time(ms(100), secs(60)),
            Is("\"1s\""),
            "Between two askings.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `docker`
pub const REMEDY_DOCKER: Section = Section {
    title: "[[peer.NAME.remedies]], `do = \"docker\"`",
    sample: "[[peer.cache.remedies]]\ndo = \"docker\"",
    about: "An act of the Docker engine upon one container, which is looked at again right before. After a restart or start, \
            whoever lives in its network namespace (`network_mode: service:…`) is restarted, too, in the order of compose's \
            `depends_on`, and this node last. Nothing else is ever touched.",
    fields: &[
        field(
            "container",
            Text(255),
            Derived("the peer's owner", "\"daq-telemetry\""),
            "Name or id of another one. One that has ended is touched only if Docker remembers that nobody stopped it.",
        ),
        field(
            "action",
            OneOf(&["restart", "start", "kill"]),
            Is("\"restart\""),
            "`kill` sends `signal`; Docker takes one that ends the container for a stop on purpose, and does not restart it.",
        ),
        field(
            "signal",
            OneOf(SIGNALS),
            Derived("SIGKILL with `action = \"kill\"`", "\"SIGKILL\""),
            "For `kill`: which.",
        ),
        field(
            "stop_timeout",
            Time(secs(0), secs(3600)),
            Derived("the container's own, at most 5 min; else 10s", "\"10s\""),
            "For `restart`: how long it has after its stop signal before it is killed. Whole seconds.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `systemd`
pub const REMEDY_SYSTEMD: Section = Section {
    title: "[[peer.NAME.remedies]], `do = \"systemd\"`",
    sample: "[[peer.bot.remedies]]\ndo = \"systemd\"",
    about: "A job of systemd for one unit, which is looked at again right before. A stop is never undone, nor a job of somebody \
            else's. systemd itself restarts whoever is bound to the unit (`PartOf=`, `BindsTo=`, `Requires=`). A unit that was \
            started too often (`start-limit-hit`) is reset first. Without root it needs a rule of polkit; `defib doctor` \
            prints it.",
    fields: &[
        field(
            "unit",
            Text(255),
            Derived("the peer's owner", "\"bot.service\""),
            "Name of another service. One that is `inactive` is left alone.",
        ),
        field(
            "user",
            Bool,
            Derived("false", "true"),
            "With `unit`: it is one of the user's manager, not of the machine's.",
        ),
        field(
            "action",
            OneOf(&["restart", "start", "kill"]),
            Is("\"restart\""),
            "`start` is for a unit that has failed. `kill` sends `signal` and leaves the rest to the unit's `Restart=`.",
        ),
        field(
            "signal",
            OneOf(SIGNALS),
            Derived("SIGKILL with `action = \"kill\"`", "\"SIGABRT\""),
            "For `kill`: which.",
        ),
        field(
            "whom",
            OneOf(&["all", "main"]),
            Derived("all with `action = \"kill\"`", "\"main\""),
            "For `kill`: every process of the unit, or its main process.",
        ),
        field(
            "timeout",
            Time(secs(1), HOUR),
            Is("\"200s\""),
            "Longest wait for the job's end. The unit's own `TimeoutStopSec=` and `TimeoutStartSec=` with 10 s on top bound it, too.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `socket_reset`
pub const REMEDY_SOCKET_RESET: Section = Section {
    title: "[[peer.NAME.remedies]], `do = \"socket_reset\"`",
    sample: "[[peer.feed.remedies]]\ndo = \"socket_reset\"",
    about: "Ends exactly the connections that a `subscription` or `sockets` check condemned, in the kernel; a later one is never hit. The \
            owner reads an error and connects again, which is no restart. If it exits instead, that is charged as one, and the \
            next remedy follows. It needs the owner's network \
            namespace, CAP_NET_ADMIN (in a container: `cap_add: [NET_ADMIN]` and user 0), and a kernel with CONFIG_INET_DIAG_DESTROY.",
    fields: &[],
    tables: &[],
    later: &[],
};

/// `log`
pub const REMEDY_LOG: Section = Section {
    title: "[[peer.NAME.remedies]], `do = \"log\"`",
    sample: "[peer.neighbour]\nchecks.heartbeat = { channel = \"neighbour_heartbeat\" }\n[[peer.neighbour.remedies]]\ndo = \"log\"",
    about: "A line in the log, and no act: the only remedy for a peer without an incarnation.",
    fields: &[],
    tables: &[],
    later: &[],
};

/// `notify`
pub const REMEDY_NOTIFY: Section = Section {
    title: "[[peer.NAME.remedies]], `do = \"notify\"`",
    sample: "[[peer.neighbour.remedies]]\ndo = \"notify\"",
    about: "A message to one target, and no act: also for a peer without an incarnation. It is told whatever the target's own \
            `events` and `peers` are.",
    fields: &[field("to", Name, Must("\"slack\""), "Which: a `[notify.NAME]`.")],
    tables: &[],
    later: &[],
};

/// Types of checks that there are.
pub const CHECK_TYPES: &[&str] = &[
    "heartbeat",
    "traffic",
    "push",
    "notify",
    "process",
    "http",
    "docker",
    "systemd",
    "subscription",
    "sockets",
    "metric",
    "connections",
    "memory",
    "tcp",
    "exec",
    "redis_key",
    "redis_lock",
    "file",
];

/// Kinds of remedies that there are.
pub const REMEDY_KINDS: &[&str] = &[
    "healthz",
    "signal",
    "exec",
    "http",
    "docker",
    "systemd",
    "client_kill",
    "socket_reset",
    "log",
    "notify",
    "capture",
];

/// Kinds of remedies that the design knows and this version does not.
pub const LATER_REMEDIES: &[&str] = &["unit", "container", "pod", "kubernetes", "webhook"];

/// Signals that a remedy may send.
pub const SIGNALS: &[&str] = &[
    "SIGTERM", "SIGKILL", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGABRT",
];

/// Every section, in the order of the documents.
pub const ALL: &[&Section] = &[
    &ROOT,
    &BUS,
    &HEARTBEAT,
    &HTTP,
    &GROUP_BUDGET,
    &BREAKER,
    &QUORUM,
    &LOG,
    &STORE,
    &AUDIT,
    &SHUTDOWN,
    &DOCKER,
    &SYSTEMD,
    &LEASES,
    &FLEET,
    &BLOCKER,
    &SIGNING,
    &NOTIFY,
    &CAPTURE,
    &WHEN,
    &MAINTENANCE,
    &PEER,
    &OWNER,
    &BACKOFF,
    &BUDGET,
    &CHECK,
    &CHECK_RUN,
    &CHECK_PASSIVE,
    &CHECK_HEARTBEAT,
    &CHECK_TRAFFIC,
    &CHECK_PUSH,
    &CHECK_NOTIFY,
    &CHECK_PROCESS,
    &CHECK_HTTP,
    &CHECK_DOCKER,
    &CHECK_SYSTEMD,
    &CHECK_SUBSCRIPTION,
    &CHECK_SOCKETS,
    &CHECK_METRIC,
    &CHECK_CONNECTIONS,
    &CHECK_MEMORY,
    &CHECK_TCP,
    &CHECK_EXEC,
    &CHECK_REDIS_KEY,
    &CHECK_REDIS_LOCK,
    &CHECK_FILE,
    &FILE_PROGRESS,
    &FILE_STOPPED,
    &REMEDY,
    &REMEDY_SOCKET_RESET,
    &REMEDY_SIGNAL,
    &REMEDY_HEALTHZ,
    &REMEDY_EXEC,
    &REMEDY_HTTP,
    &UNTIL,
    &REMEDY_DOCKER,
    &REMEDY_CAPTURE,
    &REMEDY_SYSTEMD,
    &REMEDY_CLIENT_KILL,
    &REMEDY_LOG,
    &REMEDY_NOTIFY,
];

/// The fields outside of tables by name, with their paths.
pub fn paths() -> Vec<(Vec<&'static str>, &'static Field)> {
    let mut out: Vec<_> = ROOT.fields.iter().map(|field| (vec![field.key], field)).collect();
    for section in [
        &BUS,
        &HEARTBEAT,
        &HTTP,
        &GROUP_BUDGET,
        &BREAKER,
        &QUORUM,
        &LOG,
        &STORE,
        &AUDIT,
        &SHUTDOWN,
        &DOCKER,
        &SYSTEMD,
        &LEASES,
        &CAPTURE,
        &FLEET,
        &SIGNING,
    ] {
        let table = section.title.trim_matches(['[', ']']);
        out.extend(section.fields.iter().map(|field| (vec![table, field.key], field)));
    }
    out
}
