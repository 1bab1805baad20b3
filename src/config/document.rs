//! The documents of the configuration, written from the field list: config/defib.toml and docs/configuration.md. A
//! test holds the files against this.

use std::fmt::Write as _;

use super::fields::{ALL, CHECK, CHECK_PASSIVE, CHECK_RUN, REMEDY, ROOT};
use super::schema::Unless::{Absent, Derived, Is, Must};
use super::schema::{Field, Section};

const SAMPLE: &str = "\
# The configuration of defib: every field, what it takes, what holds if it is not given. As it is, this file changes
# nothing. Lines that begin with `#` and no blank show defaults, or what must be given in a table that has none; lines
# that begin with `##` show examples. The reference with the same content is docs/configuration.md.
#
# Every key can also be set by a variable, DEFIB__ and the path with double underscores (DEFIB__BUS__URL), and by
# --set bus.url=…; the later ones win. ${VAR} and ${VAR:-default} are replaced in any text.
";

const REFERENCE: &str = "\
# Configuration

<!-- Written from src/config/fields.rs; a test holds it against that. Anew: DEFIB_BLESS=1 cargo test --test it docs:: -->

A configuration is one TOML file, and none is needed. `defib check-config` reads it as `defib run` would, reports every
mistake at once with its place and its cure (exit code 78), and with `--explain` says in words what is watched and what
may happen. [config/defib.toml](../config/defib.toml) shows every field in its place.

## Where it comes from

1. The file of `--config` or `DEFIB_CONFIG`; else `$XDG_CONFIG_HOME/defib/defib.toml` (or `~/.config/defib/defib.toml`);
   else `/etc/defib/defib.toml`; else none. At most 1 MiB.
2. Variables: `DEFIB__`, then the path in capitals with **double** underscores: `DEFIB__BUS__URL=redis://localhost`,
   `DEFIB__PEER__FEED__OWNER__LISTENS=9080`. Every variable that begins with `DEFIB__` must be a key. Those with a single
   underscore are not: a Kubernetes service called `defib` makes a `DEFIB_PORT` of its own. One that looks like a key
   (`DEFIB_BUS_URL`) is reported.
3. `--set bus.url=redis://localhost`, as often as needed. A name with a dot goes into quotes: `--set 'peer.\"a.b\".grace=5s'`.

The later ones win, key by key. What a variable or `--set` gives is TOML if it can be (`true`, `5`, `[\"a\"]`,
`{ pid = 7 }`), else text, so that `--set bus.url=embedded` needs no quotes.

The command line has variables of its own: `DEFIB_CONFIG`, `DEFIB_ON_BAD_CONFIG`, `DEFIB_LOG`, `DEFIB_LOG_FORMAT`,
`DEFIB_TOKEN`.

## Texts, secrets, times

- `${VAR}` in any text is replaced by that variable, which must be set; `${VAR:-default}` gives a default for one that is
  unset or empty; `$${` stands for `${`.
- A secret is `{ env = \"NAME\" }`, `{ file = \"/run/secrets/x\" }` (read when it is needed, so that a rotated file is
  picked up), or the text itself. No message, log or debug output shows one.
- A time has a unit: `\"500ms\"`, `\"5s\"`, `\"1m 30s\"`. A bare number is a mistake.
- Names of nodes, groups, peers, checks and expectations: `a-z`, `0-9`, then also `_`, `.`, `-`; at most 63.

## Rules between fields

| rule | what it asks for |
|---|---|
| `suspect_after` | `suspect_after` is at least twice `heartbeat.interval`: a peer is blamed only after two of our own heartbeats came back |
| `dead_after` | `dead_after` is more than `suspect_after` |
| `detector_field`, `phi`, `margin` | fields of `phi` and of `chen` go with that `detector`; what means death is more than what means suspicion |
| `backoff_bounds` | `backoff.initial` is at most `backoff.max` |
| `backoff_evades_budget` | the first `budget.count` waits of `backoff` are together less than `budget.window`; else the budget is never spent, and nobody is ever given up on |
| `healthz_hold` | `healthz_hold` is less than `budget.window`; else one pulse could follow another for ever |
| `channel_clash` | a data channel (`traffic`) is neither where this node publishes nor any peer's own heartbeat channel; a peer's own channel is not where this node publishes |
| `two_groups` | a heartbeat of another `node` needs a bus that it can reach: Redis, or `bus.listen` |
| `watches_itself` | a heartbeat's `node` is another node |
| `heartbeat_source` | a heartbeat has exactly one of `channel` and `node`; `peer` goes with `node` |
| `one_owner`, `one_process` | one way to find the owner, one `process` check |
| `nothing_to_watch` | a peer has an owner or a check |
| `process_needs_owner`, `signal_needs_owner` | what concerns the process needs an owner; a signal, one that is a process or a unit |
| `systemd_needs_unit`, `user_unit` | a `systemd` check needs an owner that is a unit; a `systemd` remedy that, or `unit`; `user` goes with `unit` |
| `plain_has_no_fields`, `pid_of_any_host` | what is about a field of a `file` is not for `format = \"plain\"`; `pid` is not for `any_host` |
| `docker_needs_container` | a `docker` check needs an owner that is a container; a `docker` remedy that, or `container` |
| `kill_signal`, `stop_timeout` | `signal` (and `whom`) goes with `action = \"kill\"`, `stop_timeout` with `restart` |
| `signal_then` | `after` goes with `then` |
| `client_kill_needs_check`, `reset_needs_sockets` | they end what a `subscription` check (`socket_reset`: or a `sockets` check) of the same peer condemned |
| `remedy_needs_incarnation` | a remedy that acts needs an owner or a heartbeat: something by which one life differs from the next |
| `local_only` | `healthz` heals peers of this machine |
| `json_condition` | `json` goes with exactly one of `equals`, `below`, `above` |
| `blocker_which`, `unknown_blocker` | a blocker has either `http`, or `prometheus` and `query`; a peer's `blockers` are there |
| `fleet_size`, `fleet_turn` | `fleet.size` is for a node whose bus is embedded; `turn` is at least twice `budget.spacing` |
| `when_which` | an expectation is met by exactly one of `http` and `redis_key`, and has no fields of the other |
| `tcp_expect`, `exec_codes` | `expect_at` goes with `expect`; an exit code is not in `pass` and in `unknown` |
| `redis_key_age`, `redis_lock_which`, `redis_lock_held` | `age` goes with `max_age`; exactly one of `key` and `pattern`; `held` goes with `key` |
| `password_of_what`, `two_passwords` | a check's `password` goes with its `redis`, and is given once |
| `unknown_expectation`, `unknown_peer`, `unknown_target` | what `needs`, `maintenance.peers`, `--peers`, `[notify.NAME]`'s `peers` and a `notify` remedy's `to` name is there |
| `maintenance_time`, `maintenance_days`, `maintenance_zone` | a window has two times of day, or two dates with times, the later one last; `days` go with the former; a zone is a fixed distance from UTC |
| `capture_size`, `capture_nothing` | a capture's `max_size` is at most `capture.max_total`, and there is something for it to keep |
| `notify_type`, `unknown_word` | `template` and `escape` are for JSON, `resend` for an Alertmanager; a template's `{word}`s exist (docs/notifications.md) |
| `duplicate_listener`, `loopback_only`, `admin_token` | each listener has a port of its own; `bus.listen` and `http.admin_listen` are loopback, the latter with a token |
| `redis_only`, `embedded_only`, `tls_only`, `given_twice` | fields of `[bus]` fit its `url`; certificates in `[docker]` are for `tcp://`, `cert` and `key` together, with a `ca` |
| `too_many`, `too_large` | at most 4096 peers, 64 checks and 16 remedies a peer, 256 expectations, 1 MiB |
| `not_in_this_version` | what the design knows and this version does not |
| `needs_restart` | a node that runs reads its configuration again: what it takes up at its start only is as it was |

## Fields

";

/// The common sections that a section of a check or remedy comes with.
fn shared(section: &Section) -> &'static [&'static Section] {
    match section.sample {
        "[peer.feed.checks.heartbeat]" | "[peer.feed.checks.traffic]" => &[&CHECK, &CHECK_PASSIVE],
        "[peer.feed.checks.process]" | "[peer.feed.checks.http]" => &[&CHECK, &CHECK_RUN],
        sample if sample.ends_with("checks.docker]") || sample.ends_with("checks.systemd]") => {
            &[&CHECK, &CHECK_RUN]
        }
        sample if sample.contains("remedies]]") && !sample.ends_with("until]") => &[&REMEDY],
        _ => &[],
    }
}

/// All of docs/configuration.md.
pub fn reference() -> String {
    let mut out = REFERENCE.to_owned();
    for section in ALL {
        let _ = writeln!(
            out,
            "### {}\n",
            section.title.replace("[[", "\\[\\[").replace("]]", "\\]\\]")
        );
        if !section.about.is_empty() {
            let _ = writeln!(out, "{}\n", section.about);
        }
        if section.fields.is_empty() {
            continue;
        }
        out.push_str("| field | takes | default | meaning |\n|---|---|---|---|\n");
        for field in section.fields {
            let takes = field.takes.describe();
            let _ = writeln!(
                out,
                "| `{}` | {takes} | {} | {} |",
                field.key,
                field.unless.in_words(),
                field.about
            );
        }
        out.push('\n');
    }
    out
}

/// All of config/defib.toml. A line `#key = value` shows a default (or, in a table for which there is none, what must be
/// given); a line `## key = value` shows an example. What several tables have in common is explained in the first.
pub fn sample() -> String {
    let mut out = SAMPLE.to_owned();
    let mut explained: Vec<&str> = Vec::new();
    for section in ALL
        .iter()
        .filter(|section| !section.sample.is_empty() || section.title == ROOT.title)
    {
        let _ = writeln!(out, "\n# {}", "-".repeat(108));
        comment(&mut out, section.about);
        for line in section.sample.lines() {
            let _ = writeln!(out, "#{line}");
        }
        for field in section.fields {
            explain(&mut out, field);
            line(&mut out, field, makes_whole(section, field));
        }
        for common in shared(section) {
            if explained.contains(&common.title) {
                out.push('\n');
                common
                    .fields
                    .iter()
                    .filter(|field| !named(field))
                    .for_each(|field| line(&mut out, field, false));
                continue;
            }
            explained.push(common.title);
            for field in common.fields.iter().filter(|field| field.key != "do") {
                explain(&mut out, field);
                line(&mut out, field, false);
            }
        }
    }
    out
}

/// True for the one of several that must be given by which a sample table is whole.
fn makes_whole(section: &Section, field: &Field) -> bool {
    matches!(
        (section.sample, field.key),
        ("[peer.feed.owner]", "listens")
            | ("[peer.feed.checks.heartbeat]", "channel")
            | ("[when.car]" | "[blocker.deploys]", "http")
            | ("[peer.feed.checks.redis_lock]", "key")
            | ("[peer.feed.checks.metric]" | "[peer.feed.checks.memory]", "below")
    )
}

/// True for what says which kind a check or remedy is.
fn named(field: &Field) -> bool {
    matches!(field.key, "do" | "type")
}

fn explain(out: &mut String, field: &Field) {
    out.push('\n');
    comment(out, field.about);
    comment(
        out,
        &format!(
            "Takes {}. Default: {}.",
            field.takes.describe(),
            field.unless.in_words()
        ),
    );
}

fn line(out: &mut String, field: &Field, needed: bool) {
    let _ = match field.unless {
        Must(value) | Is(value) => writeln!(out, "#{} = {value}", field.key),
        Absent(value) if needed => writeln!(out, "#{} = {value}", field.key),
        Absent(value) | Derived(_, value) => writeln!(out, "## {} = {value}", field.key),
    };
}

fn comment(out: &mut String, text: &str) {
    let mut width = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count() + 1;
        if width == 0 || width + length > 108 {
            if width > 0 {
                out.push('\n');
            }
            out.push('#');
            width = 1;
        }
        let _ = write!(out, " {word}");
        width += length;
    }
    if width > 0 {
        out.push('\n');
    }
}
