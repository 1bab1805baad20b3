//! Turns without a bus: each node has a place in a cycle of the wall clock, and restarts something only while it is its
//! turn. Nobody is asked; the nodes' clocks must agree to a quarter of a turn.

use std::time::Duration;

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Turns in a cycle.
    pub size: u32,
    /// This node's, from 0.
    pub place: u32,
    /// How long a turn lasts.
    pub turn: Duration,
}

impl Slots {
    /// The place of `node` among `size`: the number that its name ends with, if there is such a place (a StatefulSet
    /// numbers its pods so, and no two share one); else by a hash of its name, and then some may share one.
    pub fn of(node: &str, size: u32, turn: Duration) -> Self {
        let size = size.max(1);
        let digits = node.len() - node.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let numbered = node[node.len() - digits..].parse().ok();
        let place = numbered
            .filter(|place| *place < size)
            .unwrap_or_else(|| u32::try_from(fnv1a(node) % u64::from(size)).unwrap_or_default());
        Self { size, place, turn }
    }

    /// How long until this node may, by that time since 1970; zero: now. A turn's second half is nobody's: what was
    /// begun at its last moment, and clocks that differ, stay clear of the next.
    pub fn wait(&self, wall: Duration) -> Duration {
        let turn = self.turn.max(Duration::from_millis(2)).as_millis();
        let cycle = turn * u128::from(self.size);
        let begins = turn * u128::from(self.place);
        let at = (wall.as_millis() + cycle - begins) % cycle;
        if at < turn / 2 {
            return Duration::ZERO;
        }
        Duration::from_millis(u64::try_from(cycle - at).unwrap_or(u64::MAX))
    }
}

/// The same on every machine and in every version, which std's hasher does not promise.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: Duration = Duration::from_secs(60);

    #[test]
    fn a_numbered_node_has_its_own_place_and_any_other_one_of_its_own_choice() {
        let place = |node: &str, size| Slots::of(node, size, TURN).place;
        assert_eq!(
            ["pod-0", "pod-39", "edge7"].map(|node| place(node, 40)),
            [0, 39, 7]
        );
        assert_eq!(place("pod-40", 40), place("pod-40", 40));
        assert!(
            ["pod-40", "web-7f9c", "", "node-99999999999999999999"]
                .iter()
                .all(|node| place(node, 40) < 40)
        );
        assert_eq!(place("anything", 1), 0);
        // Many names spread over all places.
        let used: std::collections::BTreeSet<u32> =
            (0..400).map(|n| place(&format!("web-{n:x}-x"), 40)).collect();
        assert!(used.len() >= 38, "{}", used.len());
    }

    #[test]
    fn no_two_places_have_their_turn_together_and_each_has_one_in_every_cycle() {
        for second in 0..(40 * 60 * 2) {
            let wall = Duration::from_secs(1_770_000_000 + second);
            let open = (0..40)
                .filter(|place| {
                    Slots {
                        size: 40,
                        place: *place,
                        turn: TURN,
                    }
                    .wait(wall)
                    .is_zero()
                })
                .count();
            assert!(open <= 1);
            let (mine, next) = [3, 4]
                .map(|place| {
                    Slots {
                        size: 40,
                        place,
                        turn: TURN,
                    }
                    .wait(wall)
                })
                .into();
            if mine.is_zero() {
                assert!(next > TURN / 2, "half a turn lies between two");
            }
        }
        let slots = Slots::of("pod-3", 40, TURN);
        let wall = Duration::from_secs(1_770_000_031);
        let wait = slots.wait(wall);
        assert!(slots.wait(wall + wait).is_zero());
        assert!(wait <= TURN * 40);
        assert!(!slots.wait(wall + wait + TURN / 2).is_zero());
    }
}
