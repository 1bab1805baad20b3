//! Tells the engine, which knows no calendar, when a maintenance window opens, and when it closes.
//!
//! It looks at the wall clock at each beginning and end, and every few seconds: a clock that is set shifts a window, and
//! does nothing else.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::calendar::Window;
use crate::engine::event::{Event, Opened};
use crate::engine::time::{Clock, Time};

/// The clock may have been set: it is looked at this often.
const LOOK: Duration = Duration::from_secs(5);
/// An end that moved by less is the same.
const SAME: Duration = Duration::from_secs(1);

/// The windows of a configuration.
#[derive(Clone)]
pub struct Calendar {
    windows: Arc<[Window]>,
    clock: Arc<dyn Clock>,
    /// What was told last of each: its end, while it is open.
    told: Vec<Option<Time>>,
}

impl Calendar {
    /// Nothing is told yet.
    pub fn new(windows: Arc<[Window]>, clock: Arc<dyn Clock>) -> Self {
        Self {
            told: vec![None; windows.len()],
            windows,
            clock,
        }
    }

    /// What has changed since it was asked last. Windows that open come first: between one that ends and one that begins
    /// at that moment nothing may be done.
    pub fn changes(&mut self) -> Vec<Event> {
        let (wall, now) = (self.clock.wall(), self.clock.now());
        let (mut opened, mut closed) = (Vec::new(), Vec::new());
        for ((number, window), told) in (0u16..).zip(self.windows.iter()).zip(&mut self.told) {
            let left = window.open_for(wall);
            let end = left.map(|left| now + left);
            let same = match (end, *told) {
                (Some(end), Some(told)) => end.since(told) < SAME && told.since(end) < SAME,
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if same {
                continue;
            }
            *told = end;
            let open = left.map(|lasting| Opened {
                reason: Arc::clone(&window.reason),
                peers: Arc::clone(&window.peers),
                lasting,
            });
            let of = if open.is_some() { &mut opened } else { &mut closed };
            of.push(Event::Maintenance { window: number, open });
        }
        opened.append(&mut closed);
        opened
    }

    fn next_look(&self) -> Duration {
        let wall = self.clock.wall();
        let changes = self.windows.iter().filter_map(|window| window.changes_in(wall));
        changes.min().unwrap_or(LOOK).min(LOOK)
    }

    /// Tells the engine until cancelled.
    pub async fn run(mut self, events: mpsc::Sender<Event>, cancel: CancellationToken) -> anyhow::Result<()> {
        loop {
            for event in self.changes() {
                events.send(event).await?;
            }
            // (A moment later: by then it has changed.)
            let look = self.next_look() + Duration::from_millis(1);
            if cancel
                .run_until_cancelled(tokio::time::sleep(look))
                .await
                .is_none()
            {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::calendar::{TimeOfDay, Weekday, When, Zone};

    /// Seconds of the monotonic clock, and of the wall clock.
    #[derive(Default)]
    struct Hands(AtomicU64, AtomicU64);

    impl Hands {
        fn set(&self, now: u64, wall: u64) {
            self.0.store(now, Ordering::SeqCst);
            self.1.store(wall, Ordering::SeqCst);
        }
    }

    impl Clock for Hands {
        fn now(&self) -> Time {
            Time::from_origin(Duration::from_secs(self.0.load(Ordering::SeqCst)))
        }

        fn wall(&self) -> Duration {
            Duration::from_secs(self.1.load(Ordering::SeqCst))
        }
    }

    fn nightly(from: &str, to: &str) -> Window {
        Window {
            reason: "backup".into(),
            peers: Arc::default(),
            when: When::Weekly {
                days: Weekday::ALL.into_iter().collect::<BTreeSet<_>>(),
                from: TimeOfDay::parse(from).unwrap(),
                to: TimeOfDay::parse(to).unwrap(),
                zone: Zone::default(),
            },
        }
    }

    fn said(events: &[Event]) -> Vec<(u16, Option<u64>)> {
        let each = events.iter().map(|event| match event {
            Event::Maintenance { window, open } => {
                (*window, open.as_ref().map(|open| open.lasting.as_secs()))
            }
            other => panic!("{other:?}"),
        });
        each.collect()
    }

    #[test]
    fn a_window_is_told_once_and_again_only_if_its_end_moves() {
        let clock = Arc::new(Hands::default());
        let mut calendar = Calendar::new(
            [nightly("02:00", "03:00")].into(),
            Arc::clone(&clock) as Arc<dyn Clock>,
        );
        clock.set(10, 7190);
        assert_eq!(said(&calendar.changes()), []);
        assert_eq!(calendar.next_look(), Duration::from_secs(5));
        clock.set(17, 7197);
        assert_eq!(calendar.next_look(), Duration::from_secs(3));
        clock.set(20, 7200);
        assert_eq!(said(&calendar.changes()), [(0, Some(3600))]);
        clock.set(30, 7210);
        assert_eq!(said(&calendar.changes()), []);
        // The wall clock is set back by half an hour: the window closes, and opens again.
        clock.set(40, 7220 - 1800);
        assert_eq!(said(&calendar.changes()), [(0, None)]);
        clock.set(1840, 7220);
        assert_eq!(said(&calendar.changes()), [(0, Some(3580))]);
        // Set forward within it: it ends earlier.
        clock.set(1850, 7830);
        assert_eq!(said(&calendar.changes()), [(0, Some(2970))]);
        // And past it.
        clock.set(1860, 20_000);
        assert_eq!(said(&calendar.changes()), [(0, None)]);
    }

    #[test]
    fn of_two_that_touch_the_later_one_opens_before_the_earlier_one_closes() {
        let clock = Arc::new(Hands::default());
        let windows = [nightly("02:00", "03:00"), nightly("03:00", "04:00")];
        let mut calendar = Calendar::new(windows.into(), Arc::clone(&clock) as Arc<dyn Clock>);
        clock.set(10, 10_799);
        assert_eq!(said(&calendar.changes()), [(0, Some(1))]);
        clock.set(11, 10_800);
        assert_eq!(said(&calendar.changes()), [(1, Some(3600)), (0, None)]);
    }
}
