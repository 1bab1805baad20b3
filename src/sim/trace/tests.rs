//! Detectors against lives whose figures can be worked out by hand.

use std::time::Duration;

use super::replay::Arrival;
use super::{Beat, Candidate, Curve, Figures, Life, Line, Reception, as_shipped, plot, read, replay, table};
use crate::engine::detector::Sent;
use crate::engine::time::Time;

const MS: Duration = Duration::from_millis(1);

/// Heartbeats that arrive at these milliseconds, one a second by their sender's schedule.
fn life(arrivals: &[(u64, u64)]) -> Life {
    let beats = arrivals.iter().map(|(slot, millis)| Beat {
        number: *slot,
        sent: Time::from_origin(Duration::from_millis(*millis)),
        arrived: Some(Time::from_origin(Duration::from_millis(*millis))),
        schedule: Some(Sent {
            slot: *slot,
            interval: 1_000 * MS,
            late: Duration::ZERO,
        }),
        unbroken: true,
    });
    Life {
        name: "them".to_owned(),
        interval: 1_000 * MS,
        beats: beats.collect(),
        emitted: false,
    }
}

fn shipped(name: &str) -> Candidate {
    let found = as_shipped().into_iter().find(|candidate| candidate.name == name);
    found.unwrap_or_else(|| panic!("no {name}"))
}

fn of(name: &str, life: &Life) -> Figures {
    replay(&shipped(name), std::slice::from_ref(life), 0)
}

#[test]
fn figures_are_those_of_chen_toueg_and_aguilera() {
    // A second apart; then 4.5 s of nothing, and on.
    let gap = life(&[(0, 0), (1, 1_000), (2, 2_000), (3, 6_500), (4, 7_000), (5, 8_000)]);
    let figures = of("fixed 2 s", &gap);
    assert_eq!(figures.mistakes, 1);
    assert_eq!(figures.mistake(), Some(2_500 * MS), "from 4 s to 6.5 s");
    assert_eq!(figures.watched, 8_000 * MS);
    assert!((figures.accuracy() - (1.0 - 2.5 / 8.0)).abs() < 1e-12);
    assert!((figures.mistakes_an_hour() - 450.0).abs() < 1e-9);
    assert_eq!(figures.crashes(), 6);
    assert_eq!(figures.detection_mean(), 2_000 * MS);
    assert_eq!(figures.detection(1.0), 2_000 * MS);
    let figures = of("fixed 5 s", &gap);
    assert_eq!((figures.mistakes, figures.mistake()), (0, None));
    assert!((figures.accuracy() - 1.0).abs() < 1e-12);
}

#[test]
fn what_was_not_listened_to_is_neither_watched_nor_a_mistake() {
    let mut broken = life(&[(0, 0), (1, 1_000), (61, 61_000), (62, 62_000)]);
    broken.beats[2].unbroken = false;
    for name in ["fixed 2 s", "ours: phi, suspect", "ours: chen, suspect"] {
        let figures = of(name, &broken);
        assert_eq!((figures.mistakes, figures.watched), (0, 2_000 * MS), "{name}");
    }
}

#[test]
fn a_detector_that_expects_too_much_is_wrong_from_the_arrival_on() {
    // NFD-E counts numbers: the sender skipped nine of its slots without skipping a number, and is held to be late for
    // as long as the window remembers how it was.
    let mut arrivals: Vec<(u64, u64)> = (0..50).map(|slot| (slot, slot * 1_000)).collect();
    arrivals.extend((50..60).map(|number| (number, (number + 9) * 1_000)));
    let mut skipping = life(&arrivals);
    for beat in skipping.beats.iter_mut().skip(50) {
        beat.schedule = beat.schedule.map(|sent| Sent {
            slot: sent.slot + 9,
            ..sent
        });
    }
    let chen = of("Chen NFD-E, margin 1 interval", &skipping);
    assert_eq!(chen.mistakes, 1, "one, which never ends");
    assert!(chen.mistaken >= 17_000 * MS, "{:?}", chen.mistaken);
    // Ours goes by the slot: late once, and done with it.
    let ours = of("ours: chen, suspect", &skipping);
    assert_eq!(ours.mistakes, 1);
    assert!(ours.mistaken <= 8_000 * MS, "{:?}", ours.mistaken);
}

#[test]
fn cassandra_and_akka_are_as_their_sources_have_them() {
    let regular: Vec<(u64, u64)> = (0..1_500).map(|slot| (slot, slot * 1_000)).collect();
    let regular = life(&regular);
    let after_all = |name: &str| {
        let mut detector = shipped(name).begin(regular.interval);
        let mut until = Time::ZERO;
        for beat in &regular.beats {
            until = detector.until(arrival(beat));
        }
        until.since(Time::from_origin(1_499_000 * MS))
    };
    // phi = t / mean · log10(e) >= 8, and the first sample (two intervals) has been forgotten.
    let cassandra = after_all("phi as Cassandra has it").as_secs_f64();
    assert!(
        (cassandra - 8.0 * std::f64::consts::LN_10).abs() < 1e-6,
        "{cassandra}"
    );
    // y (1.5976 + 0.070566 y²) = ln(10^8 - 1) at y = 5.22599; 1 s + 3 s + 5.22599 · 100 ms, in whole milliseconds.
    assert_eq!(after_all("phi as Akka has it (3 s pause)"), 4_523 * MS);
}

fn arrival(beat: &Beat) -> Arrival {
    Arrival {
        at: beat.sent,
        number: beat.number,
        skipped: 0,
        schedule: beat.schedule,
        unbroken: true,
    }
}

#[test]
fn bertier_follows_the_lateness_and_its_scatter() {
    let regular: Vec<(u64, u64)> = (0..200).map(|slot| (slot, slot * 1_000)).collect();
    let jittery: Vec<(u64, u64)> = (0..200)
        .map(|slot| (slot, slot * 1_000 + slot % 2 * 200))
        .collect();
    let (regular, jittery) = (of("Bertier", &life(&regular)), of("Bertier", &life(&jittery)));
    assert_eq!(regular.mistakes, 0);
    assert!(
        regular.detection(1.0) <= 1_001 * MS,
        "{:?}",
        regular.detection(1.0)
    );
    assert!(
        jittery.detection_mean() > 1_300 * MS,
        "{:?}",
        jittery.detection_mean()
    );
}

#[test]
fn a_line_is_read_as_it_is_written_whatever_its_sender_is_called() {
    let names = ["node-a", "", "-", "a b\tc\nd", "\u{1b}[31m", &"é".repeat(500)];
    let mut file = Line::HEAD.to_owned();
    for (place, name) in names.into_iter().enumerate() {
        for beat in 0..3 {
            let line = Line {
                arrival: Time::from_nanos(u64::MAX / 2 + beat),
                sender: name,
                boot: (place > 1).then_some(name),
                slot: (place > 2).then_some(u64::MAX),
                late_ms: None,
                interval_ms: (place > 3).then_some(u64::MAX),
                wall_ts: Some([0.5, f64::NAN, f64::INFINITY, -1e300][place % 4]),
            };
            let text = format!("{line}\n");
            assert!(text.len() as u64 <= Line::LONGEST, "{text}");
            file.push_str(&text);
        }
    }
    // In the middle of a line: it was cut off.
    file.push_str("17\tnode-a\t-");
    let lives = read(file.as_bytes(), "t").unwrap_or_else(|error| panic!("{error}\n{file}"));
    let senders: Vec<&str> = lives.iter().map(|life| life.name.as_str()).collect();
    assert_eq!(senders.len(), 6, "{senders:?}");
    assert!(lives.iter().all(|life| life.beats.len() == 3), "{lives:?}");
}

#[test]
fn what_is_no_trace_is_told_with_its_line() {
    let head = Line::HEAD;
    for (text, expected) in [
        (String::new(), "line 1: neither"),
        ("\u{7f}ELF".to_owned(), "line 1: neither"),
        (head.to_owned(), "fewer than three"),
        (format!("{head}1\ta\t-\t-\t-\t-\t-\n1\ta\n"), "line 4: 2 fields"),
        (format!("{head}x\ta\t-\t-\t-\t-\t-\n"), "line 3: `arrival_ns`"),
        (format!("{head}1\ta\t-\t-1\t-\t-\t-\n"), "line 3: `slot`"),
        (
            format!("{head}2\ta\t-\t-\t-\t-\t-\n1\ta\t-\t-\t-\t-\t-\n"),
            "line 4: arrived before",
        ),
        (
            format!("{head}{}\n", "x".repeat(5_000)),
            "line 3: more than 4096 bytes",
        ),
        (
            "numseq,timestamp_start_send,timestamp_end_send\n0,1,1\n1,5\n".to_owned(),
            "line 3: not three numbers",
        ),
        (
            "numseq,timestamp_start_send,timestamp_end_send\n0,5,5\n1,4,4\n".to_owned(),
            "line 3: sent before",
        ),
    ] {
        let error = read(text.as_bytes(), "t").unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} for {text:?}");
    }
    let error = read(
        &b"numseq,timestamp_start_send,timestamp_end_send\n\xff\n"[..],
        "t",
    )
    .unwrap_err();
    assert_eq!(error.to_string(), "line 2: not UTF-8");
}

#[test]
fn emissions_get_the_slots_that_our_sender_would_have_told() {
    // It slept from 300 ms on and came back at 1,017 ms; its numbers do not show it.
    let csv = "numseq,timestamp_start_send,timestamp_end_send\n0,1000000000,1\n1,1100200000,1\n2,1199100000,1\n\
               3,1300000000,1\n4,2017000000,1\n5,2100000000,1\n";
    let lives = read(csv.as_bytes(), "send").unwrap();
    let [life] = &lives[..] else { panic!("{lives:?}") };
    assert_eq!(life.interval, 100 * MS);
    let told: Vec<(u64, u128)> = life
        .beats
        .iter()
        .filter_map(|beat| beat.schedule)
        .map(|sent| (sent.slot, sent.late.as_millis()))
        .collect();
    assert_eq!(told, [(0, 0), (1, 0), (2, 0), (3, 0), (10, 617), (11, 0)]);
}

#[test]
fn a_reception_is_that_of_its_seed_and_keeps_the_order() {
    let csv: String = (0..2_000u64).fold(
        "numseq,timestamp_start_send,timestamp_end_send\n".to_owned(),
        |csv, number| csv + &format!("{number},{},1\n", number * 2_000_000),
    );
    let received = |seed: u64| {
        let mut lives = read(csv.as_bytes(), "send").unwrap();
        let way = Reception {
            seed,
            ..Reception::far()
        };
        way.receive(&mut lives[0]);
        lives.remove(0).beats
    };
    let beats = received(1);
    assert_eq!(beats, received(1));
    assert_ne!(beats, received(2));
    let arrivals: Vec<Time> = beats.iter().filter_map(|beat| beat.arrived).collect();
    assert!(arrivals.is_sorted(), "one connection carries them all");
    assert!(
        (1_950..2_000).contains(&arrivals.len()),
        "{} of 2,000 came",
        arrivals.len()
    );
    let ways = beats
        .iter()
        .filter_map(|beat| Some(beat.arrived?.since(beat.sent)));
    assert!(ways.min().is_some_and(|least| least >= 40 * MS));
}

#[test]
fn a_table_and_a_picture_of_nothing_are_whole_all_the_same() {
    let rows = [("nobody".to_owned(), Figures::default())];
    assert!(table(&rows).contains("| nobody   |"), "{}", table(&rows));
    let curve = Curve {
        name: "a < b & c".to_owned(),
        points: vec![
            (100.0, 0.0, "1".to_owned()),
            (f64::NAN, f64::INFINITY, "2".to_owned()),
        ],
        bold: true,
    };
    for curves in [vec![], vec![curve]] {
        let svg = plot("title", "subtitle", &curves);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(!svg.contains("a < b"), "{svg}");
    }
}
