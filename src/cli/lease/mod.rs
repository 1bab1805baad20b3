//! `defib lease KEY -- COMMAND`: a command that runs only while this process is sure of a lease. A node keeps the lease;
//! here time is counted once more, so that a node that dies or hangs does not leave the command running.

pub mod command;
mod hold;

use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::OptionFuture;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::api::{self, Node};
use super::args::LeaseArgs;
use super::follow::Follower;
use super::{exit, say_error};
use crate::engine::time::{Clock, Time};
use crate::lease_desk::State;
use crate::runtime::clock::SleeplessClock;

use command::Running;
use hold::{Desk, Put, Sent, Taken};

/// Between two tries while somebody else has it.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Before it is tried again to follow what becomes of it.
const FOLLOW_AGAIN: Duration = Duration::from_secs(1);

/// Takes the lease, runs the command, gives the lease back.
pub fn execute(args: &LeaseArgs) -> ExitCode {
    match api::on_one_thread(run(args)) {
        Ok(Ok(code)) => ExitCode::from(code),
        Ok(Err(error)) | Err(error) => ExitCode::from(api::told(&error)),
    }
}

async fn run(args: &LeaseArgs) -> anyhow::Result<u8> {
    let clock = SleeplessClock::start();
    let desk = Desk::new(Node::admin(&args.node)?, args, clock)?;
    let mut signals = Signals::listen()?;
    let taken = tokio::select! {
        taken = desk.take(args.wait, TRY_AGAIN) => taken,
        number = signals.next() => {
            desk.give_back().await;
            return Ok(command::ended_by(number));
        }
    };
    let (fencing_token, until) = match taken {
        Taken::Held { fencing_token, until } => (fencing_token, until),
        Taken::NotHeld(why) => {
            say_error(&format!("defib: the lease {} was not had: {why}", args.key));
            return Ok(exit::NOT_HELD);
        }
        Taken::Refused(why) => anyhow::bail!("{why}"),
    };
    let running = match Running::start(&args.command, &args.key, fencing_token) {
        Ok(running) => running,
        Err(error) => {
            desk.give_back().await;
            return Err(error);
        }
    };
    let grace = args.kill_after.min(args.ttl / 4);
    let holding = Holding {
        clock,
        grace,
        tick: args.ttl / 3,
        until,
        next: desk.asked_at() + args.ttl / 3,
        trouble: None,
        ending: None,
    };
    let code = holding.hold(&desk, running, signals).await?;
    // Also after a loss: what is somebody else's is not deleted.
    desk.give_back().await;
    Ok(code)
}

/// What the node tells of the lease, for as long as the handle lives. It follows again when that ends; what is missed
/// meanwhile, the next renewal says.
fn follow(desk: &Desk) -> (mpsc::Receiver<Value>, AbortOnDropHandle<()>) {
    let (tell, news) = mpsc::channel(8);
    let (node, path) = (desk.node().clone(), desk.events());
    let following = tokio::spawn(async move {
        loop {
            if let Ok(mut follower) = Follower::of(&node, &path).await {
                while let Some(told) = follower.next().await {
                    if tell.send(told).await.is_err() {
                        return;
                    }
                }
            }
            tokio::time::sleep(FOLLOW_AGAIN).await;
        }
    });
    (news, AbortOnDropHandle::new(following))
}

/// The signals that are handed on to the command.
struct Signals {
    told: mpsc::Receiver<i32>,
    _listening: Vec<AbortOnDropHandle<()>>,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let (tell, told) = mpsc::channel(8);
        let mut listening = Vec::new();
        for kind in [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ] {
            let mut signal = signal(kind).context("cannot listen to signals")?;
            let tell = tell.clone();
            listening.push(AbortOnDropHandle::new(tokio::spawn(async move {
                while signal.recv().await.is_some() {
                    // One that finds no room follows others that were not handed on yet.
                    let _ = tell.try_send(kind.as_raw_value());
                }
            })));
        }
        Ok(Self {
            told,
            _listening: listening,
        })
    }

    async fn next(&mut self) -> i32 {
        match self.told.recv().await {
            Some(number) => number,
            None => std::future::pending().await,
        }
    }
}

/// A lease that is held, and the command that runs meanwhile.
struct Holding {
    clock: SleeplessClock,
    /// From SIGTERM to SIGKILL.
    grace: Duration,
    /// Between two renewals.
    tick: Duration,
    /// Certainly held until then.
    until: Time,
    /// The next renewal.
    next: Time,
    /// Why the last renewal failed.
    trouble: Option<String>,
    /// The command is told to end; when it is killed.
    ending: Option<Time>,
}

enum Woken {
    Exited,
    Signal(i32),
    Renewed(Sent),
    News(Value),
    Timer,
}

impl Holding {
    async fn hold(mut self, desk: &Desk, mut running: Running, mut signals: Signals) -> anyhow::Result<u8> {
        let (mut news, _following) = follow(desk);
        let mut renewing = pin!(OptionFuture::default());
        let mut in_flight = false;
        loop {
            let now = self.clock.now();
            self.mind_the_time(&running, now);
            if !in_flight && self.ending.is_none() && now >= self.next {
                renewing.set(Some(desk.renew(self.tick)).into());
                in_flight = true;
            }
            let wait = self.wait(in_flight, now);
            let woken = tokio::select! {
                biased;
                exited = running.exited() => {
                    exited?;
                    Woken::Exited
                }
                number = signals.next() => Woken::Signal(number),
                Some(sent) = renewing.as_mut(), if in_flight => Woken::Renewed(sent),
                Some(news) = news.recv() => Woken::News(news),
                () = tokio::time::sleep(wait) => Woken::Timer,
            };
            match woken {
                Woken::Exited => {
                    let code = running.reap(self.ending.is_some()).await?;
                    return Ok(if self.ending.is_some() { exit::LOST } else { code });
                }
                Woken::Signal(number) => running.hand_on(number),
                Woken::Renewed(sent) => {
                    in_flight = false;
                    self.renewed(sent, &running);
                }
                Woken::News(news) => self.news(&news, &running),
                Woken::Timer => {}
            }
        }
    }

    /// Timers stand still while the machine sleeps; the lease does not.
    fn wait(&self, in_flight: bool, now: Time) -> Duration {
        self.due(in_flight).since(now).min(Duration::from_secs(1))
    }

    fn due(&self, in_flight: bool) -> Time {
        match self.ending {
            Some(kill_at) => kill_at,
            None if in_flight => self.until - self.grace,
            None => self.next.min(self.until - self.grace),
        }
    }

    /// The command ends before the lease does: whatever else is known, or was not looked at because this process was
    /// stopped itself.
    fn mind_the_time(&mut self, running: &Running, now: Time) {
        match self.ending {
            Some(kill_at) if now >= kill_at => {
                running.kill();
                // Again, if something of it should be there still.
                self.ending = Some(now + Duration::from_secs(1));
            }
            Some(_) => {}
            None if now >= self.until - self.grace => {
                let why = self.trouble.take();
                let why = why.unwrap_or_else(|| "this process was stopped, or starved".to_owned());
                self.end(
                    &format!("it could not be renewed in time: {why}"),
                    self.until,
                    running,
                );
            }
            None => {}
        }
    }

    fn renewed(&mut self, sent: Sent, running: &Running) {
        let now = self.clock.now();
        self.next = (sent.at + self.tick).max(now + self.tick / 4);
        match sent.put {
            Put::Answer(answer) => match answer.state {
                State::Acquired | State::Renewed => {
                    let held = Duration::from_millis(answer.held_for_ms.unwrap_or(0));
                    // From before the question: the node's answer was made later.
                    self.until = self.until.max(sent.at + held);
                    self.trouble = None;
                }
                State::Lost | State::Held | State::Free => self.lost(answer.reason, running),
                State::Ending | State::Unknown => {
                    self.trouble = Some(answer.reason.unwrap_or_else(|| "unknown".to_owned()));
                }
            },
            Put::Refused(_, why) | Put::Unreachable(why) => self.trouble = Some(why),
        }
    }

    fn news(&mut self, news: &Value, running: &Running) {
        let reason = news.get("reason").and_then(Value::as_str).map(str::to_owned);
        match news.get("state").and_then(Value::as_str) {
            Some("lost" | "free") => self.lost(reason, running),
            Some("ending") => {
                let why = reason.unwrap_or_else(|| "the node drains".to_owned());
                self.end(&why, self.kill_at(self.clock.now()), running);
            }
            _ => {}
        }
    }

    /// Somebody else may have it already.
    fn lost(&mut self, reason: Option<String>, running: &Running) {
        let why = reason.unwrap_or_else(|| "somebody else has it".to_owned());
        self.end(&why, self.kill_at(self.clock.now()), running);
    }

    /// When one that is told to end at `now` is killed: never later than the lease ends, however late it was heard of.
    fn kill_at(&self, now: Time) -> Time {
        (now + self.grace).min(self.until)
    }

    fn end(&mut self, why: &str, kill_at: Time, running: &Running) {
        if self.ending.is_none() {
            say_error(&format!("defib: the lease is lost, the command is ended: {why}"));
            running.terminate();
            self.ending = Some(kill_at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_command_outlasts_its_lease_by_a_sleep_of_the_machine() {
        let clock = SleeplessClock::start();
        let began = clock.now();
        let after = |secs: u64| began + Duration::from_secs(secs);
        let mut holding = Holding {
            clock,
            grace: Duration::from_secs(10),
            tick: Duration::from_secs(20),
            until: after(60),
            next: after(20),
            trouble: None,
            ending: None,
        };
        // The machine sleeps for an hour right now: the timer goes on where it stood, so it is a short one.
        for in_flight in [false, true] {
            assert!(holding.wait(in_flight, began) <= Duration::from_secs(1));
        }
        assert_eq!(holding.kill_at(after(30)), after(40));
        assert_eq!(holding.kill_at(after(55)), after(60), "no grace beyond its end");
        assert_eq!(
            holding.kill_at(after(3600)),
            after(60),
            "heard of too late: at once"
        );
        holding.ending = Some(after(60));
        assert_eq!(holding.wait(false, after(3600)), Duration::ZERO);
    }
}
