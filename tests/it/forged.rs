//! Scenario 48 in virtual time: the same engine with and without a hostile publisher on its group's channel.

use crate::support::forger::{Signed, attack};

#[test]
fn s48_twenty_thousand_forged_replayed_and_cross_identity_messages_change_nothing() {
    for signed in [Signed::Own, Signed::Shared] {
        let outcome = attack(10_000, 48, signed);
        println!("{signed:?}: {outcome:?}");
        assert_eq!(outcome.believed, 0, "{signed:?}: {outcome:?}");
        assert_eq!(outcome.differences, 0, "{signed:?}: {outcome:?}");
        assert_eq!(outcome.lost, 0, "{signed:?}: {outcome:?}");
        for reason in [
            "bad_signature",
            "replayed",
            "unknown_key",
            "unreadable",
            "unsigned",
            "wrong_identity",
        ] {
            assert!(
                outcome.refused.contains_key(reason),
                "{reason} was not tried: {outcome:?}"
            );
        }
    }
}

#[test]
fn s48_the_same_messages_are_believed_where_nothing_is_signed() {
    let outcome = attack(10_000, 48, Signed::Not);
    println!("{outcome:?}");
    assert!(outcome.believed > 9_000, "{outcome:?}");
    assert!(outcome.differences > 0, "{outcome:?}");
}
