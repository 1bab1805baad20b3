//! What is known of one service at one moment.

use std::time::Duration;

use super::wire::Value;
use crate::engine::event::Incarnation;

/// One life of a unit: systemd makes up 128 random bits at each start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Invocation(String);

/// `ActiveState`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Active {
    /// It is up.
    Active,
    /// It is up, and reads its configuration again.
    Reloading,
    /// It is being started, or waits for systemd to start it again.
    Activating,
    /// It is being stopped.
    Deactivating,
    /// It is not up, and that is no failure.
    #[default]
    Inactive,
    /// It is not up, and that is one.
    Failed,
}

/// A job that systemd has for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its object.
    pub path: String,
    /// `start`, `stop`, `restart`, …; empty if it was over before that could be asked.
    pub kind: String,
}

/// A service, as systemd described it. Times are microseconds of systemd's monotonic clock, 0 for never.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// Its whole name, an alias resolved.
    pub name: String,
    /// Which life; `None` if it was never started since the machine's boot.
    pub invocation: Option<Invocation>,
    /// `loaded`, `not-found`, `masked`, `bad-setting`, …
    pub load: String,
    /// Up or not.
    pub active: Active,
    /// The same in the words of services: `running`, `exited`, `auto-restart`, `stop-sigterm`, …
    pub sub: String,
    /// `success`, or why it failed: `exit-code`, `signal`, `watchdog`, `oom-kill`, `start-limit-hit`, …
    pub result: String,
    /// Its main process, in systemd's pid namespace.
    pub main_pid: Option<u32>,
    /// Its cgroup, as systemd sees it; empty while it has none.
    pub control_group: String,
    /// What is being done to it.
    pub job: Option<Job>,
    /// When its state changed last.
    pub changed: u64,
    /// When it was last up …
    pub entered: u64,
    /// … and when it was so no longer.
    pub left: u64,
    /// When its last start began.
    pub started: u64,
    /// When its main process ended last.
    pub main_ended: u64,
    /// The exit status or the signal of that end.
    pub main_status: u64,
    /// How long a start may take; `None`: for ever.
    pub start_timeout: Option<Duration>,
    /// How long a stop may take; `None`: for ever.
    pub stop_timeout: Option<Duration>,
    /// What it says of itself (`STATUS=` of the notify protocol).
    pub status: String,
}

/// Asked for first and last: what lies between is of one moment only if these are the same.
pub(super) const STAMP: [(Of, &str); 4] = [
    (Of::Unit, "StateChangeTimestampMonotonic"),
    (Of::Unit, "InvocationID"),
    (Of::Unit, "Job"),
    (Of::Service, "MainPID"),
];

/// Asked for in between, in the order in which [`Unit::of`] takes them.
pub(super) const REST: [(Of, &str); 14] = [
    (Of::Unit, "LoadState"),
    (Of::Unit, "ActiveState"),
    (Of::Unit, "SubState"),
    (Of::Unit, "ActiveEnterTimestampMonotonic"),
    (Of::Unit, "ActiveExitTimestampMonotonic"),
    (Of::Unit, "InactiveExitTimestampMonotonic"),
    (Of::Service, "Result"),
    (Of::Service, "ControlGroup"),
    (Of::Service, "ExecMainExitTimestampMonotonic"),
    (Of::Service, "ExecMainStatus"),
    (Of::Service, "TimeoutStartUSec"),
    (Of::Service, "TimeoutStopUSec"),
    (Of::Service, "StatusText"),
    (Of::Unit, "Id"),
];

/// Which interface has a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Unit,
    Service,
}

/// The values of [`STAMP`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    changed: u64,
    invocation: Option<Invocation>,
    pub(super) job: Option<String>,
    main_pid: Option<u32>,
}

impl Stamp {
    /// # Errors
    /// What the answer lacks.
    pub(super) fn of(values: &[Option<Value>]) -> Result<Self, String> {
        let [Some(Value::Number(changed)), invocation, job, pid] = values else {
            return Err(format!("a unit without {}", STAMP[0].1));
        };
        Ok(Self {
            changed: *changed,
            invocation: match invocation {
                Some(Value::Bytes(bytes)) => Invocation::of(bytes),
                _ => None,
            },
            job: match job {
                Some(Value::Job(id, path)) if *id != 0 => Some(path.clone()),
                _ => None,
            },
            main_pid: match pid {
                Some(Value::Number(pid)) => u32::try_from(*pid).ok().filter(|pid| *pid != 0),
                _ => None,
            },
        })
    }

    /// True if nothing has changed since.
    pub(super) fn is_of(&self, unit: &Unit) -> bool {
        self.changed == unit.changed
            && self.invocation == unit.invocation
            && self.main_pid == unit.main_pid
            && self.job.as_ref() == unit.job.as_ref().map(|job| &job.path)
    }
}

impl Unit {
    /// The values of [`REST`], in that order.
    ///
    /// # Errors
    /// What the answer lacks.
    pub(super) fn of(stamp: Stamp, job: Option<Job>, values: &[Option<Value>]) -> Result<Self, String> {
        let text = |place: usize| match values.get(place) {
            Some(Some(Value::Text(text))) => text.clone(),
            _ => String::new(),
        };
        let number = |place: usize| match values.get(place) {
            Some(Some(Value::Number(number))) => *number,
            _ => 0,
        };
        let timeout = |place| match number(place) {
            0 | u64::MAX => None,
            micros => Some(Duration::from_micros(micros)),
        };
        let active = text(1);
        Ok(Self {
            name: text(13),
            invocation: stamp.invocation,
            load: text(0),
            active: Active::of(&active).ok_or_else(|| format!("a unit whose ActiveState is {active:?}"))?,
            sub: text(2),
            result: text(6),
            main_pid: stamp.main_pid,
            control_group: text(7),
            job,
            changed: stamp.changed,
            entered: number(3),
            left: number(4),
            started: number(5),
            main_ended: number(8),
            main_status: number(9),
            start_timeout: timeout(10),
            stop_timeout: timeout(11),
            status: super::shown(&text(12)),
        })
    }

    /// It waits for systemd to start it again.
    pub fn restarts_by_itself(&self) -> bool {
        self.active == Active::Activating && self.sub.starts_with("auto-restart")
    }

    /// It is up: it may be acted upon as something that runs.
    pub const fn is_up(&self) -> bool {
        matches!(self.active, Active::Active | Active::Reloading)
    }

    /// Of a unit that failed: somebody asked for its end, and only how it ended was a failure (a Java program ends
    /// with 143 when it is stopped, and one that does not end in time is killed).
    ///
    /// systemd writes down when a unit left `active` and when its main process ended. Who crashes ends first, who is
    /// stopped leaves first. A watchdog and the kernel's want of memory are told by their names; an end by
    /// `RuntimeMaxSec=` looks like a stop that took too long, and is taken for one.
    pub fn was_asked_to_end(&self) -> bool {
        let by_fault = ["watchdog", "oom-kill", "resources", "protocol", "start-limit-hit"];
        let was_up = self.entered >= self.started && self.entered > 0;
        // Of one that stays up after its main process ended well (`RemainAfterExit=`) nothing is left to crash.
        let stayed =
            self.main_ended >= self.started && self.main_ended > 0 && self.main_ended <= self.entered;
        let left_first = self.left < self.main_ended;
        was_up && (left_first || stayed) && !by_fault.contains(&self.result.as_str())
    }

    /// How it ended, in words.
    pub fn how_it_ended(&self) -> String {
        match self.result.as_str() {
            "exit-code" => format!("exit-code, status {}", self.main_status),
            "signal" | "core-dump" => format!("{}, signal {}", self.result, self.main_status),
            "" => "no reason given".to_owned(),
            other => other.to_owned(),
        }
    }
}

impl Active {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "active" | "maintenance" => Self::Active,
            "reloading" | "refreshing" => Self::Reloading,
            "activating" => Self::Activating,
            "deactivating" => Self::Deactivating,
            "inactive" => Self::Inactive,
            "failed" => Self::Failed,
            _ => return None,
        })
    }
}

impl Invocation {
    fn of(bytes: &[u8]) -> Option<Self> {
        use std::fmt::Write as _;
        if bytes.len() != 16 || bytes.iter().all(|byte| *byte == 0) {
            return None;
        }
        let mut text = String::with_capacity(32);
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        Some(Self(text))
    }

    /// As the engine knows it.
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(format!("unit:{}", self.0).into())
    }

    /// The life that the engine knows so, if it is one of a unit.
    pub fn named(incarnation: &Incarnation) -> Option<Self> {
        let id = incarnation.0.strip_prefix("unit:")?;
        let is_one = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_one.then(|| Self(id.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_left_before_its_process_ended_was_asked_to() {
        let crashed = Unit {
            result: "exit-code".to_owned(),
            started: 10,
            entered: 11,
            main_ended: 20,
            left: 21,
            ..Unit::default()
        };
        assert!(!crashed.was_asked_to_end());
        let stopped = Unit {
            left: 19,
            ..crashed.clone()
        };
        assert!(stopped.was_asked_to_end());
        let stopped_after_its_work = Unit {
            main_ended: 11,
            ..crashed.clone()
        };
        assert!(stopped_after_its_work.was_asked_to_end());
        let without_a_main_process = Unit {
            main_ended: 0,
            ..crashed.clone()
        };
        assert!(!without_a_main_process.was_asked_to_end());
        let killed_by_its_watchdog = Unit {
            result: "watchdog".to_owned(),
            ..stopped.clone()
        };
        assert!(!killed_by_its_watchdog.was_asked_to_end());
        // The times of the life before stand there until this one was up.
        let failed_to_start = Unit {
            started: 30,
            main_ended: 31,
            ..crashed
        };
        assert!(!failed_to_start.was_asked_to_end());
    }

    #[test]
    fn a_life_is_named_and_found_again() {
        let life = Invocation::of(&[0xab; 16]).unwrap();
        assert_eq!(Invocation::named(&life.incarnation()), Some(life));
        for none in [&[][..], &[0; 16], &[1; 15]] {
            assert_eq!(Invocation::of(none), None);
        }
        for other in ["ctr:abc:1", "unit:", "unit:xyz"] {
            assert_eq!(Invocation::named(&Incarnation(other.into())), None);
        }
    }
}
