//! The words that people, labels and configurations know.

use super::S;
use crate::engine::cause::Cause;
use crate::engine::guards::{GuardName, Refusal};
use crate::engine::peer::Liveness;

#[test]
fn what_is_named_in_labels_is_called_so_everywhere() {
    assert_eq!(
        Liveness::ALL.map(Liveness::as_str),
        ["unknown", "alive", "suspect", "dead"]
    );
    assert_eq!(format!("{:>6}|", Liveness::Dead), "  dead|");
    let guards =
        "paused grace self_trust bus_settle mass_silence quorum blockers backoff budget fleet_lease dry_run";
    assert_eq!(GuardName::ALL.map(GuardName::as_str).join(" "), guards);
    let refusal = Refusal {
        guard: GuardName::Backoff,
        why: "the last remedy was a moment ago".to_owned(),
        until: Some(super::Time::from_origin(S)),
    };
    assert_eq!(refusal.to_string(), "backoff: the last remedy was a moment ago");
}

#[test]
fn only_what_lies_in_the_peer_may_be_healed() {
    let in_peer: Vec<&str> = Cause::ALL
        .into_iter()
        .filter(|cause| cause.lies_in_peer())
        .map(Cause::as_str)
        .collect();
    assert_eq!(
        in_peer,
        [
            "peer_exited",
            "peer_deaf",
            "peer_stuck",
            "peer_leaking",
            "peer_silent"
        ]
    );
}
