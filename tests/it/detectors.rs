//! What holds of a detector that learns, whatever it hears.

use std::time::Duration;

use defib::engine::detector::{Detector, Sent};
use defib::engine::settings::{ChenSettings, DetectorSettings, PhiSettings};
use defib::engine::time::Time;
use proptest::prelude::*;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn phi() -> DetectorSettings {
    DetectorSettings::Phi(PhiSettings::at(S))
}

fn chen() -> DetectorSettings {
    DetectorSettings::Chen(ChenSettings::at(S))
}

fn at(millis: u64) -> Time {
    Time::from_origin(Duration::from_millis(millis))
}

fn slot(slot: u64, interval: Duration, late: Duration) -> Sent {
    Sent { slot, interval, late }
}

/// Anything that a hostile or broken sender can say, at any time.
fn history() -> impl Strategy<Value = Vec<(u64, Option<Sent>, bool)>> {
    let sent = prop::option::weighted(
        0.8,
        (
            prop_oneof![0u64..50, any::<u64>()],
            prop_oneof![Just(1_000u64), Just(100), 0..=3_600_000u64],
            prop_oneof![Just(0u64), 0..5_000u64, any::<u64>()],
        )
            .prop_map(|(slot, interval, late)| Sent {
                slot,
                interval: Duration::from_millis(interval),
                late: Duration::from_millis(late),
            }),
    );
    let gap = prop_oneof![0u64..3_000_000_000, Just(0), any::<u64>()];
    prop::collection::vec((gap, sent, any::<bool>()), 0..120)
}

fn any_settings() -> impl Strategy<Value = DetectorSettings> {
    let extreme = prop_oneof![
        0.0f64..20.0,
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(-1.0),
        Just(1e300)
    ];
    (any::<bool>(), extreme.clone(), extreme, 1u16..300, 0u64..10_000).prop_map(
        |(is_phi, suspect, dead, window, millis)| {
            let length = Duration::from_millis(millis);
            if is_phi {
                let mut settings = PhiSettings::at(S);
                (settings.suspect, settings.dead) = (suspect, dead);
                (settings.pause, settings.min_deviation) = (length, length / 7);
                settings.bounds.window = window;
                DetectorSettings::Phi(settings)
            } else {
                let mut settings = ChenSettings::at(S);
                (settings.margin, settings.dead_margin) = (length, length * 2);
                settings.bounds.window = window;
                DetectorSettings::Chen(settings)
            }
        },
    )
}

proptest! {
    #[test]
    fn bounds_hold_whatever_is_heard(settings in any_settings(), history in history()) {
        let mut detector = Detector::new(settings);
        let mut now = Time::ZERO;
        for (gap, sent, unbroken) in history {
            now = now + Duration::from_nanos(gap);
            detector.arrived(now, sent, unbroken);
            let (suspect, dead) = (detector.suspect_after(), detector.dead_after());
            prop_assert!((2 * S..=10 * S).contains(&suspect), "suspect after {suspect:?}");
            prop_assert!((5 * S..=30 * S).contains(&dead), "dead after {dead:?}");
            prop_assert!(suspect <= dead);
        }
    }

    #[test]
    fn the_order_in_which_samples_came_does_not_matter(
        offs in prop::collection::vec(0u64..300, 1..60), turn in 0usize..60
    ) {
        // The last one is the same: what is expected next is counted from it.
        let hear = |settings, offs: &[u64]| {
            let mut detector = Detector::new(settings);
            detector.arrived(at(0), Some(slot(0, S, Duration::ZERO)), false);
            for (beat, off) in (1u64..).zip(offs) {
                detector.arrived(at(beat * 1_000 + off), Some(slot(beat, S, Duration::ZERO)), true);
            }
            let last = offs.len() as u64 + 1;
            detector.arrived(at(last * 1_000), Some(slot(last, S, Duration::ZERO)), true);
            (detector.suspect_after(), detector.dead_after())
        };
        let mut turned = offs.clone();
        turned.rotate_left(turn % offs.len());
        for settings in [phi(), chen()] {
            prop_assert_eq!(hear(settings, &offs), hear(settings, &turned));
        }
    }

    #[test]
    fn more_jitter_is_never_less_patience(spread in 1u64..200) {
        let hear = |spread: u64| {
            let mut detector = Detector::new(phi());
            for beat in 0..200u64 {
                let off = 400 + if beat % 2 == 0 { spread } else { 0 } - spread / 2;
                detector.arrived(at(beat * 1_000 + off), Some(slot(beat, S, Duration::ZERO)), beat > 0);
            }
            detector.arrived(at(200_400), Some(slot(200, S, Duration::ZERO)), true);
            detector.suspect_after() + MS
        };
        prop_assert!(hear(spread) + MS >= hear(spread - 1));
    }
}
