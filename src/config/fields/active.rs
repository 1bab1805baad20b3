//! The fields of checks that ask others: `tcp`, `exec`, `redis_key`, `redis_lock`.

use super::{DAY, HOUR, field, ms, secs};
use crate::config::schema::Takes::{
    Bool, Codes, Int, Number, OneOf, Scalar, Secret, Statuses, Text, Texts, Time, Url,
};
use crate::config::schema::Unless::{Absent, Derived, Is, Must};
use crate::config::schema::{Field, Section};

const REDIS: Field = field(
    "redis",
    Text(1024),
    Absent("\"redis://localhost:6379/2\""),
    "The server and database, as in bus.url; without it, those of the bus.",
);

const REDIS_PASSWORD: Field = field(
    "password",
    Secret,
    Absent("{ env = \"REDIS_PASSWORD\" }"),
    "The password for `redis`, if it is not in that URL.",
);

/// `tcp`
pub const CHECK_TCP: Section = Section {
    title: "[peer.NAME.checks.tcp]",
    sample: "[peer.feed.checks.tcp]",
    about: "On this machine: connects, and perhaps hears what is said. Refused, no connection in time, and another answer than \
            `expect`, fail (`peer_stuck`). A name that is not resolved, no route, and no descriptor left here are unknown.",
    fields: &[
        field(
            "to",
            Text(512),
            Must("\"127.0.0.1:9080\""),
            "Host and port, or the path of a Unix socket: `10.0.0.5:5432`, `[::1]:9080`, `feed:9080`, `/run/feed.sock`.",
        ),
        field(
            "send",
            Text(4096),
            Absent("\"PING\\r\\n\""),
            "Sent once connected. Use `\\r\\n` where a line's end is meant.",
        ),
        field(
            "expect",
            Text(1024),
            Absent("\"+PONG\""),
            "Must come then, within the `timeout` of the run. 64 KiB are read at most.",
        ),
        field(
            "expect_at",
            OneOf(&["anywhere", "start"]),
            Is("\"anywhere\""),
            "Where `expect` must stand in what comes.",
        ),
    ],
    tables: &[],
    later: &[],
};

/// `exec`
pub const CHECK_EXEC: Section = Section {
    title: "[peer.NAME.checks.exec]",
    sample: "[peer.feed.checks.exec]",
    about: "On this machine: a command without a shell, whose exit code says how the peer is, as Nagios plugins do; its last line of \
            output is the reason. In its environment: DEFIB_PEER, DEFIB_CHECK, DEFIB_PID (where the owner's process is known), and \
            nothing that the configuration reads. After `timeout` its whole process group is ended. That it does not start (126 \
            and 127 too) or dies of a signal is unknown. Every other code than those named here fails (`peer_stuck`), with 1 and 2 \
            Nagios' WARNING and CRITICAL.",
    fields: &[
        field(
            "command",
            Texts(64, 4096),
            Must("[\"check_feed\", \"-c\", \"5\"]"),
            "Program and arguments. It is started anew for each run: give it an `interval` that suits it.",
        ),
        field(
            "pass",
            Codes,
            Derived("`[0]`", "[0, 1]"),
            "Exit codes that pass; `[0, 1]`: a plugin's WARNING does not fail.",
        ),
        field(
            "unknown",
            Codes,
            Derived("`[3]`", "[3]"),
            "Exit codes by which it says that it does not know.",
        ),
        field(
            "on_timeout",
            OneOf(&["unknown", "fail"]),
            Is("\"unknown\""),
            "What a command means whose time is up. `fail` where only the peer can make it hang.",
        ),
    ],
    tables: &[],
    later: &[],
};

const TTL_MIN: Field = field(
    "ttl_min",
    Time(ms(1), DAY),
    Absent("\"2s\""),
    "It must live on for so long at least. Unknown of a key without a TTL.",
);

const AGE: Field = field(
    "age",
    Text(256),
    Absent("\"ts\""),
    "Path of a field of the JSON value with the time of writing: seconds or milliseconds since 1970, or ISO 8601. \
     Goes with `max_age`.",
);

const MAX_AGE: Field = field(
    "max_age",
    Time(ms(100), DAY),
    Absent("\"30s\""),
    "So old the field of `age` may be; without `age`, the value is that time. At first sight that is by the wall clock; \
     from then on the age is how long ago it changed, so that no clock but this node's own matters.",
);

/// `[when.NAME]`
pub const WHEN: Section = Section {
    title: "[when.NAME]",
    sample: "[when.car]",
    about: "An expectation, not health: while it is not met, checks that `needs` it say unknown (the car is off). Exactly one of `http` \
            and `redis_key`; the fields are those of these checks. No answer, and no key, are unmet; what cannot be read is unknown.",
    fields: &[
        field(
            "http",
            Url,
            Absent("\"http://127.0.0.1:8080/health\""),
            "Where to ask.",
        ),
        field(
            "redis_key",
            Text(512),
            Absent("\"car:present\""),
            "The key that must be there, and perhaps be as the fields below have it.",
        ),
        field(
            "status",
            Statuses,
            Is("\"200-299\""),
            "Of `http`: statuses that meet it: one, or a range.",
        ),
        field(
            "json",
            Text(256),
            Absent("\"car.seen_s_ago\""),
            "Path of a field in the JSON answer or value: keys and indices, separated by dots.",
        ),
        field(
            "equals",
            Scalar,
            Absent("true"),
            "The field must be this; of a `redis_key` without `json`, its value.",
        ),
        field("below", Number, Absent("5"), "The same: a number below this."),
        field("above", Number, Absent("0"), "The same: a number above this."),
        field(
            "bearer",
            Secret,
            Absent("{ env = \"CAR_TOKEN\" }"),
            "Of `http`: sent as `Authorization: Bearer …`.",
        ),
        TTL_MIN,
        AGE,
        MAX_AGE,
        REDIS,
        REDIS_PASSWORD,
        field(
            "interval",
            Time(ms(100), HOUR),
            Is("\"5s\""),
            "Between the starts of two askings.",
        ),
        field(
            "timeout",
            Time(ms(10), secs(300)),
            Is("\"1s\""),
            "Bound on one asking; past it the expectation is unknown.",
        ),
    ],
    tables: &[],
    later: &["file"],
};

/// `redis_key`
pub const CHECK_REDIS_KEY: Section = Section {
    title: "[peer.NAME.checks.redis_key]",
    sample: "[peer.feed.checks.redis_key]",
    about: "On the bus: a key that the peer keeps is its sign of life. It must be there; further conditions are for strings of at most \
            64 KiB. A key that is missing, lives too briefly or is too old is `peer_silent`; one that says something else is `peer_stuck`. \
            What cannot be read is unknown, and so is a key of another type. Nothing is written. On a server with ACLs: +pttl, \
            +getrange and the key (~KEY).",
    fields: &[
        field(
            "key",
            Text(512),
            Must("\"websocket_bridge:clients\""),
            "Its name.",
        ),
        TTL_MIN,
        AGE,
        MAX_AGE,
        field(
            "json",
            Text(256),
            Absent("\"ok\""),
            "Path of another field of the JSON value: keys and indices, separated by dots.",
        ),
        field(
            "equals",
            Scalar,
            Absent("true"),
            "The field of `json` must be this; without `json`, the value.",
        ),
        field("below", Number, Absent("5"), "The same: a number below this."),
        field("above", Number, Absent("0"), "The same: a number above this."),
        REDIS,
        REDIS_PASSWORD,
    ],
    tables: &[],
    later: &[],
};

/// `redis_lock`
pub const CHECK_REDIS_LOCK: Section = Section {
    title: "[peer.NAME.checks.redis_lock]",
    sample: "[peer.feed.checks.redis_lock]",
    about: "On the bus: locks that must die with their owner (`SET key token NX PX 60000`, extended again and again), watched and never \
            touched. How much is usually left when a lock is extended is learned from three extensions on; one that misses an \
            extension by half its time is suspect until it is extended, or free. Free is as it should be, unless `held`; a new owner \
            is no failure. A lock without a TTL is `peer_leaking`. Reading that fails is unknown, never free. On a server with \
            ACLs: +pttl, +getrange, for a pattern +scan, and the keys (~KEYS). Exactly one of `key` and `pattern`.",
    fields: &[
        field("key", Text(512), Absent("\"chat:stream:lock\""), "One lock."),
        field(
            "pattern",
            Text(512),
            Absent("\"chat:*:lock\""),
            "Every lock whose key matches, as in KEYS; found by SCAN, some thousand keys of the server's a run.",
        ),
        field(
            "held",
            Bool,
            Is("false"),
            "With `key`: somebody must hold it, else it is `peer_silent`.",
        ),
        field(
            "ttl_min",
            Time(ms(1), HOUR),
            Absent("\"30s\""),
            "A lock is suspect with less than this left, instead of what is learned.",
        ),
        field(
            "max_keys",
            Int(1, 10_000),
            Is("1000"),
            "With `pattern`: so many locks are looked at; if there are more, the check says unknown.",
        ),
        REDIS,
        REDIS_PASSWORD,
    ],
    tables: &[],
    later: &[],
};
