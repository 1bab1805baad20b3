//! `defib drill PEER`: a real fault, on purpose, to see the running node notice, explain, heal and prove.
//!
//! The fault is undone in every case: at the end, at the deadline, on a signal, on a panic. The node is not told: it
//! has to find out.

mod fault;
mod ready;
mod timeline;

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::api::{self, Node};
use super::args::DrillArgs;
use super::exit;
use super::follow::Follower;
use crate::checks;
use crate::docker::{Docker, Life, State};
use crate::engine::event::Incarnation;
use crate::http::Status;
use crate::systemd::Invocation;
use fault::{Fault, Target};
use ready::Ready;
use timeline::{Outcome, Timeline};

/// Makes the fault, shows what comes of it, undoes it. 0: healed and proven (in a dry run: would have been healed),
/// 1: not, 2: refused, and nothing was touched.
pub fn execute(args: &DrillArgs) -> ExitCode {
    let node = match Node::public(&args.node) {
        Ok(node) => node,
        Err(unknown) => return ExitCode::from(api::told(&unknown)),
    };
    let drilled = api::on_one_thread(drill(args, node)).unwrap_or_else(|error| Err(error.to_string()));
    match drilled {
        Ok(timeline) => {
            api::print(&timeline.report());
            let fine = matches!(timeline.outcome(), Outcome::Healed | Outcome::WouldHeal);
            ExitCode::from(if fine { exit::OK } else { exit::FAILED })
        }
        Err(refused) => {
            if args.json {
                super::say(&serde_json::json!({ "outcome": "refused", "reason": refused }).to_string());
            } else {
                super::say_error(&format!("defib drill: refused: {refused}"));
            }
            ExitCode::from(exit::USAGE)
        }
    }
}

/// `Err` is a refusal: nothing was touched.
async fn drill(args: &DrillArgs, node: Node) -> Result<Timeline, String> {
    let status = status(&node).await?;
    let Ready { incarnation, notes } = ready::ready(&status, &args.peer, args.fault)?;
    let target = hold(args, &incarnation).await?;
    let plan = fault::plan(args, &target)?;
    if !args.yes {
        return Err(format!("this will {plan}; add --yes if that is what you want"));
    }
    let mut signals = Signals::listen()?;
    let mut follower = Follower::of(&node, "/api/v1/events")
        .await
        .map_err(|error| format!("{error:#}"))?;

    let mut timeline = Timeline::start(
        args,
        &node,
        status.snapshot.is_some_and(|snapshot| snapshot.dry_run),
    );
    for note in notes {
        timeline.note(&note);
    }
    let mut fault = Fault::make(plan)?;
    timeline.fault_made(&fault.to_string());
    let ended = tokio::select! {
        biased;
        name = signals.any() => Outcome::Interrupted(name),
        ended = watch(&mut follower, &mut timeline) => ended,
        () = tokio::time::sleep(args.within) => Outcome::TimedOut(args.within),
    };
    timeline.ended(ended, fault.undo());
    if timeline.outcome() == Outcome::Healed {
        prove(&node, &args.peer, &incarnation, &target, &mut timeline).await;
    }
    Ok(timeline)
}

/// Takes hold of the very life that the node has seen.
async fn hold(args: &DrillArgs, incarnation: &Incarnation) -> Result<Target, String> {
    let Some(life) = Life::of(incarnation) else {
        if Invocation::named(incarnation).is_some() {
            let peer = &args.peer;
            return Err(format!(
                "{peer} is a unit of systemd, of which this version breaks none: `systemctl kill -s STOP UNIT` stops it, \
                 `-s KILL` ends it, and `defib explain {peer}` shows what comes of that"
            ));
        }
        let held = checks::hold_again(incarnation);
        return held
            .map(Target::Process)
            .map_err(|why| format!("{why}; run the drill where its node runs, in the same pid namespace"));
    };
    let config = args.node.config.load(false);
    let config =
        config.map_err(|_| "the configuration, which says where Docker is, cannot be read".to_owned())?;
    let docker = Docker::new(config.docker);
    let container = docker
        .inspect(&life.id)
        .await
        .map_err(|error| error.with_cure())?;
    if container.life != life || container.state != State::Running {
        return Err(format!(
            "container {} is {} by now, or in another life",
            container.name,
            container.state.as_str()
        ));
    }
    Ok(match checks::hold_container(&container) {
        Ok(first) => Target::Process(first),
        Err(hidden) => Target::Container(docker, Box::new(container), hidden),
    })
}

async fn status(node: &Node) -> Result<Status, String> {
    let asked = async {
        let body = node.get("/api/v1/status", api::TIMEOUT).await?.good()?;
        anyhow::Ok(serde_json::from_slice(&body)?)
    };
    asked.await.map_err(|error| format!("{error:#}"))
}

async fn watch(follower: &mut Follower, timeline: &mut Timeline) -> Outcome {
    loop {
        match follower.next().await {
            Some(notice) => {
                if let Some(outcome) = timeline.take(&notice) {
                    return outcome;
                }
            }
            None => return Outcome::NodeLost,
        }
    }
}

/// Who it is that passes every check now.
async fn prove(node: &Node, peer: &str, before: &Incarnation, target: &Target, timeline: &mut Timeline) {
    let Ok(status) = status(node).await else { return };
    let Some(now) = ready::find(&status, peer) else {
        return;
    };
    let who = match target {
        Target::Process(life) => format!("process {}", life.pid),
        Target::Container(_, container, _) => format!("that life of container {}", container.name),
    };
    let life = now.incarnation.as_ref().map_or("no known life", |life| &life.0);
    timeline.proof(&if now.incarnation.as_ref() == Some(before) {
        format!("the same {who} passes every check that condemned it")
    } else {
        format!("{who} is gone, {life} passes every check that condemned it")
    });
}

/// What ends a drill early.
struct Signals([(tokio::signal::unix::Signal, &'static str); 3]);

impl Signals {
    fn listen() -> Result<Self, String> {
        let listen = |kind, name| match signal(kind) {
            Ok(signal) => Ok((signal, name)),
            Err(error) => Err(format!(
                "cannot listen to {name}, so the fault could not be undone: {error}"
            )),
        };
        Ok(Self([
            listen(SignalKind::interrupt(), "SIGINT")?,
            listen(SignalKind::terminate(), "SIGTERM")?,
            listen(SignalKind::hangup(), "SIGHUP")?,
        ]))
    }

    async fn any(&mut self) -> &'static str {
        let [(first, a), (second, b), (third, c)] = &mut self.0;
        tokio::select! {
            _ = first.recv() => a,
            _ = second.recv() => b,
            _ = third.recv() => c,
        }
    }
}
