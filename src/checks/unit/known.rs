//! What one watch knows of its unit, and what it tells the engine after each look. Pure.

use std::collections::BTreeSet;

use crate::engine::event::{Incarnation, OwnerSeen};
use crate::systemd::{Active, Invocation, JobEnd, Unit, UnitRef};

/// Jobs upon a unit that has failed that are told apart.
const MOST_JOBS: usize = 16;

/// What one look saw.
#[allow(clippy::large_enum_variant, reason = "short-lived")]
pub(super) enum Look {
    Seen(Unit),
    /// No such unit, in words.
    Gone(String),
    /// Not to be found out, in words.
    Unseen(String),
}

impl Look {
    pub(super) fn of(unit: Unit, wanted: &UnitRef) -> Self {
        let over = matches!(unit.active, Active::Inactive | Active::Failed);
        match unit.load.as_str() {
            "not-found" if over => Self::Gone(format!("there is no {wanted}")),
            "masked" if over => Self::Gone(format!("{wanted} is masked: systemctl unmask it")),
            "bad-setting" | "error" if over => Self::Gone(format!(
                "{wanted} cannot be loaded ({}): systemctl status says why",
                unit.load
            )),
            _ if unit.invocation.is_none() && !over => Self::Unseen(format!(
                "{wanted} is up without an InvocationID: its lives cannot be told apart"
            )),
            _ => Self::Seen(unit),
        }
    }
}

/// What is known of the unit, and what was told of it.
#[derive(Default)]
pub(super) struct Known {
    /// The life that was seen last.
    pub(super) life: Option<Invocation>,
    phase: Phase,
    /// Told as not to be looked at since, and why.
    unseen: Option<String>,
    /// The unit, as it was seen last.
    pub(super) unit: Option<Unit>,
    /// Somebody else asked for the end of this life.
    asked: bool,
    /// Jobs that began after this life had failed.
    jobs: BTreeSet<String>,
    /// One of them was done, and it was none of ours.
    job_done: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Nothing,
    Running,
    Restarting,
    /// Somebody stops it, and it has not ended yet.
    Stopping,
    /// Stopped, or failed. The engine does not forget that over a look that fails.
    Over,
    Absent,
}

impl Known {
    pub(super) fn job_began(&mut self, job: String) {
        let failed = self
            .unit
            .as_ref()
            .is_some_and(|unit| unit.active == Active::Failed);
        if failed && self.jobs.len() < MOST_JOBS {
            self.jobs.insert(job);
        }
    }

    pub(super) fn job_ended(&mut self, job: &str, end: &JobEnd, ours: bool) {
        self.job_done |= self.jobs.remove(job) && !ours && *end == JobEnd::Done;
    }

    /// What is to be told after a look.
    pub(super) fn looked(&mut self, look: Look, ours: bool) -> Vec<OwnerSeen> {
        let mut told = Vec::new();
        match look {
            Look::Unseen(detail) => {
                if self.unseen.as_ref() != Some(&detail) {
                    self.unseen = Some(detail.clone());
                    told.push(OwnerSeen::Unseen { detail });
                }
                return told;
            }
            Look::Gone(detail) => self.gone(detail, &mut told),
            Look::Seen(unit) => self.seen(unit, ours, &mut told),
        }
        self.unseen = None;
        told
    }

    /// systemd forgets a unit without a file when it has ended well.
    fn gone(&mut self, detail: String, told: &mut Vec<OwnerSeen>) {
        self.unit = None;
        match self.phase {
            Phase::Running | Phase::Restarting | Phase::Stopping | Phase::Over => {
                let detail = format!("{detail}; it was removed, or has ended well");
                self.becomes(Phase::Over, OwnerSeen::Stopped { detail }, told);
            }
            Phase::Nothing | Phase::Absent => self.becomes(Phase::Absent, OwnerSeen::Absent { detail }, told),
        }
    }

    fn seen(&mut self, unit: Unit, ours: bool, told: &mut Vec<OwnerSeen>) {
        let is_over = matches!(unit.active, Active::Inactive | Active::Failed);
        let job_done = std::mem::take(&mut self.job_done);
        if let Some(life) = unit
            .invocation
            .clone()
            .filter(|life| self.life.as_ref() != Some(life))
        {
            let incarnation = life.incarnation();
            let first = self.life.replace(life).is_none();
            (self.phase, self.asked) = (Phase::Nothing, false);
            self.jobs.clear();
            if is_over && !first {
                // A life that is over already: it must be known before its end is.
                self.becomes(Phase::Running, OwnerSeen::Running(incarnation), told);
            }
        } else if job_done && unit.active == Active::Failed {
            // A job was done upon what had failed, and gave it no new life: a stop.
            self.asked = true;
        }
        // Somebody else's, also beside an act of ours: what this node asks for is called `start` or `restart`.
        if unit.job.as_ref().is_some_and(|job| job.kind == "stop") {
            self.asked = true;
        }
        let ours = ours && !self.asked;
        let incarnation = self.life.as_ref().map(Invocation::incarnation);
        match (unit.active, incarnation) {
            (Active::Activating, Some(life)) if unit.restarts_by_itself() => {
                self.becomes(Phase::Restarting, OwnerSeen::Restarting(life), told);
            }
            (Active::Active | Active::Reloading | Active::Activating, Some(life)) => {
                self.becomes(Phase::Running, OwnerSeen::Running(life), told);
            }
            // On its way. Our own restart, or an end that is over in a moment and then says what it was.
            (Active::Deactivating, Some(life)) if ours => {
                self.becomes(Phase::Restarting, OwnerSeen::Restarting(life), told);
            }
            (Active::Deactivating, _) if self.asked => {
                let detail = "it is being stopped".to_owned();
                self.becomes(Phase::Stopping, OwnerSeen::Stopped { detail }, told);
            }
            (Active::Failed, Some(life)) => self.failed(&unit, life, ours, told),
            (Active::Inactive, Some(life)) if ours && self.phase != Phase::Over => {
                self.becomes(Phase::Restarting, OwnerSeen::Restarting(life), told);
            }
            (Active::Inactive, _) => {
                let why = match self.phase {
                    Phase::Running | Phase::Restarting | Phase::Stopping => {
                        "it was stopped, or has ended well (inactive)"
                    }
                    _ => "it is inactive: never started, stopped, or ended well",
                };
                self.stopped(why, told);
            }
            (Active::Deactivating | Active::Failed, _) | (_, None) => {}
        }
        self.unit = Some(unit);
    }

    /// The life that was there is over, by failure.
    fn failed(&mut self, unit: &Unit, life: Incarnation, ours: bool, told: &mut Vec<OwnerSeen>) {
        let how = unit.how_it_ended();
        match self.phase {
            Phase::Over if self.asked => {
                self.asked = false;
                self.phase = Phase::Running;
                self.stopped(&format!("it had failed ({how}), and was stopped since"), told);
            }
            Phase::Over => {}
            Phase::Nothing | Phase::Absent => {
                self.stopped(
                    &format!("it had failed ({how}) before this node looked: left alone until it is started"),
                    told,
                );
            }
            Phase::Running | Phase::Restarting if ours => {
                self.becomes(Phase::Restarting, OwnerSeen::Restarting(life), told);
            }
            Phase::Stopping => {
                self.asked = false;
                self.stopped(&format!("its end was asked for, and it ended with {how}"), told);
            }
            // systemd gave up on it, or our own remedy did not bring it back.
            Phase::Restarting if !self.asked => self.becomes(Phase::Over, OwnerSeen::Exited(life), told),
            Phase::Running | Phase::Restarting if self.asked || unit.was_asked_to_end() => {
                self.asked = false;
                self.stopped(&format!("its end was asked for, and it ended with {how}"), told);
            }
            Phase::Running | Phase::Restarting => self.becomes(Phase::Over, OwnerSeen::Exited(life), told),
        }
    }

    fn stopped(&mut self, detail: &str, told: &mut Vec<OwnerSeen>) {
        let detail = detail.to_owned();
        self.becomes(Phase::Over, OwnerSeen::Stopped { detail }, told);
    }

    /// Tells what it has become, unless that was told.
    fn becomes(&mut self, phase: Phase, seen: OwnerSeen, told: &mut Vec<OwnerSeen>) {
        if self.phase != phase || self.unseen.is_some() {
            told.push(seen);
        }
        self.phase = phase;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(life: u8, active: Active) -> Unit {
        let id = format!("unit:{}", format!("{life:02x}").repeat(16));
        Unit {
            name: "feed.service".to_owned(),
            invocation: Invocation::named(&Incarnation(id.into())),
            load: "loaded".to_owned(),
            active,
            // It was up, and its main process ended before it was so no longer: a crash.
            started: 10,
            entered: 11,
            main_ended: 20,
            left: 21,
            result: "signal".to_owned(),
            main_status: 9,
            ..Unit::default()
        }
    }

    fn life(life: u8) -> Incarnation {
        unit(life, Active::Active).invocation.unwrap().incarnation()
    }

    /// What is told of a unit that ran, once it is so.
    fn told(known: &mut Known, unit: Unit) -> Vec<OwnerSeen> {
        known.looked(Look::Seen(unit), false)
    }

    fn running() -> Known {
        let mut known = Known::default();
        assert_eq!(
            told(&mut known, unit(1, Active::Active)),
            [OwnerSeen::Running(life(1))]
        );
        known
    }

    fn is_on_purpose(told: &[OwnerSeen], word: &str) -> bool {
        matches!(told, [OwnerSeen::Stopped { detail }] if detail.contains(word))
    }

    #[test]
    fn only_a_failure_that_nobody_asked_for_is_an_exit() {
        let mut known = running();
        assert_eq!(
            told(&mut known, unit(1, Active::Failed)),
            [OwnerSeen::Exited(life(1))]
        );
        assert_eq!(told(&mut known, unit(1, Active::Failed)), [], "once");

        // It left before its process ended: it was stopped.
        let stopped = Unit {
            left: 19,
            ..unit(1, Active::Failed)
        };
        assert!(is_on_purpose(&told(&mut running(), stopped.clone()), "asked for"));
        let starved = Unit {
            result: "watchdog".to_owned(),
            ..stopped
        };
        assert_eq!(told(&mut running(), starved), [OwnerSeen::Exited(life(1))]);

        assert!(is_on_purpose(
            &told(&mut running(), unit(1, Active::Inactive)),
            "stopped"
        ));
        assert!(is_on_purpose(
            &told(&mut Known::default(), unit(1, Active::Failed)),
            "before this node looked"
        ));
    }

    fn stopping() -> Unit {
        Unit {
            job: Some(crate::systemd::Job {
                path: "/job/1".to_owned(),
                kind: "stop".to_owned(),
            }),
            ..unit(1, Active::Deactivating)
        }
    }

    #[test]
    fn a_stop_that_is_seen_under_way_is_one_however_it_ends() {
        let mut known = running();
        assert!(is_on_purpose(&told(&mut known, stopping()), "being stopped"));
        assert!(is_on_purpose(
            &told(&mut known, unit(1, Active::Failed)),
            "asked for"
        ));
        // Without such a job it is an end that has not said yet what it is.
        let mut known = running();
        assert_eq!(told(&mut known, unit(1, Active::Deactivating)), []);
        assert_eq!(
            told(&mut known, unit(1, Active::Failed)),
            [OwnerSeen::Exited(life(1))]
        );
    }

    #[test]
    fn a_stop_of_what_had_failed_is_told_from_a_start_that_failed() {
        let mut known = running();
        told(&mut known, unit(1, Active::Failed));
        known.job_began("/job/1".to_owned());
        known.job_ended("/job/1", &JobEnd::Done, false);
        assert!(is_on_purpose(
            &told(&mut known, unit(1, Active::Failed)),
            "stopped since"
        ));

        // One of ours says nothing, nor one that was not done.
        for (end, ours) in [(JobEnd::Done, true), (JobEnd::Failed, false)] {
            let mut known = running();
            told(&mut known, unit(1, Active::Failed));
            known.job_began("/job/1".to_owned());
            known.job_ended("/job/1", &end, ours);
            assert_eq!(told(&mut known, unit(1, Active::Failed)), []);
        }

        // A start whose life was over before anybody looked.
        let mut known = running();
        told(&mut known, unit(1, Active::Failed));
        known.job_began("/job/2".to_owned());
        assert_eq!(
            told(&mut known, unit(2, Active::Failed)),
            [OwnerSeen::Running(life(2)), OwnerSeen::Exited(life(2))]
        );
        known.job_ended("/job/2", &JobEnd::Done, false);
        assert_eq!(told(&mut known, unit(2, Active::Failed)), []);
    }

    #[test]
    fn systemd_restarts_and_gives_up() {
        let mut known = running();
        let waits = Unit {
            sub: "auto-restart".to_owned(),
            ..unit(1, Active::Activating)
        };
        assert_eq!(told(&mut known, waits), [OwnerSeen::Restarting(life(1))]);
        assert_eq!(
            told(&mut known, unit(2, Active::Activating)),
            [OwnerSeen::Running(life(2))]
        );
        let waits = Unit {
            sub: "auto-restart-queued".to_owned(),
            ..unit(2, Active::Activating)
        };
        told(&mut known, waits);
        assert_eq!(
            told(&mut known, unit(2, Active::Failed)),
            [OwnerSeen::Exited(life(2))]
        );
    }

    #[test]
    fn our_own_stop_is_no_operators() {
        let mut known = running();
        for active in [Active::Deactivating, Active::Inactive] {
            known.looked(Look::Seen(unit(1, active)), true);
            assert_eq!(known.phase, Phase::Restarting);
        }
        assert_eq!(
            told(&mut known, unit(2, Active::Active)),
            [OwnerSeen::Running(life(2))]
        );
        // It does not come back: then it has exited, and may be healed again.
        let mut known = running();
        let stopped = Unit {
            left: 19,
            ..unit(1, Active::Failed)
        };
        known.looked(Look::Seen(stopped.clone()), true);
        assert_eq!(told(&mut known, stopped), [OwnerSeen::Exited(life(1))]);
    }

    #[test]
    fn an_operators_stop_beside_an_act_of_ours_is_one() {
        for ours in [true, false] {
            let mut known = running();
            let told = known.looked(Look::Seen(stopping()), ours);
            assert!(is_on_purpose(&told, "being stopped"), "{told:?}");
            let told = known.looked(Look::Seen(unit(1, Active::Failed)), ours);
            assert!(is_on_purpose(&told, "asked for"), "{told:?}");
            // Once our act is forgotten, it is not found out that the unit has failed.
            assert_eq!(known.looked(Look::Seen(unit(1, Active::Failed)), false), []);
        }
    }

    #[test]
    fn what_cannot_be_seen_is_told_once_a_reason_and_then_what_is_there() {
        let mut known = running();
        let blind = |why: &str| Look::Unseen(why.to_owned());
        assert_eq!(known.looked(blind("no bus"), false).len(), 1);
        assert_eq!(known.looked(blind("no bus"), false), []);
        assert_eq!(known.looked(blind("it hangs"), false).len(), 1);
        assert_eq!(
            told(&mut known, unit(1, Active::Active)),
            [OwnerSeen::Running(life(1))]
        );
    }

    #[test]
    fn what_is_not_there_is_absent_and_what_is_gone_ended_well() {
        let wanted = UnitRef::new("feed", crate::systemd::Scope::System).unwrap();
        let missing = || {
            let unit = Unit {
                load: "not-found".to_owned(),
                ..Unit::default()
            };
            Look::of(unit, &wanted)
        };
        let mut known = Known::default();
        assert!(matches!(
            &known.looked(missing(), false)[..],
            [OwnerSeen::Absent { .. }]
        ));
        assert!(is_on_purpose(&running().looked(missing(), false), "ended well"));
        let nameless = Unit {
            invocation: None,
            ..unit(1, Active::Active)
        };
        assert!(matches!(Look::of(nameless, &wanted), Look::Unseen(_)));
    }
}
