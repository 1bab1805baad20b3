//! Numbers for names. A node that runs knows its peers and expectations by number: a name keeps its number for as long as
//! it is configured, and nobody gets one that was somebody else's a moment ago.

use std::collections::{BTreeMap, BTreeSet};

use super::Over;
use crate::engine::event::{ExpectationId, PeerId};

/// The numbers that are taken.
#[derive(Debug, Default)]
pub(super) struct Layout {
    peers: BTreeMap<String, u32>,
    expectations: BTreeMap<String, u32>,
    resting: BTreeSet<u32>,
}

impl Layout {
    /// `None`: the node starts, and everybody is numbered in the order of the file.
    pub(super) fn of(over: Option<&Over>) -> Self {
        let Some(over) = over else {
            return Self::default();
        };
        let engine = &over.config.engine;
        let peers = engine.peers().map(|(id, peer)| (peer.name.to_string(), id.0));
        let expectations = (0u32..).zip(&engine.expectations);
        Self {
            peers: peers.collect(),
            expectations: expectations
                .filter(|(_, name)| !name.is_empty())
                .map(|(id, name)| (name.to_string(), id))
                .collect(),
            resting: over.resting.iter().map(|id| id.0).collect(),
        }
    }

    pub(super) fn peers<'n>(&self, names: impl Iterator<Item = &'n str>) -> Vec<PeerId> {
        let numbers = numbers(names, &self.peers, &self.resting);
        numbers.into_iter().map(PeerId).collect()
    }

    pub(super) fn expectations<'n>(&self, names: impl Iterator<Item = &'n str>) -> Vec<ExpectationId> {
        let numbers = numbers(names, &self.expectations, &BTreeSet::new());
        let id = |number| ExpectationId(u16::try_from(number).unwrap_or(u16::MAX));
        numbers.into_iter().map(id).collect()
    }
}

fn numbers<'n>(
    names: impl Iterator<Item = &'n str>,
    known: &BTreeMap<String, u32>,
    resting: &BTreeSet<u32>,
) -> Vec<u32> {
    // Also of names that are configured no longer: their number is nobody's yet.
    let taken: BTreeSet<u32> = known.values().chain(resting).copied().collect();
    let mut free = (0u32..).filter(|number| !taken.contains(number));
    names
        .map(|name| match known.get(name) {
            Some(number) => *number,
            None => free.next().unwrap_or(u32::MAX),
        })
        .collect()
}

/// The values at their numbers, and `gap` between them.
pub(super) fn laid_out<T: Clone>(values: impl Iterator<Item = (usize, T)>, gap: &T) -> Vec<T> {
    let mut out = Vec::new();
    for (place, value) in values {
        if place >= out.len() {
            out.resize(place + 1, gap.clone());
        }
        out[place] = value;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(names: &[(&str, u32)]) -> BTreeMap<String, u32> {
        names.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect()
    }

    #[test]
    fn a_name_keeps_its_number_and_nobody_gets_that_of_one_who_left() {
        let none = BTreeSet::new();
        let first = numbers(["a", "b", "c"].into_iter(), &BTreeMap::new(), &none);
        assert_eq!(first, [0, 1, 2]);
        let all = known(&[("a", 0), ("b", 1), ("c", 2)]);
        assert_eq!(numbers(["c", "new", "a"].into_iter(), &all, &none), [2, 3, 0]);
        let rest = known(&[("a", 0), ("c", 2), ("new", 3)]);
        let resting = BTreeSet::from([1]);
        assert_eq!(numbers(["x", "a", "y"].into_iter(), &rest, &resting), [4, 0, 5]);
        assert_eq!(numbers(["x", "a", "y"].into_iter(), &rest, &none), [1, 0, 4]);
    }

    #[test]
    fn gaps_are_filled() {
        assert_eq!(
            laid_out([(3, 'd'), (0, 'a')].into_iter(), &'-'),
            ['a', '-', '-', 'd']
        );
    }
}
