//! The `sockets` check, `socket_reset` and whose a socket is, with real clients. (The leaf's own tests are beside it.)

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use defib::checks::{Owner, Probe, Schedule, Settings, WantedSockets};
use defib::condemned::{Condemned, CondemnedTable, Connection};
use defib::docker::{self, Docker};
use defib::engine::cause::Cause;
use defib::engine::decision::Grant;
use defib::engine::event::{Incarnation, Outcome, PeerId, RemedyOutcome};
use defib::engine::settings::RemedyKind;
use defib::engine::time::Time;
use defib::owner_table::OwnerTable;
use defib::redis_client::{self, Redis};
use defib::remedies::{Executors, Remedy, Surroundings};
use defib::sock_diag::{Endpoint, Filter, Socket, Whose, can_destroy, cgroup_of, dump, sockets_of};
use defib::telemetry::metrics::Metrics;
use rustix::process::Signal;

use crate::checks::{CHECK, PEER, Process, Running, SOON, TestClock, until};
use crate::support::available;
use crate::support::feed::{Feed, client};
use crate::support::netns::{self, Namespace};

const QUICK: Schedule = Schedule {
    interval: Duration::from_millis(50),
    timeout: Duration::from_secs(10),
};

fn wanted(feed: &Feed) -> WantedSockets {
    WantedSockets {
        to: vec![feed.address.into()],
        min: 1,
        max_recv_q: 0,
        standing: Duration::from_secs(1),
        max_silence: None,
    }
}

fn start(owner: Owner, wanted: WantedSockets) -> Running {
    Running::start(Settings {
        owners: vec![(PEER, owner, None, SOON)],
        probes: vec![(CHECK, Probe::Sockets(wanted), QUICK)],
        ..Settings::default()
    })
}

fn run(words: &[String]) -> Process {
    let (program, arguments) = words.split_first().unwrap();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Process::start(program, &arguments)
}

async fn outcome_is(running: &mut Running, mut is_it: impl FnMut(&Outcome) -> bool) -> Outcome {
    loop {
        let outcome = running.outcome().await;
        if is_it(&outcome) {
            return outcome;
        }
    }
}

fn detail(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Pass => "",
        Outcome::Fail { detail, .. } | Outcome::Doubt { detail, .. } | Outcome::Unknown { detail } => detail,
    }
}

/// What the kernel has of connections to it.
fn connections(feed: &Feed) -> Vec<Socket> {
    dump(&Filter::established_to(vec![feed.address.into()]))
        .unwrap()
        .sockets
}

#[tokio::test]
async fn a_stopped_client_is_stuck_and_its_neighbours_are_not() {
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let feed = Feed::start(address);
        let stopped = run(&client(feed.address, "reads"));
        let neighbour = run(&client(feed.address, "reads"));
        let slow = run(&client(feed.address, "slow"));
        until(|| feed.accepted() == 3).await;
        let of = |process: &Process| start(Owner::Pid(process.pid()), wanted(&feed));
        let mut watches = [of(&stopped), of(&neighbour), of(&slow)];
        for watch in &mut watches {
            outcome_is(watch, |outcome| *outcome == Outcome::Pass).await;
        }
        stopped.signal(Signal::STOP);
        let mut others = 0;
        let [first, rest @ ..] = &mut watches;
        let failed = loop {
            let outcome = first.outcome().await;
            for watch in &mut *rest {
                assert_eq!(watch.outcome().await, Outcome::Pass);
                others += 1;
            }
            if outcome != Outcome::Pass {
                break outcome;
            }
        };
        assert!(others > 20, "{others} looks at the neighbours");
        assert!(
            matches!(&failed, Outcome::Fail { cause: Cause::PeerStuck, detail }
                if detail.starts_with("1 of 1 connection: ") && detail.contains(" bytes unread for 1 s")),
            "{failed:?}"
        );
        // Exactly that connection is condemned, with the life whose it is.
        let held = first.held_life();
        let condemned = first.condemned.of(PEER, &held);
        assert_eq!(condemned.len(), 1);
        assert_eq!(condemned[0].cause, Cause::PeerStuck);
        let mine = Whose::Process(stopped.pid());
        let mine = sockets_of(
            &mine,
            dump(&Filter::established_to(vec![feed.address.into()])).unwrap(),
        );
        assert_eq!(condemned[0].socket, mine.unwrap().sockets[0].id);
        assert!(
            rest.iter()
                .all(|watch| watch.condemned.of(PEER, &watch.held_life()).is_empty())
        );

        // It goes on, reads what waits, and nothing is held against it any more.
        stopped.signal(Signal::CONT);
        outcome_is(first, |outcome| *outcome == Outcome::Pass).await;
        assert!(first.condemned.of(PEER, &held).is_empty());
        for mut watch in watches {
            watch.stop().await;
        }
    }
}

#[tokio::test]
async fn who_loses_its_connection_is_deaf_unless_the_server_lets_nobody_in() {
    let feed = Feed::start(Ipv4Addr::LOCALHOST);
    let reading = run(&client(feed.address, "reads"));
    until(|| feed.accepted() == 1).await;
    let mut rule = wanted(&feed);
    let mut watch = start(Owner::Pid(reading.pid()), rule.clone());
    outcome_is(&mut watch, |outcome| *outcome == Outcome::Pass).await;
    rule.min = 2;
    let mut too_few = start(Owner::Pid(reading.pid()), rule.clone());
    let failed = outcome_is(&mut too_few, |outcome| matches!(outcome, Outcome::Fail { .. })).await;
    assert!(
        matches!(&failed, Outcome::Fail { cause: Cause::PeerDeaf, detail } if detail == "1 connection of at least 2"),
        "{failed:?}"
    );
    too_few.stop().await;

    // Dark: the connection is there and brings nothing.
    rule.min = 1;
    rule.max_silence = Some(Duration::from_secs(1));
    let mut silent = start(Owner::Pid(reading.pid()), rule);
    outcome_is(&mut silent, |outcome| *outcome == Outcome::Pass).await;
    feed.go_dark();
    let failed = outcome_is(&mut silent, |outcome| *outcome != Outcome::Pass).await;
    assert!(
        matches!(&failed, Outcome::Fail { cause: Cause::PeerDeaf, detail }
            if detail.contains("0 of 1 connection received something within 1 s")),
        "{failed:?}"
    );
    assert_eq!(silent.condemned.of(PEER, &silent.held_life()).len(), 1);
    silent.stop().await;

    drop(feed);
    let unknown = outcome_is(&mut watch, |outcome| *outcome != Outcome::Pass).await;
    assert!(
        matches!(&unknown, Outcome::Unknown { detail } if detail.contains("lets this node in neither")),
        "{unknown:?}"
    );
    watch.stop().await;
}

#[tokio::test]
async fn a_server_that_was_away_between_two_looks_only_excuses_its_client_for_a_while() {
    let mut feed = Feed::start(Ipv4Addr::LOCALHOST);
    let sulking = run(&client(feed.address, "sulks"));
    until(|| feed.accepted() == 1).await;
    let schedule = Schedule {
        interval: Duration::from_millis(500),
        ..QUICK
    };
    let mut watch = Running::start(Settings {
        owners: vec![(PEER, Owner::Pid(sulking.pid()), None, SOON)],
        probes: vec![(CHECK, Probe::Sockets(wanted(&feed)), schedule)],
        ..Settings::default()
    });
    outcome_is(&mut watch, |outcome| *outcome == Outcome::Pass).await;
    let address = feed.address;
    drop(feed);
    feed = Feed::on(std::net::TcpListener::bind(address).unwrap());
    let excused = outcome_is(&mut watch, |outcome| *outcome != Outcome::Pass).await;
    assert!(
        matches!(&excused, Outcome::Unknown { detail }
            if detail.contains("ended at once") || detail.contains("lets this node in neither")),
        "{excused:?}"
    );
    let blamed = outcome_is(&mut watch, |outcome| matches!(outcome, Outcome::Fail { .. })).await;
    assert_eq!(detail(&blamed), "0 connections of at least 1");
    watch.stop().await;
    drop(feed);
}

#[tokio::test]
async fn an_owner_in_another_network_namespace_is_unknown() {
    if !available("root with ip and nft (network namespaces)", netns::usable()) {
        return;
    }
    let feed = Feed::start(Ipv4Addr::LOCALHOST);
    let namespace = Namespace::new();
    let apart = Process(namespace.command("sleep").arg("600").spawn().unwrap());
    until(|| {
        std::fs::read_to_string(format!("/proc/{}/comm", apart.pid())).is_ok_and(|comm| comm == "sleep\n")
    })
    .await;
    let mut watch = start(Owner::Pid(apart.pid()), wanted(&feed));
    let unknown = outcome_is(&mut watch, |outcome| !detail(outcome).contains("does not run")).await;
    assert!(
        matches!(&unknown, Outcome::Unknown { detail }
            if detail.contains("another network namespace") && detail.contains("network_mode")),
        "{unknown:?}"
    );
    watch.stop().await;
}

/// A cgroup of the test's own; removed when its processes have ended.
struct Cgroup(std::path::PathBuf);

impl Cgroup {
    fn new(name: &str) -> Option<Self> {
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .into_iter()
            .find(|root| std::path::Path::new(root).join("cgroup.procs").exists())?;
        let path = std::path::Path::new(root).join(format!("defib-it-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).ok().map(|()| Self(path))
    }

    fn run(&self, words: &[String]) -> Process {
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.0.display());
        let mut all = ["sh", "-c", &enter, "sh"].map(str::to_owned).to_vec();
        all.extend_from_slice(words);
        run(&all)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..500 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Listens, as a peer whose process cannot be seen would, and is connected to the port that it is given.
const LISTENS: &str = "
import socket, sys, time
server = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
client.sendall(str(server.getsockname()[1]).encode())
time.sleep(600)
";

#[tokio::test]
async fn s41_neighbours_on_one_network_are_told_apart_by_their_cgroups() {
    let cgroups = [Cgroup::new("one"), Cgroup::new("two")];
    let [Some(one), Some(two)] = &cgroups else {
        available("a writable cgroup 2 hierarchy (root)", false);
        return;
    };
    let feed = Feed::start(Ipv4Addr::LOCALHOST);
    let words = ["python3", "-c", LISTENS, &feed.address.port().to_string()].map(str::to_owned);
    let first = one.run(&words);
    until(|| feed.accepted() == 1).await;
    let [cookie] = connections(&feed)
        .iter()
        .map(|socket| socket.id.cookie)
        .collect::<Vec<_>>()[..]
    else {
        panic!("not one connection");
    };
    let second = two.run(&client(feed.address, "reads"));
    until(|| feed.accepted() == 2).await;

    let filter = Filter::established_to(vec![feed.address.into()]);
    let of = |whose: &Whose| -> Result<BTreeSet<_>, String> {
        let seen = sockets_of(whose, dump(&filter).unwrap())?;
        Ok(seen.sockets.iter().map(|socket| socket.id.cookie).collect())
    };
    let ids = cgroup_of(first.pid()).unwrap();
    assert_eq!(of(&Whose::Cgroups(ids.clone())), Ok([cookie].into()));
    let other = of(&Whose::Cgroups(cgroup_of(second.pid()).unwrap())).unwrap();
    assert!(other.len() == 1 && !other.contains(&cookie));
    // Its LISTEN socket says the same.
    let listening = dump(&Filter {
        states: [defib::sock_diag::State::Listen].into(),
        remote: Vec::new(),
        local: vec![defib::sock_diag::Endpoint {
            ip: Some(Ipv4Addr::LOCALHOST.into()),
            port: None,
        }],
    });
    let mut listening = listening.unwrap().sockets.into_iter();
    let port = listening
        .find(|socket| socket.cgroup.is_some_and(|id| ids.contains(&id)))
        .unwrap()
        .id
        .local
        .port();
    assert_eq!(of(&Whose::Listener(Endpoint::port(port))), Ok([cookie].into()));
    // Without an owner it cannot be told whose they are.
    assert!(
        of(&Whose::Namespace)
            .unwrap_err()
            .contains("give the peer an owner")
    );
    drop((first, second));
}

fn executors(condemned: &CondemnedTable) -> Executors {
    let around = Surroundings {
        redis: redis_client::Server::new(
            Arc::new(Redis::new(redis_client::Endpoint::tcp("127.0.0.1".to_owned(), 1))),
            &"n".into(),
        ),
        owners: OwnerTable::default(),
        condemned: condemned.clone(),
        latest: Arc::new(|_| Some(Incarnation("boot:1".into()))),
        tell: Arc::new(|_, _| Err("nobody listens")),
        hold_container: |_| Err("out of sight".to_owned()),
        docker: Docker::new(docker::Settings::default()),
        systemd: defib::systemd::Systemd::new(defib::systemd::Settings::default()),
        lock_dir: None,
        scrub: Vec::new(),
        clock: TestClock::shared(),
        metrics: Metrics::new().unwrap().remedies,
    };
    Executors::new([((PEER, 0), Remedy::SocketReset)].into(), around)
}

fn grant(cause: Cause) -> Grant {
    Grant {
        token: 1,
        peer: PeerId(0),
        name: "feed".into(),
        incarnation: Incarnation("boot:1".into()),
        exited: false,
        rung: 0,
        kind: RemedyKind::SocketReset,
        cause,
        attempt: 1,
        until: Time::MAX,
    }
}

fn condemn(table: &CondemnedTable, socket: &Socket) {
    let connection = Connection {
        socket: socket.id.clone(),
        client: None,
        cause: Cause::PeerDeaf,
        because: "nothing received".to_owned(),
    };
    table.set(
        CHECK,
        Condemned {
            incarnation: None,
            connections: vec![connection],
        },
    );
}

#[tokio::test]
async fn exactly_the_condemned_connection_is_reset_and_no_newer_one() {
    if let Err(error) = can_destroy() {
        available(&format!("SOCK_DESTROY ({error})"), false);
        return;
    }
    let feed = Feed::start(Ipv4Addr::LOCALHOST);
    let reading = run(&client(feed.address, "reads"));
    until(|| feed.accepted() == 1).await;
    let table = CondemnedTable::default();
    let healing = executors(&table);
    let outcome = healing.heal(grant(Cause::PeerDeaf)).await;
    assert!(
        matches!(&outcome, RemedyOutcome::NotActed { detail } if detail.contains("no connection of it is condemned")),
        "{outcome:?}"
    );
    let old = connections(&feed).remove(0);
    condemn(&table, &old);
    // Condemned for something else.
    let outcome = healing.heal(grant(Cause::PeerStuck)).await;
    assert!(matches!(outcome, RemedyOutcome::NotActed { .. }), "{outcome:?}");
    let outcome = healing.heal(grant(Cause::PeerDeaf)).await;
    assert!(
        matches!(&outcome, RemedyOutcome::Acted { detail } if detail.starts_with("1 reset: 127.0.0.1:")),
        "{outcome:?}"
    );
    // It connects again; what was condemned is gone, and what is new is not touched.
    until(|| feed.accepted() == 2).await;
    let outcome = healing.heal(grant(Cause::PeerDeaf)).await;
    assert!(
        matches!(&outcome, RemedyOutcome::Fenced { detail } if detail.contains("none of them is there any more")),
        "{outcome:?}"
    );
    let now = connections(&feed);
    assert!(now.len() == 1 && now[0].id.cookie != old.id.cookie, "{now:?}");
    drop(reading);
}

#[tokio::test]
async fn without_privilege_looking_works_and_destroying_says_what_is_missing() {
    const INNER: &str = "DEFIB_TEST_SOCKETS_AS_NOBODY";
    if let Ok(port) = std::env::var(INNER) {
        let filter = Filter::established_on(&[port.parse().unwrap()]);
        let seen = dump(&filter).unwrap().sockets;
        assert!(seen.len() == 1 && seen[0].tcp.is_some(), "{seen:?}");
        let refused = can_destroy().unwrap_err().to_string();
        assert!(refused.contains("CAP_NET_ADMIN"), "{refused}");
        let table = CondemnedTable::default();
        condemn(&table, &seen[0]);
        let outcome = executors(&table).heal(grant(Cause::PeerDeaf)).await;
        assert!(
            matches!(&outcome, RemedyOutcome::NotActed { detail } if detail.contains("cap_add")),
            "{outcome:?}"
        );
        assert_eq!(dump(&filter).unwrap().sockets.len(), 1);
        return;
    }
    let nobody = || {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(std::env::current_exe().unwrap());
        command
    };
    let can = nobody()
        .arg("--list")
        .output()
        .is_ok_and(|out| out.status.success());
    if !available("a second user (setpriv as root, readable test binary)", can) {
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let near = std::net::TcpStream::connect(address).unwrap();
    let name = "sockets::without_privilege_looking_works_and_destroying_says_what_is_missing";
    let inner = nobody()
        .args(["--exact", name])
        .env(INNER, address.port().to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&inner.stdout);
    assert!(inner.status.success() && said.contains("1 passed"), "{said}");
    drop(near);
}
