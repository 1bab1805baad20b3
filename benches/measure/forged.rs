//! A million forged, replayed and cross-identity messages against one engine, and what it costs to tell them.
//!
//! `MESSAGES=100000` for another number, `SEED=7` for others of them.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use defib::bus::{Intake, heartbeat};
use defib::secret::Secret;
use defib::signing::{Keyring, Own, ROOM, Settings, Signer, Source, Verifier};
use defib::telemetry::metrics::Metrics;
use rustix::time::{ClockId, clock_gettime};

use crate::common::number;
use crate::crowd::{self, CHANNEL, GROUP};
use crate::forger::{self, Signed, attack};
use crate::sample::{Sample, heading};

/// Heartbeats of one sample.
const SAMPLE: usize = 10_000;
const SAMPLES: usize = 15;
const WALL: u64 = 1_770_000_000_000;

pub(crate) fn measure() -> anyhow::Result<()> {
    heading("Forged messages");
    let (messages, seed) = (number("MESSAGES", 1_000_000) as u64, number("SEED", 48) as u64);
    println!(
        "| the group signs | forged | of virtual time | handed to the engine | seconds in which it differed | genuine refused | refused by reason |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (how, signed) in [
        ("a key for each node", Signed::Own),
        ("one key", Signed::Shared),
        ("not", Signed::Not),
    ] {
        let forger::Outcome {
            forged,
            believed,
            seconds,
            differences,
            lost,
            refused,
            ..
        } = attack(messages, seed, signed);
        let refused: Vec<String> = refused
            .iter()
            .map(|(why, count)| format!("{why} {count}"))
            .collect();
        println!(
            "| {how} | {forged} | {seconds} s | {believed} | {differences} | {lost} | {} |",
            refused.join(", ")
        );
    }
    println!(
        "\nTo read one heartbeat, µs of processor; median (least–most), {SAMPLES} samples of {SAMPLE}.\n"
    );
    println!("| | genuine | told again | forged |");
    println!("|---|---|---|---|");
    for (how, source) in [
        ("not signed", None),
        (
            "HMAC-SHA256",
            Some(Source::Shared(Secret::Inline("x".repeat(64)))),
        ),
        ("Ed25519", Some(own())),
    ] {
        let [genuine, again, forged] = costs(source)?;
        let [genuine, again, forged] = [genuine, again, forged].map(|sample| sample.spread(2));
        match how {
            "not signed" => println!("| {how} | {genuine} | | |"),
            _ => println!("| {how} | {genuine} | {again} | {forged} |"),
        }
    }
    Ok(())
}

/// Processor time of this process, in seconds.
#[allow(
    clippy::disallowed_methods,
    reason = "/proc tells it in hundredths of a second"
)]
fn cpu() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn own() -> Source {
    let keys = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys");
    Source::Own {
        key: Secret::File(keys.join("node-a.key")),
        trusted: keys.join("trusted"),
    }
}

/// Of heartbeats that are new, of the same once more, and of new ones with a bit turned.
fn costs(source: Option<Source>) -> anyhow::Result<[Sample; 3]> {
    let metrics = Metrics::new()?;
    let channel: Arc<str> = CHANNEL.into();
    let sealed = source.map(|source| {
        let settings = Settings {
            source,
            window: Duration::from_secs(60),
            require: true,
            heard: "".into(),
        };
        let ring = Keyring::new(&settings, "node-a".into(), metrics.signing.clone());
        let ring = Arc::new(ring);
        let faults = ring.read();
        let own = Own {
            node: "node-b".into(),
            group: GROUP.into(),
            boot: "b1".into(),
        };
        let verifier = Verifier::new(
            Arc::clone(&ring),
            own,
            Arc::clone(&channel),
            &settings,
            metrics.signing.clone(),
        );
        (Signer::new(ring, GROUP.into()), Arc::new(verifier), faults)
    });
    let mut intake = Intake::new(
        Arc::clone(&channel),
        sealed.as_ref().map(|(_, verifier, _)| Arc::clone(verifier)),
    );
    let mut slot = 0;
    let mut figures: [Sample; 3] = Default::default();
    for _ in 0..SAMPLES {
        let mut bodies = |flip: bool| -> anyhow::Result<Vec<Vec<u8>>> {
            let mut bodies = Vec::with_capacity(SAMPLE);
            for _ in 0..SAMPLE {
                slot += 1;
                let mut beat =
                    heartbeat::read(&crowd::body(0, slot)).map_err(|why| anyhow::anyhow!("{why:?}"))?;
                beat.node = Some("node-a".into());
                let mut body = heartbeat::encode_within(&beat, 1.0, heartbeat::MAX_BYTES - ROOM);
                if let Some((signer, _, faults)) = &sealed {
                    anyhow::ensure!(faults.is_empty(), "{faults:?}");
                    body = signer
                        .sign(CHANNEL, body, WALL)
                        .ok_or_else(|| anyhow::anyhow!("there is no key"))?;
                    if flip {
                        let place = body.len() - 10;
                        body[place] = if body[place] == b'0' { b'1' } else { b'0' };
                    }
                }
                bodies.push(body);
            }
            Ok(bodies)
        };
        let (genuine, forged) = (bodies(false)?, bodies(true)?);
        for (place, (bodies, believed)) in [(&genuine, true), (&genuine, false), (&forged, false)]
            .into_iter()
            .enumerate()
        {
            let before = cpu();
            let mut taken = 0;
            for body in bodies {
                taken +=
                    usize::from(black_box(intake.take(&channel, black_box(body), 1_770_000_000.0)).is_ok());
            }
            let took = cpu() - before;
            anyhow::ensure!(
                sealed.is_none() || taken == if believed { SAMPLE } else { 0 },
                "{taken} were believed"
            );
            figures[place].push(took * 1e6 / SAMPLE as f64);
        }
    }
    Ok(figures)
}
