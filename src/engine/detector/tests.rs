//! What a detector has learned, bounds and all, for whole histories of arrivals.

use std::time::Duration;

use super::super::settings::{ChenSettings, DetectorSettings, PhiSettings};
use super::super::time::Time;
use super::{Detector, Sent};

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

/// `beats` on time, 40 ms on the way, from slot `from` on.
fn regular(detector: &mut Detector, from: u64, beats: u64) {
    for beat in from..from + beats {
        detector.arrived(
            at(beat * 1_000 + 40),
            Some(slot(beat, S, Duration::ZERO)),
            beat > from,
        );
    }
}

fn bounds(detector: &Detector) -> (u128, u128) {
    (
        detector.suspect_after().as_millis(),
        detector.dead_after().as_millis(),
    )
}

#[test]
fn a_deadline_learns_nothing() {
    let mut detector = Detector::new(DetectorSettings::default());
    regular(&mut detector, 0, 500);
    assert_eq!(bounds(&detector), (2_000, 5_000));
    assert_eq!(detector.samples(), None);
}

#[test]
fn no_sample_is_not_dead_and_one_is_hardly_more() {
    for settings in [phi(), chen()] {
        let mut detector = Detector::new(settings);
        assert_eq!(bounds(&detector), (10_000, 30_000), "the ceilings, {settings:?}");
        regular(&mut detector, 0, 1);
        let (suspect, dead) = bounds(&detector);
        assert!((9_500..10_000).contains(&suspect), "{suspect} ms, {settings:?}");
        assert!((29_000..30_000).contains(&dead), "{dead} ms, {settings:?}");
    }
}

#[test]
fn regular_heartbeats_bring_the_bounds_down_to_what_they_are_worth() {
    let mut learned = Detector::new(phi());
    regular(&mut learned, 0, 30);
    // One interval, an acceptable pause of another, and 5.612 deviations of at least 100 ms; 8.222 of them for death,
    // which is less than five intervals.
    assert_eq!(bounds(&learned), (2_561, 5_000));
    let mut learned = Detector::new(chen());
    regular(&mut learned, 0, 30);
    assert_eq!(bounds(&learned), (2_500, 5_000));
}

#[test]
fn each_sample_takes_the_place_of_a_prior_one() {
    for settings in [phi(), chen()] {
        let mut detector = Detector::new(settings);
        let mut before = bounds(&detector);
        for beat in 0..30 {
            regular(&mut detector, beat, 1);
            detector.arrived(at(beat * 1_000 + 40), Some(slot(beat, S, Duration::ZERO)), true);
            let now = bounds(&detector);
            assert!(
                now.0 <= before.0 && now.1 <= before.1,
                "{before:?} to {now:?} at {beat}"
            );
            before = now;
        }
    }
}

#[test]
fn skipped_slots_and_lost_messages_shift_nothing() {
    for settings in [phi(), chen()] {
        let (mut all, mut some) = (Detector::new(settings), Detector::new(settings));
        for beat in 0..400 {
            let jitter = beat * 7_919 % 60;
            let (came, sent) = (at(beat * 1_000 + jitter), Some(slot(beat, S, Duration::ZERO)));
            all.arrived(came, sent, beat > 0);
            if beat % 5 != 3 {
                some.arrived(came, sent, beat > 0);
            }
        }
        let apart = all.suspect_after().abs_diff(some.suspect_after());
        assert!(apart < 5 * MS, "{apart:?} apart, {settings:?}");
        assert_eq!(all.samples(), some.samples());
    }
}

#[test]
fn a_paused_sender_shifts_nothing() {
    for settings in [phi(), chen()] {
        let mut detector = Detector::new(settings);
        regular(&mut detector, 0, 100);
        let before = (bounds(&detector), detector.samples());
        // It slept for 3.7 s, says so, and is back on its schedule with the next slot.
        detector.arrived(at(103_740), Some(slot(103, S, 3_700 * MS)), true);
        regular(&mut detector, 104, 1);
        assert_eq!((bounds(&detector), detector.samples()), before, "{settings:?}");
    }
}

#[test]
fn the_gap_of_an_outage_is_no_sample() {
    for sent in [true, false] {
        for settings in [phi(), chen()] {
            let mut detector = Detector::new(settings);
            let mut hear = |beat: u64, unbroken: bool| {
                let sent = Some(slot(beat, S, Duration::ZERO)).filter(|_| sent);
                detector.arrived(at(beat * 1_000), sent, unbroken);
                (bounds(&detector), detector.samples())
            };
            for beat in 0..100 {
                hear(beat, beat > 0);
            }
            let before = hear(100, true);
            hear(500, false);
            let (after, samples) = hear(501, true);
            assert_eq!(after, before.0, "{settings:?}, slots: {sent}");
            assert_eq!(samples, before.1.map(|samples| samples + 1));
        }
    }
}

#[test]
fn a_burst_is_no_measure_of_the_way() {
    let mut detector = Detector::new(phi());
    regular(&mut detector, 0, 200);
    // The server was stopped for 1.9 s: two came at once. (Later ones are not fresh, and never come here.)
    detector.arrived(at(201_900), Some(slot(200, S, Duration::ZERO)), true);
    detector.arrived(at(201_901), Some(slot(201, S, Duration::ZERO)), true);
    let most = detector.suspect_after();
    regular(&mut detector, 202, 1);
    assert!(
        most <= 3 * S && detector.suspect_after() <= 2_800 * MS,
        "{most:?}"
    );
}

#[test]
fn a_machine_that_slept_is_another_schedule_and_learned_anew() {
    let mut detector = Detector::new(chen());
    regular(&mut detector, 0, 200);
    detector.arrived(at(700_000), Some(slot(200, S, Duration::ZERO)), true);
    assert_eq!(detector.samples(), Some(1));
    assert!(detector.suspect_after() > 9 * S);
}

#[test]
fn a_slower_schedule_is_followed_and_never_suspected_for_it() {
    for settings in [phi(), chen()] {
        let mut detector = Detector::new(settings);
        let fast = 100 * MS;
        for beat in 0..300 {
            detector.arrived(at(beat * 100), Some(slot(beat, fast, Duration::ZERO)), beat > 0);
        }
        assert!(
            detector.suspect_after() >= 2 * S,
            "never below twice our own interval"
        );
        for beat in 1..100u64 {
            detector.arrived(
                at(30_000 + beat * 1_000),
                Some(slot(30 + beat, S, Duration::ZERO)),
                true,
            );
            assert!(detector.suspect_after() >= 2 * S, "{settings:?}");
        }
        // The same without slots.
        let mut detector = Detector::new(settings);
        let mut now = 0;
        for beat in 0..600u64 {
            now += if beat < 300 { 100 } else { 1_000 };
            assert!(detector.suspect_after() >= 2 * S, "{settings:?} at {beat}");
            detector.arrived(at(now), None, beat > 0);
        }
        assert!(detector.suspect_after() < 3 * S);
    }
}

#[test]
fn a_new_life_is_learned_anew() {
    for settings in [phi(), chen()] {
        let mut detector = Detector::new(settings);
        regular(&mut detector, 0, 100);
        detector.new_life();
        assert_eq!(bounds(&detector), (10_000, 30_000));
        assert_eq!(detector.samples(), Some(0));
    }
}

#[test]
fn a_check_without_a_box_is_no_larger_than_a_deadline() {
    assert!(size_of::<Detector>() <= 40, "{}", size_of::<Detector>());
    // With its window of 200: what ARCHITECTURE.md says of memory.
    assert!(
        size_of::<super::adaptive::Adaptive>() <= 320,
        "{}",
        size_of::<super::adaptive::Adaptive>()
    );
}
