//! `defib doctor --acl`: the rule that it prints allows a node all that it does, and nothing that it does not.

use std::collections::BTreeSet;

use defib::engine::peer::Liveness;
use defib::engine::snapshot::CheckView;
use serde_json::json;

use crate::support::node::{Node, defib};
use crate::support::redis_server::{RedisServer, there};
use crate::support::until;

/// Everything there is that asks something of a Redis, each of which runs by itself or as it is looked at.
fn everything(server: &RedisServer, there: &str) -> String {
    let url = server.url().replace("redis://", "redis://defib:pw@");
    let pid = std::process::id();
    format!(
        r#"
        node = "node-a"
        group = "it"
        bus = {{ url = "{url}/1", settle = "0s" }}
        heartbeat = {{ interval = "300ms" }}
        leases = {{ prefixes = ["app:lock:"] }}
        [when.car]
        redis_key = "car"
        [peer.feed]
        owner = {{ pid = {pid} }}
        checks.heartbeat = {{ channel = "telemetry_heartbeat", decides = "nothing" }}
        checks.data = {{ type = "traffic", channels = ["can_messages"], needs = "car", decides = "nothing" }}
        checks.subscription = {{ channels = ["uplink messages"], decides = "nothing" }}
        checks.status = {{ type = "redis_key", key = "timescale:status", json = "ok", equals = true, decides = "nothing" }}
        checks.clients = {{ type = "redis_key", key = "websocket_bridge:clients", decides = "nothing" }}
        checks.lock = {{ type = "redis_lock", key = "chat:lock", decides = "nothing" }}
        checks.locks = {{ type = "redis_lock", pattern = "chat:*:lock", decides = "nothing" }}
        checks.process = {{}}
        remedies = [{{ do = "client_kill" }}]
        [peer.healed]
        owner = {{ pid = {pid} }}
        checks.there = {{ type = "exec", command = ["test", "-e", "{there}"], interval = "300ms" }}
        remedies = [{{ do = "exec", command = ["touch", "{there}"] }}]
        "#
    )
}

/// Commands that the server ran since this began to count, as ACL rules name them; but for what the test itself asks,
/// which is nothing but this.
struct Used<'a> {
    server: &'a RedisServer,
    asked: u64,
}

impl<'a> Used<'a> {
    fn from_now_on(server: &'a RedisServer) -> Self {
        assert!(server.tell("CONFIG RESETSTAT").starts_with("+OK"));
        Self { server, asked: 0 }
    }

    fn look(&mut self) -> BTreeSet<String> {
        let stats = self.server.tell("INFO commandstats");
        let calls = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split_once(',')?.0.parse::<u64>().unwrap()))
        };
        let counted = stats.lines().filter_map(|line| calls(line.trim()));
        // (A call is counted once it is answered.)
        let ours = self.asked;
        self.asked += 1;
        let of_others = |(name, calls): &(String, u64)| name != "info" || *calls > ours;
        counted.filter(of_others).map(|(name, _)| name).collect()
    }
}

#[test]
fn a_node_needs_just_what_the_printed_rule_allows() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    let there = dir.path().join("there");
    std::fs::write(&there, "").unwrap();
    let config = everything(&server, there.to_str().unwrap());
    let file = dir.path().join("defib.toml");
    std::fs::write(&file, &config).unwrap();
    let (code, said) = defib(&["doctor", "--acl", "--config", file.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let rule = said.lines().find(|line| !line.starts_with('#')).unwrap();
    assert!(
        rule.starts_with("ACL SETUSER defib on resetkeys resetchannels -@all "),
        "{said}"
    );
    assert!(server.tell(rule).starts_with("+OK"), "{said}");
    server.tell("ACL SETUSER defib >pw");

    let mut used = Used::from_now_on(&server);
    let node = Node::run(&config);
    let take = |ttl: &str| {
        let body = json!({ "token": "me", "ttl": ttl });
        node.request("PUT", "/api/v1/leases/app:lock:a", &body).0
    };
    until("a lease is taken", || take("10s") == 200);
    assert_eq!(take("20s"), 200);
    let gone = node.request("DELETE", "/api/v1/leases/app:lock:a", &json!({ "token": "me" }));
    assert_eq!(gone.0, 200, "{}", gone.1);
    let allowed: BTreeSet<String> = rule
        .split(' ')
        .filter_map(|word| word.strip_prefix('+'))
        .map(str::to_owned)
        .collect();
    // With the group's leave:
    node.sees("it lives", |snapshot| {
        let healed = snapshot.peers.iter().find(|peer| &*peer.name == "healed");
        let passes = |check: &CheckView| &*check.name == "there" && check.verdict == Liveness::Alive;
        healed.is_some_and(|peer| peer.checks.iter().any(passes))
    });
    std::fs::remove_file(&there).unwrap();
    until("it is healed", || there.exists());
    until("every command was used", || {
        let used = used.look();
        let unused = allowed.difference(&used).cloned();
        // (That one is for leave that was not used.)
        let missing: Vec<_> = unused.filter(|command| command != "hdel").collect();
        println!("not used yet: {missing:?}");
        missing.is_empty()
    });
    until("its bus is trusted", || node.code("/readyz") == 200);
    let denied = server.tell("INFO errorstats");
    assert!(
        !denied.contains("NOPERM"),
        "{denied}\n{}",
        server.tell("ACL LOG 10")
    );
}

#[test]
fn what_is_inside_the_node_needs_no_rule() {
    let (code, said) = defib(&["doctor", "--acl", "--set", "bus.url=embedded"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("nothing is asked of a Redis"), "{said}");
    let (_, said) = defib(&["doctor", "--acl", "--set", "bus.url=redis://h"]);
    assert!(
        said.contains("\nACL SETUSER defib on resetkeys resetchannels -@all +client|setname +"),
        "{said}"
    );
}
