//! Executors: they honour the fence as the real ones do, and go wrong in every way they can.

use std::sync::Arc;
use std::time::Duration;

use super::node::Arrival;
use super::process::State;
use super::scenario::{Look, Target};
use super::world::{Happening, MS, S, World};
use crate::engine::decision::Grant;
use crate::engine::event::{Event, RemedyOutcome};

/// How a node's executors behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Works,
    /// Gets to its fence late: the world has moved on.
    Slow,
    /// Says so and touches nothing.
    NotActed,
    /// Fails, having touched nothing.
    Fails,
    /// Fails, having restarted the peer.
    FailsActing,
    /// Never answers.
    Hangs,
    /// Restarts the peer and never answers.
    HangsActing,
    /// Answers 204, and nothing happens.
    Idle,
    /// Answers only when the peer is already back.
    RestartsFirst,
}

impl Mode {
    pub(super) const BAD: [Self; 8] = [
        Self::Slow,
        Self::NotActed,
        Self::Fails,
        Self::FailsActing,
        Self::Hangs,
        Self::HangsActing,
        Self::Idle,
        Self::RestartsFirst,
    ];
}

#[derive(Debug)]
pub(super) struct Act {
    node: usize,
    run: u32,
    grant: Grant,
    mode: Mode,
}

impl World {
    pub(super) fn heal(&mut self, node: usize, grant: Grant) {
        let mode = self.nodes[node].mode;
        let (run, peer) = (self.nodes[node].run, grant.peer.0 as usize);
        let dry = self.nodes[node].settings.dry_run;
        if dry {
            self.violate(
                node,
                "dry_run",
                format!("a remedy for {} in a dry run", grant.name),
            );
        }
        self.check_rung(node, peer, &grant);
        let after = match mode {
            Mode::Slow => self.rng.millis(100, 5_000),
            _ => self.rng.millis(1, 10),
        };
        self.after(
            after,
            Happening::Act(Act {
                node,
                run,
                grant,
                mode,
            }),
        );
    }

    pub(super) fn act(&mut self, act: Act) {
        let of = &self.nodes[act.node];
        if of.run != act.run || of.engine.is_none() {
            return; // The executor ended with its node.
        }
        if let Some(until) = of.frozen_until() {
            let at = until + self.rng.millis(0, 20);
            return self.queue.put(at, Happening::Act(act));
        }
        if !act.grant.kind.touches() {
            return self.answer(&act, MS, acted("a line was written"));
        }
        let target = of.watched[act.grant.peer.0 as usize].target;
        if act.mode == Mode::NotActed {
            let detail = "could not spawn".to_owned();
            return self.answer(&act, MS, RemedyOutcome::NotActed { detail });
        }
        if let Err(refused) = self.fence(&act, target) {
            self.tell(format!("n{}'s executor: {refused:?}", act.node));
            return self.answer(&act, MS, refused);
        }
        if self.nodes[act.node].local(self.now) >= act.grant.until {
            let detail = "the time of its grant is over".to_owned();
            return self.answer(&act, MS, RemedyOutcome::Fenced { detail });
        }
        let soon = self.rng.millis(5, 1_500);
        let failed = || RemedyOutcome::Failed {
            detail: "exit status 1".to_owned(),
        };
        match act.mode {
            Mode::Works | Mode::Slow => {
                self.restart(target, soon);
                self.answer(&act, 20 * MS, acted("restarted"));
            }
            Mode::RestartsFirst => {
                self.restart(target, soon);
                self.answer(&act, soon + 4 * S, acted("restarted"));
            }
            Mode::Fails => self.answer(&act, soon, failed()),
            Mode::FailsActing => {
                self.restart(target, soon);
                self.answer(&act, soon, failed());
            }
            Mode::HangsActing => self.restart(target, soon),
            Mode::Idle => self.answer(&act, soon, acted("status 204")),
            Mode::Hangs | Mode::NotActed => {}
        }
    }

    fn answer(&mut self, act: &Act, after: Duration, outcome: RemedyOutcome) {
        let token = act.grant.token;
        self.deliver_to(
            act.node,
            after,
            Arrival::of(Event::RemedyEnded { token, outcome }),
        );
    }

    /// Is this still the life that was condemned?
    fn fence(&mut self, act: &Act, target: Target) -> Result<(), RemedyOutcome> {
        let (node, grant) = (act.node, &act.grant);
        let fenced = |detail: String| RemedyOutcome::Fenced { detail };
        let found = match target {
            Target::Node(other) => format!("boot:{}", self.nodes[other].settings.boot),
            Target::Process(process) => {
                let looks = &self.nodes[node].watched[grant.peer.0 as usize].checks;
                if looks.contains(&Look::Process) {
                    return self.fence_owned(process, grant);
                }
                let home_names = Arc::clone(&self.incarnation(process).0);
                if looks.contains(&Look::Claim) && grant.incarnation.0.starts_with("proc:") {
                    home_names.to_string()
                } else if grant.incarnation.0.starts_with("boot:") {
                    format!("boot:{}", self.process_boot(process))
                } else {
                    // By the newest that the node itself knows.
                    grant.incarnation.to_string()
                }
            }
        };
        if *grant.incarnation.0 == *found {
            Ok(())
        } else {
            Err(fenced(format!("another life runs by now: {found}")))
        }
    }

    fn fence_owned(&self, process: usize, grant: &Grant) -> Result<(), RemedyOutcome> {
        let of = &self.processes[process];
        let current = self.incarnation(process);
        match of.state {
            State::Dead if grant.exited => Ok(()),
            State::Dead => Err(RemedyOutcome::NotActed {
                detail: "it has ended meanwhile".to_owned(),
            }),
            _ if grant.exited || current != grant.incarnation => Err(RemedyOutcome::Fenced {
                detail: format!("another life runs by now: {current}"),
            }),
            _ => Ok(()),
        }
    }

    fn restart(&mut self, target: Target, after: Duration) {
        match target {
            // Nobody reaches a machine that sleeps.
            Target::Process(process) if self.processes[process].asleep => {}
            Target::Node(node) if self.nodes[node].is_suspended() => {}
            Target::Process(process) => {
                self.kill(process, "a remedy");
                let life = self.processes[process].life;
                self.after(after, Happening::Respawn { process, life });
            }
            Target::Node(node) => {
                let run = self.nodes[node].run;
                self.crash(node, run);
                self.after(after + S, Happening::Start { node });
            }
        }
    }

    /// A kubelet: three failures in a row, 5 s apart, restart the container.
    pub(super) fn probe(&mut self, process: usize, failures: u32) {
        let home = self.scenario.processes[process].home;
        let of = &self.nodes[home];
        let local = of.local(self.now);
        let pulses = of.frozen_until().is_none()
            && of.owner_of(process).is_some_and(|peer| {
                of.engine.as_ref().is_some_and(|engine| {
                    let snapshot = engine.snapshot(local);
                    let healthz = snapshot.peers.get(peer).and_then(|peer| peer.healthz);
                    healthz.is_some_and(|healthz| healthz.pulsing_until.is_some())
                })
            });
        let failures = if pulses { failures + 1 } else { 0 };
        if failures == 3 && !matches!(of.mode, Mode::Idle | Mode::Hangs) {
            let soon = self.rng.millis(100, 2_000);
            self.restart(Target::Process(process), soon);
        }
        self.after(5 * S, Happening::Probe { process, failures });
    }
}

fn acted(detail: &str) -> RemedyOutcome {
    RemedyOutcome::Acted {
        detail: detail.to_owned(),
    }
}
