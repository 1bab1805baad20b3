//! Keeps the layers: every path in `src/` that leads from one of our modules to another is held against [`LAYERS`],
//! and the engine against [`IMPURE`]. Tests inside modules are held to the same rule.
//!
//! It reads tokens, not types: comments, strings and character literals are dropped, and every path (`use` groups,
//! `super::super::…`, a bare `crate::x::f()` in a body or in a macro) is resolved to the module that it names.

use std::collections::BTreeMap;
use std::path::Path;

const LEAVES: &[&str] = &[
    "allowance",
    "audit",
    "calendar",
    "command",
    "condemned",
    "docker",
    "exposition",
    "heartbeat_file",
    "http_client",
    "lease_desk",
    "owner_table",
    "preflight",
    "redis_client",
    "regular_file",
    "reload_desk",
    "secret",
    "signing",
    "sock_diag",
    "socket_file",
    "systemd",
    "task",
    "telemetry",
];
const EDGES: &[&str] = &[
    "bus", "checks", "fleet", "http", "leases", "notify", "remedies", "store",
];

/// The whole rule: what a module of the first level may name, beside itself.
///
/// Leaves may be used by all but the engine, and know no more than words: `owner_table`, `docker` and `systemd` those for a life, `lease_desk` that for a peer, `condemned`
/// those for a life and a socket, `telemetry` the enums of the engine and of `http_client`, because they are the
/// labels of its metrics.
const LAYERS: &[(&str, &[&[&str]])] = &[
    ("engine", &[]),
    ("secret", &[]),
    ("exposition", &[]),
    ("task", &[]),
    ("calendar", &[]),
    ("http_client", &[&["secret"]]),
    ("heartbeat_file", &[&["http_client"]]),
    ("owner_table", &[&["engine"]]),
    ("allowance", &[&["engine"]]),
    ("docker", &[&["engine"]]),
    ("systemd", &[&["engine"]]),
    ("lease_desk", &[&["engine"]]),
    ("regular_file", &[]),
    ("reload_desk", &[]),
    ("sock_diag", &[]),
    ("socket_file", &[]),
    ("condemned", &[&["engine", "sock_diag"]]),
    ("redis_client", &[&["engine", "secret"]]),
    ("preflight", &[]),
    ("command", &[&["owner_table", "preflight"]]),
    (
        "telemetry",
        &[&["engine", "http_client", "preflight", "reload_desk"]],
    ),
    ("audit", &[&["calendar", "engine", "telemetry"]]),
    ("signing", &[&["preflight", "secret", "telemetry"]]),
    ("bus", &[LEAVES, &["engine"]]),
    ("checks", &[LEAVES, &["engine"]]),
    ("fleet", &[LEAVES, &["engine"]]),
    ("http", &[LEAVES, &["engine"]]),
    ("leases", &[LEAVES, &["engine"]]),
    ("notify", &[LEAVES, &["engine"]]),
    ("remedies", &[LEAVES, &["engine"]]),
    ("store", &[LEAVES, &["engine"]]),
    ("sim", &[LEAVES, &["engine"]]),
    ("config", &[LEAVES, EDGES, &["engine"]]),
    ("runtime", &[LEAVES, EDGES, &["engine"]]),
    ("app", &[LEAVES, EDGES, &["engine", "runtime", "config"]]),
    (
        "cli",
        &[LEAVES, EDGES, &["engine", "runtime", "config", "app", "sim"]],
    ),
    ("main", &[&["cli"]]),
    // Not part of a release.
    ("fuzzing", &[LEAVES, EDGES, &["config", "sim"]]),
];

/// What the engine must not name: whatever reads the world, waits, or gives a different order at each run.
const IMPURE: &[&str] = &[
    "std::net",
    "std::fs",
    "std::process",
    "std::thread",
    "std::env",
    "std::io",
    "std::os",
    "std::future",
    "std::task",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::Condvar",
    "std::sync::Barrier",
    "std::sync::mpsc",
    "std::hash::RandomState",
    "std::collections::hash_map::RandomState",
];

/// The only crates that the engine may name.
const ENGINE_CRATES: &[&str] = &["std", "core", "alloc", "serde"];

/// Macros that write somewhere, and keywords that wait.
const ENGINE_WORDS: &[&str] = &["print", "println", "eprint", "eprintln", "dbg", "async", "await"];

#[test]
fn every_layer_holds() {
    let sources = sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")));
    assert!(
        sources.len() > 20,
        "found only {} sources: looked in the wrong place?",
        sources.len()
    );
    let sources: Vec<(&str, &str)> = sources
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    let broken = violations(&sources, &dependencies());
    assert!(
        broken.is_empty(),
        "the layers are broken (the rule: LAYERS in {}):\n{}",
        file!(),
        broken.join("\n")
    );
}

#[test]
fn the_table_has_no_cycle_and_no_unknown_name() {
    // Each row may name only rows above it, but for the edges, which stand side by side and name no edge.
    let mut above: Vec<&str> = Vec::new();
    for (module, _) in LAYERS {
        for target in allowed(module).into_iter().filter(|target| target != module) {
            let known = above.contains(&target);
            assert!(known, "`{module}` may name `{target}`, which has no row above it");
        }
        above.push(module);
    }
    for edge in EDGES {
        assert!(
            allowed(edge)
                .iter()
                .all(|target| target == edge || !EDGES.contains(target)),
            "{edge}"
        );
    }
}

#[test]
fn planted_violations_are_found() {
    let planted: &[(&str, &str, &str)] = &[
        (
            "engine/mod.rs",
            "use crate::telemetry::Metrics;",
            "`engine` names `telemetry`",
        ),
        (
            "engine/guards/mod.rs",
            "use super::super::bus;",
            "`engine` names `bus`",
        ),
        (
            "engine/guards/budget.rs",
            "fn f() { super::super::super::store::open() }",
            "`engine` names `store`",
        ),
        (
            "engine/event.rs",
            "mod tests { use super::super::super::secret::Secret; }",
            "`engine` names `secret`",
        ),
        (
            "engine/event.rs",
            "#[cfg(test)] mod tests { fn f() { tokio::spawn(g()); } }",
            "names the crate `tokio`",
        ),
        ("engine/event.rs", "use rand;", "names the crate `rand`"),
        ("engine/event.rs", "use rand as luck;", "names the crate `rand`"),
        ("engine/event.rs", "extern crate libc;", "names the crate `libc`"),
        (
            "engine/event.rs",
            "use ::tracing::info;",
            "names the crate `tracing`",
        ),
        (
            "engine/event.rs",
            "fn f() { tracing::info!(\"x\") }",
            "names the crate `tracing`",
        ),
        (
            "engine/event.rs",
            "use std::{fmt, net::{IpAddr}};",
            "names `std::net::IpAddr`",
        ),
        (
            "engine/event.rs",
            "use std::time::{Duration, Instant};",
            "names `std::time::Instant`",
        ),
        ("engine/event.rs", "use std::time;", "names `std::time`"),
        ("engine/event.rs", "use std::time::*;", "names `std::time`"),
        (
            "engine/event.rs",
            "use std::collections::hash_map::{self};",
            "names `std::collections::hash_map`",
        ),
        (
            "engine/event.rs",
            "fn f() { ::std::thread::sleep(d) }",
            "names `std::thread::sleep`",
        ),
        ("engine/event.rs", "fn f() { println!(\"x\") }", "says `println`"),
        ("engine/event.rs", "async fn f() {}", "says `async`"),
        (
            "engine/event.rs",
            "struct A { m: HashMap<u8, u8> }",
            "`HashMap` without a hasher of its own",
        ),
        (
            "engine/event.rs",
            "fn f() { let m = HashSet::new(); }",
            "`HashSet` without a hasher of its own",
        ),
        (
            "engine/event.rs",
            "fn f() { i.collect::<HashMap<u8, Vec<(u8, u8)>>>() }",
            "`HashMap` without a hasher",
        ),
        (
            "bus/redis.rs",
            "use crate::checks::Owner;",
            "`bus` names `checks`",
        ),
        (
            "bus/redis.rs",
            "fn f() { let x = crate::runtime::clock(); }",
            "`bus` names `runtime`",
        ),
        (
            "bus/redis.rs",
            "use super::super::http::Settings;",
            "`bus` names `http`",
        ),
        (
            "checks/http.rs",
            "use crate::{engine::event::Event, remedies::{self, Remedy}};",
            "`checks` names `remedies`",
        ),
        (
            "remedies/exec.rs",
            "macro_rules! m { () => { $crate::bus::publish() } }",
            "`remedies` names `bus`",
        ),
        (
            "http/page.rs",
            "pub(in crate::app) fn f() {}",
            "`http` names `app`",
        ),
        ("store/mod.rs", "use crate as ours;", "hides the layers"),
        ("store/mod.rs", "use crate::*;", "hides the layers"),
        (
            "store/mod.rs",
            "use crate::{engine, bus as b};",
            "`store` names `bus`",
        ),
        (
            "store/mod.rs",
            "use defib::config::Config;",
            "`store` names `config`",
        ),
        ("store/mod.rs", "use crate::r#bus::Link;", "`store` names `bus`"),
        (
            "secret.rs",
            "use super::engine::event::Event;",
            "`secret` names `engine`",
        ),
        (
            "http_client/mod.rs",
            "use crate::engine::event::Event;",
            "`http_client` names `engine`",
        ),
        (
            "sim/world.rs",
            "use crate::runtime::event_loop;",
            "`sim` names `runtime`",
        ),
        ("config/raw.rs", "use crate::app::App;", "`config` names `app`"),
        ("app.rs", "use crate::cli::Args;", "`app` names `cli`"),
        ("main.rs", "fn main() { defib::app::run() }", "`main` names `app`"),
        ("gossip/mod.rs", "", "has no row in LAYERS"),
        (
            "bus/redis.rs",
            "fn f() { let c = '\"'; crate::app::x(); let d = '\"'; }",
            "`bus` names `app`",
        ),
        (
            "bus/redis.rs",
            "fn f<'a>(s: &'a str) { crate::app::x() }",
            "`bus` names `app`",
        ),
        (
            "bus/redis.rs",
            "const A: &str = r#\"a \"quote\" \"#; use crate::app::x;",
            "`bus` names `app`",
        ),
    ];
    for (path, text, expected) in planted {
        let found = violations(&[(path, text)], &some_dependencies());
        assert!(
            found.iter().any(|line| line.contains(expected)),
            "planted in {path}: {text}\nexpected: {expected}\nfound: {found:#?}"
        );
    }
}

#[test]
fn what_is_allowed_is_not_found() {
    let innocent: &[(&str, &str)] = &[
        (
            "engine/mod.rs",
            "pub mod cause; use cause::Cause; use std::{fmt, sync::Arc, time::Duration};",
        ),
        (
            "engine/mod.rs",
            "use serde::{Deserialize, Serialize}; use crate::engine::time::Time;",
        ),
        (
            "engine/guards/paused.rs",
            "use super::super::time::Time; mod tests { use super::*; use super::super::Guard; }",
        ),
        (
            "engine/event.rs",
            "//! Not [`crate::bus`].\n/* use crate::bus; /* nested */ use tokio; */ fn f() {}",
        ),
        (
            "engine/event.rs",
            "const A: &str = \"use crate::bus; \\\" tokio::spawn\"; const B: &[u8] = br\"crate::app\";",
        ),
        (
            "engine/event.rs",
            "struct A { m: HashMap<u8, (u8, u8), Fixed>, s: HashSet<u8, Fixed> }",
        ),
        (
            "engine/event.rs",
            "fn f() { let tokio = 1; let redis: Redis = redis; self.bytes.len(); bytes(1) }",
        ),
        (
            "engine/event.rs",
            "enum E { A } fn f(e: E) { Self::g(E::A); let _ = std::mem::take(&mut x); }",
        ),
        (
            "bus/redis.rs",
            "use crate::engine::event::Event; use crate::telemetry::metrics::bus::BusMetrics;",
        ),
        (
            "bus/mod.rs",
            "pub mod redis; use redis::Link; use super::secret::Secret; use std::net::SocketAddr;",
        ),
        (
            "checks/http.rs",
            "use crate::http_client::{self, Question}; use tokio::time::sleep;",
        ),
        (
            "runtime/event_loop.rs",
            "use crate::{bus, checks::{self, Settings}, remedies, http, store, engine::Engine};",
        ),
        (
            "app.rs",
            "use crate::config::Config; use crate::runtime; use crate::task::Task;",
        ),
        ("cli/run.rs", "use crate::app; use crate::sim; use super::probe;"),
        ("lib.rs", "pub mod app; pub mod bus; pub mod cli;"),
        (
            "main.rs",
            "fn main() -> std::process::ExitCode { defib::cli::main() }",
        ),
    ];
    for (path, text) in innocent {
        let found = violations(&[(path, text)], &some_dependencies());
        assert!(found.is_empty(), "{path}: {text}\nfound: {found:#?}");
    }
}

fn some_dependencies() -> Vec<String> {
    ["tokio", "redis", "bytes", "rand", "libc", "tracing", "serde"]
        .map(str::to_owned)
        .to_vec()
}

/// Everything wrong with `sources` (path below `src/`, text), one line each.
fn violations(sources: &[(&str, &str)], dependencies: &[String]) -> Vec<String> {
    let mut broken = Vec::new();
    for (path, text) in sources {
        let module = module_of(path);
        let layer = module.first().map_or("lib", String::as_str);
        if layer == "lib" {
            continue; // declares the modules, and that is all it can do without a body
        }
        if !LAYERS.iter().any(|(known, _)| *known == layer) {
            broken.push(format!(
                "{path}: `{layer}` has no row in LAYERS: where does it belong?"
            ));
            continue;
        }
        let tokens = tokens(text);
        let mut say = |line: usize, what: String| broken.push(format!("src/{path}:{line}: {what}"));
        for found in paths(&tokens, &module) {
            if let Some(complaint) = judge(layer, &found, dependencies) {
                say(found.line, complaint);
            }
        }
        if layer == "engine" {
            for (index, token) in tokens.iter().enumerate() {
                if let Some(complaint) = judge_word(&tokens[index..]) {
                    say(token.line, complaint);
                }
            }
        }
    }
    broken
}

/// What is wrong with `layer` naming `found`, if anything is.
fn judge(layer: &str, found: &Found, dependencies: &[String]) -> Option<String> {
    match found.root {
        Root::Ours => {
            let Some(target) = found.segments.first() else {
                return Some("a whole crate under another name, or `*` of it, hides the layers".to_owned());
            };
            let fine = allowed(layer).contains(&target.as_str());
            (!fine).then(|| format!("`{layer}` names `{target}` (`{}`)", found.segments.join("::")))
        }
        Root::Foreign if layer == "engine" => {
            let first = found.segments.first()?.as_str();
            let is_crate = found.is_import || found.segments.len() > 1;
            if is_crate && dependencies.iter().any(|name| name == first) && !ENGINE_CRATES.contains(&first) {
                return Some(format!("the engine is pure, and names the crate `{first}`"));
            }
            let path = found.segments.join("::").replacen("core::", "std::", 1);
            let impure = IMPURE.iter().any(|banned| {
                // Importing the module above it is the long way to the same name.
                within(&path, banned) || (found.is_import && within(banned, &path))
            });
            impure.then(|| format!("the engine is pure, and names `{path}`"))
        }
        Root::Foreign => None,
    }
}

/// What is wrong with the engine saying the first of `tokens`, if anything is.
fn judge_word(tokens: &[Token]) -> Option<String> {
    let word = tokens.first()?.text.as_str();
    let next = tokens.get(1).map_or("", |token| token.text.as_str());
    let is_macro = next == "!";
    if ENGINE_WORDS.contains(&word) && (is_macro || matches!(word, "async" | "await")) {
        return Some(format!(
            "nothing in the engine can wait or write, and it says `{word}`"
        ));
    }
    let wanted = match word {
        "HashMap" => 3,
        "HashSet" => 2,
        _ => return None,
    };
    let complaint = || {
        Some(format!(
            "`{word}` without a hasher of its own: its order differs at each run"
        ))
    };
    match next {
        "<" if arguments(&tokens[1..]) < wanted => complaint(),
        "::" => match tokens.get(2)?.text.as_str() {
            "new" | "with_capacity" | "from" => complaint(),
            "<" if arguments(&tokens[2..]) < wanted => complaint(),
            _ => None,
        },
        _ => None,
    }
}

/// How many arguments the generic list has that opens with the first of `tokens`.
fn arguments(tokens: &[Token]) -> usize {
    let (mut depth, mut count) = (0_i32, 1);
    for token in tokens {
        match token.text.as_str() {
            "<" | "(" | "[" => depth += 1,
            ">" | ")" | "]" => depth -= 1,
            "," if depth == 1 => count += 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    count
}

fn allowed(layer: &str) -> Vec<&'static str> {
    let mut allowed = Vec::new();
    for (module, targets) in LAYERS {
        if *module == layer {
            allowed.push(*module);
            allowed.extend(targets.iter().flat_map(|group| group.iter().copied()));
        }
    }
    allowed
}

/// True if `path` is `outer` or lies in it.
fn within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `guards/mod.rs` -> `guards`; `secret.rs` -> `secret`; `lib.rs` -> nothing.
fn module_of(path: &str) -> Vec<String> {
    let mut module: Vec<String> = path
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
        module.pop();
    }
    module
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    /// The path starts at our crate's root; the segments follow it.
    Ours,
    /// The path starts at another crate, or at something in scope.
    Foreign,
}

/// A path somewhere in a source.
#[derive(Debug)]
struct Found {
    root: Root,
    segments: Vec<String>,
    line: usize,
    /// It stands in a `use` or an `extern crate`.
    is_import: bool,
}

#[derive(Clone, Debug)]
struct Token {
    text: String,
    line: usize,
}

impl Token {
    fn is_name(&self) -> bool {
        self.text
            .starts_with(|first: char| first.is_alphabetic() || first == '_')
    }
}

/// Every path in `tokens`, which are those of `module`.
fn paths(tokens: &[Token], module: &[String]) -> Vec<Found> {
    let mut found = Vec::new();
    let mut inline: Vec<(String, usize)> = Vec::new(); // modules opened in this file, with the depth of their brace
    let (mut depth, mut at) = (0_usize, 0);
    while at < tokens.len() {
        let text = tokens[at].text.as_str();
        let next = tokens.get(at + 1);
        match text {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inline.pop_if(|(_, opened)| *opened == depth);
            }
            "mod" if tokens.get(at + 2).is_some_and(|token| token.text == "{") => {
                if let Some(name) = next.filter(|name| name.is_name()) {
                    inline.push((name.text.clone(), depth));
                    at += 2;
                    continue;
                }
            }
            _ => {}
        }
        let here: Vec<&str> = module
            .iter()
            .map(String::as_str)
            .chain(inline.iter().map(|(name, _)| name.as_str()))
            .collect();
        let is_import =
            text == "use" || (text == "extern" && next.is_some_and(|token| token.text == "crate"));
        let after_path = at > 0 && matches!(tokens[at - 1].text.as_str(), "::" | ".");
        if is_import {
            let from = at + if text == "use" { 1 } else { 2 };
            let mut raw = Vec::new();
            at = tree(tokens, from, &[], &mut raw);
            found.extend(raw.into_iter().map(|raw| resolve(raw, &here, true)));
        } else if tokens[at].is_name() && !after_path || text == "::" && starts_path(tokens, at) {
            let mut raw = Vec::new();
            let end = tree(tokens, at, &[], &mut raw);
            found.extend(raw.into_iter().map(|raw| resolve(raw, &here, false)));
            at = end.max(at + 1);
        } else {
            at += 1;
        }
    }
    found
}

/// True if the `::` at `at` opens a path (`::std::…`) and does not continue one (`<T as A>::b`, `Vec::<u8>::new`).
fn starts_path(tokens: &[Token], at: usize) -> bool {
    at == 0 || !(tokens[at - 1].is_name() || matches!(tokens[at - 1].text.as_str(), ">" | "]" | ")" | "$"))
}

/// A path as written: its segments and its line.
type Raw = (Vec<String>, usize);

/// Reads one path, or one tree of a `use`, from `at`; gives the index behind it.
fn tree(tokens: &[Token], mut at: usize, prefix: &[String], out: &mut Vec<Raw>) -> usize {
    let mut segments = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "::" => at += 1,
            "{" if at > 0 && matches!(tokens[at - 1].text.as_str(), "::" | "use") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    let next = tree(tokens, at, &segments, out);
                    at = next.max(at + 1);
                    if tokens.get(at).is_some_and(|token| token.text == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "*" if at > 0 && tokens[at - 1].text == "::" => {
                out.push((segments, line));
                return at + 1;
            }
            _ if token.is_name() && (segments.len() == prefix.len() || tokens[at - 1].text == "::") => {
                let renamed_self = token.text == "self" && !segments.is_empty();
                if !renamed_self {
                    segments.push(token.text.clone());
                }
                at += 1;
                if tokens.get(at).is_none_or(|token| token.text != "::") {
                    break;
                }
            }
            _ => break,
        }
    }
    if segments.len() > prefix.len()
        || tokens
            .get(at.wrapping_sub(1))
            .is_some_and(|token| token.text == "self")
    {
        out.push((segments, line));
    }
    if tokens.get(at).is_some_and(|token| token.text == "as")
        && tokens.get(at + 1).is_some_and(Token::is_name)
    {
        at += 2;
    }
    at
}

fn resolve((segments, line): Raw, here: &[&str], is_import: bool) -> Found {
    let found = |root, segments| Found {
        root,
        segments,
        line,
        is_import,
    };
    let mut base: Vec<String> = here.iter().map(|&name| name.to_owned()).collect();
    match segments.first().map(String::as_str) {
        // `crate` alone stands in `pub(crate)`; in an import it is a rename of everything.
        Some("crate") if segments.len() == 1 && !is_import => found(Root::Foreign, segments),
        Some("crate" | "defib") if segments[0] == "crate" || segments.len() > 1 || is_import => {
            found(Root::Ours, segments[1..].to_vec())
        }
        Some("self") if segments.len() > 1 => found(Root::Ours, [base, segments[1..].to_vec()].concat()),
        Some("super") => {
            let ups = segments.iter().take_while(|segment| *segment == "super").count();
            base.truncate(base.len().saturating_sub(ups));
            base.extend_from_slice(&segments[ups..]);
            // `pub(super)` names nobody.
            if segments.len() == ups && !is_import {
                return found(Root::Foreign, segments);
            }
            found(Root::Ours, base)
        }
        _ => found(Root::Foreign, segments),
    }
}

/// The tokens that paths are made of; comments and literals are dropped, everything else is one character each.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let from = at;
        let next = chars.get(at + 1).copied().unwrap_or(' ');
        match chars[at] {
            '/' if next == '/' => at = skip_until(&chars, at, |rest| rest[0] == '\n'),
            '/' if next == '*' => at = skip_block_comment(&chars, at),
            '"' => at = skip_string(&chars, at),
            '\'' => at = skip_character(&chars, at),
            c if c.is_alphabetic() || c == '_' => {
                at = skip_until(&chars, at, |rest| !(rest[0].is_alphanumeric() || rest[0] == '_'));
                let word: String = chars[from..at].iter().collect();
                match (word.as_str(), chars.get(at)) {
                    ("r" | "br" | "cr", Some('"' | '#')) => {
                        let hashes = chars[at..].iter().take_while(|&&c| c == '#').count();
                        if chars.get(at + hashes) == Some(&'"') {
                            at = skip_raw_string(&chars, at + hashes, hashes);
                        } else {
                            at += hashes; // a raw identifier: its name follows
                        }
                    }
                    ("b" | "c", Some('"')) => at = skip_string(&chars, at),
                    ("b", Some('\'')) => at = skip_character(&chars, at),
                    _ => tokens.push(Token { text: word, line }),
                }
            }
            ':' if next == ':' => {
                tokens.push(Token {
                    text: "::".to_owned(),
                    line,
                });
                at += 2;
            }
            '-' | '=' if next == '>' => at += 2,
            c => {
                if !c.is_whitespace() {
                    tokens.push(Token {
                        text: c.to_string(),
                        line,
                    });
                }
                at += 1;
            }
        }
        at = at.max(from + 1).min(chars.len());
        line += chars[from..at].iter().filter(|&&c| c == '\n').count();
    }
    tokens
}

fn skip_until(chars: &[char], mut at: usize, end: impl Fn(&[char]) -> bool) -> usize {
    while at < chars.len() && !end(&chars[at..]) {
        at += 1;
    }
    at
}

fn skip_block_comment(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn skip_string(chars: &[char], mut at: usize) -> usize {
    at += 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn skip_raw_string(chars: &[char], at: usize, hashes: usize) -> usize {
    skip_until(chars, at + 1, |rest| {
        rest[0] == '"' && rest[1..].iter().take_while(|&&c| c == '#').count() >= hashes
    }) + 1
        + hashes
}

/// A character literal, or the quote of a lifetime (whose name then reads as a word, which names no module).
fn skip_character(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => skip_until(chars, at + 3, |rest| rest[0] == '\'') + 1,
        (Some(_), Some('\'')) => at + 3,
        _ => at + 1,
    }
}

/// Every source below `directory`: its path there, its text.
fn sources(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

/// The crates of Cargo.toml, as the source spells them; and those that a test of an engine might reach for.
fn dependencies() -> Vec<String> {
    let manifest = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    let mut in_dependencies = false;
    let mut names = vec![
        "rand".to_owned(),
        "libc".to_owned(),
        "bollard".to_owned(),
        "kube".to_owned(),
    ];
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.trim_end().ends_with("dependencies]");
        } else if let Some((name, _)) = line.split_once('=').filter(|_| in_dependencies) {
            names.push(name.trim().replace('-', "_"));
        }
    }
    assert!(
        names.iter().any(|name| name == "tokio"),
        "no dependencies found in Cargo.toml: {names:?}"
    );
    names
}
