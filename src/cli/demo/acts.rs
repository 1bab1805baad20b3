//! The five faults.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

use super::children::{self, Role};
use super::stage::{PATIENCE, Stage};
use super::timeline::Outcome;
use crate::cli::fault_proxy::{Direction, Which};
use crate::engine::cause::Cause;
use crate::engine::decision::What;
use crate::engine::peer::Liveness;
use crate::engine::self_trust::BusState;

/// How long the broker is gone.
const GONE: Duration = Duration::from_secs(10);

/// What was seen in one act.
#[derive(Default)]
struct Seen {
    /// Peers that were suspected or condemned.
    blamed: BTreeSet<String>,
    cause: Option<Cause>,
    bus: Vec<BusState>,
    granted: u32,
    recovered: bool,
    noticed: Option<Duration>,
    whole: Option<Duration>,
}

impl Seen {
    fn healed(&self, replaced: bool) -> String {
        let cause = self.cause.map_or("nothing seen", Cause::as_str);
        let proof = if self.recovered && replaced {
            ", recovered as a new process"
        } else {
            ", not recovered"
        };
        format!("{cause}, {} remedy{proof}", self.granted)
    }

    fn held(&self, untouched: bool) -> String {
        let state = self
            .bus
            .iter()
            .find(|state| **state != BusState::Trusted)
            .map_or("nothing seen", |s| s.as_str());
        let trusted = if self.bus.last() == Some(&BusState::Trusted) {
            "trusted again"
        } else {
            "not trusted again"
        };
        let blamed = if self.blamed.is_empty() {
            "nobody blamed".to_owned()
        } else {
            format!("blamed: {:?}", self.blamed)
        };
        let touched = if untouched { "" } else { ", PROCESSES REPLACED" };
        format!("{state}, {blamed}, {} remedies, {trusted}{touched}", self.granted)
    }
}

/// Plays all acts.
pub(super) async fn perform(stage: &mut Stage) -> anyhow::Result<Vec<Outcome>> {
    Ok(vec![
        heal(
            stage,
            1,
            "subscriber killed",
            Role::Subscriber,
            Signal::KILL,
            "SIGKILL to the subscriber",
            Cause::PeerExited,
        )
        .await?,
        heal(
            stage,
            2,
            "subscriber stopped",
            Role::Subscriber,
            Signal::STOP,
            "SIGSTOP to the subscriber: to Redis it looks perfect",
            Cause::PeerStuck,
        )
        .await?,
        heal(
            stage,
            3,
            "publisher silent",
            Role::Publisher,
            Signal::USR1,
            "the publisher runs on and publishes nothing any more",
            Cause::PeerSilent,
        )
        .await?,
        own_subscription_dark(stage).await?,
        broker_gone(stage).await?,
    ])
}

async fn heal(
    stage: &mut Stage,
    number: usize,
    title: &'static str,
    role: Role,
    signal: Signal,
    words: &str,
    cause: Cause,
) -> anyhow::Result<Outcome> {
    let before = children::pid(&stage.dir, role);
    stage.fault(number, title, words);
    if let Some(pid) = before {
        kill_process(pid, signal)?;
    }
    let mut seen = Seen::default();
    let _ = timeout(PATIENCE, watch(stage, &mut seen, |seen| seen.recovered)).await;
    let after = children::pid(&stage.dir, role);
    let replaced = before != after;
    if let (Some(before), Some(after)) = (before, after) {
        let words = format!("process {before} is gone, {after} passes every check that condemned it");
        stage.timeline.line(
            "proof",
            if replaced {
                &words
            } else {
                "none: the process is the same"
            },
        );
    }
    stage.settled().await?;
    Ok(Outcome {
        title,
        expected: Seen {
            cause: Some(cause),
            granted: 1,
            recovered: true,
            ..Seen::default()
        }
        .healed(true),
        seen: seen.healed(replaced),
        noticed: seen.noticed,
        whole: seen.whole,
    })
}

async fn own_subscription_dark(stage: &mut Stage) -> anyhow::Result<Outcome> {
    let before = pids(stage);
    stage.fault(
        4,
        "the node's own subscription dark",
        "its connection stays open and delivers nothing; Redis sees a subscriber",
    );
    stage
        .proxy
        .silence(&Which::ending(":sub"), Direction::Both, false);
    let mut seen = Seen::default();
    let trusted = |seen: &Seen| seen.bus.len() > 1 && seen.bus.last() == Some(&BusState::Trusted);
    let _ = timeout(PATIENCE, watch(stage, &mut seen, trusted)).await;
    // Long enough for a wrong verdict to show.
    let _ = timeout(Duration::from_secs(4), watch(stage, &mut seen, |_| false)).await;
    let untouched = prove_untouched(stage, before);
    stage.settled().await?;
    Ok(held(
        "own subscription dark",
        BusState::SelfDeaf,
        &seen,
        untouched,
    ))
}

async fn broker_gone(stage: &mut Stage) -> anyhow::Result<Outcome> {
    let before = pids(stage);
    stage.fault(
        5,
        "the broker gone for 10 s",
        "every connection is cut and none is taken",
    );
    stage.proxy.refuse().await;
    stage.proxy.cut(&Which::All);
    let mut seen = Seen::default();
    let _ = timeout(GONE, watch(stage, &mut seen, |_| false)).await;
    stage.timeline.line("fault", "the broker is back");
    stage.proxy.restore().await;
    let trusted = |seen: &Seen| seen.bus.last() == Some(&BusState::Trusted);
    let _ = timeout(PATIENCE, watch(stage, &mut seen, trusted)).await;
    // The settling time, and long enough after it for a wrong verdict to show.
    let _ = timeout(Duration::from_secs(8), watch(stage, &mut seen, |_| false)).await;
    let untouched = prove_untouched(stage, before);
    stage.settled().await?;
    Ok(held(
        "broker gone for 10 s",
        BusState::BrokerUnreachable,
        &seen,
        untouched,
    ))
}

fn held(title: &'static str, state: BusState, seen: &Seen, untouched: bool) -> Outcome {
    let expected = Seen {
        bus: vec![state, BusState::Trusted],
        ..Seen::default()
    };
    // Which link is lost first is chance: an outage begins as half of one.
    let bus = match state {
        BusState::BrokerUnreachable => seen
            .bus
            .iter()
            .copied()
            .filter(|s| !matches!(s, BusState::SelfDeaf | BusState::SelfMute))
            .collect(),
        _ => seen.bus.clone(),
    };
    let seen = Seen {
        bus,
        blamed: seen.blamed.clone(),
        ..*seen
    };
    Outcome {
        title,
        expected: expected.held(true),
        seen: seen.held(untouched),
        noticed: seen.noticed,
        whole: seen.whole,
    }
}

/// Says whether both processes are the ones that they were.
fn prove_untouched(stage: &Stage, before: [Option<Pid>; 2]) -> bool {
    let after = pids(stage);
    let words = match before {
        [Some(publisher), Some(subscriber)] if before == after => {
            format!("publisher {publisher} and subscriber {subscriber} are the processes that they were")
        }
        _ => format!("none: they were {before:?} and are {after:?}"),
    };
    stage.timeline.line("proof", &words);
    before == after
}

fn pids(stage: &Stage) -> [Option<Pid>; 2] {
    [Role::Publisher, Role::Subscriber].map(|role| children::pid(&stage.dir, role))
}

/// Takes in notices until `done`.
async fn watch(stage: &mut Stage, seen: &mut Seen, done: impl Fn(&Seen) -> bool) -> anyhow::Result<()> {
    while !done(seen) {
        let notice = stage.notice().await?;
        let elapsed = stage.timeline.elapsed();
        match &notice.what {
            What::Liveness {
                to: Liveness::Suspect | Liveness::Dead,
                ..
            } => {
                seen.noticed.get_or_insert(elapsed);
                seen.blamed.extend(notice.peer.as_deref().map(str::to_owned));
            }
            What::Granted { cause, .. } => {
                seen.granted += 1;
                seen.cause = Some(*cause);
            }
            What::Recovered { .. } => {
                seen.recovered = true;
                seen.whole = Some(elapsed);
            }
            What::Bus { state, .. } => {
                if *state == BusState::Trusted {
                    seen.whole = Some(elapsed);
                } else {
                    seen.noticed.get_or_insert(elapsed);
                }
                seen.bus.push(*state);
            }
            _ => {}
        }
    }
    // A moment for the lines that belong to it.
    sleep(Duration::from_millis(10)).await;
    Ok(())
}
