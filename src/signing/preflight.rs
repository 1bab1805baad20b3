//! Whether signing can work here: the keys can be read, and those of the nodes that are watched are trusted.

use std::sync::Arc;

use super::keys::{self, Keys};
use super::{Settings, Source};
use crate::preflight::{Finding, Look, Part, Subject};

/// The looks at the keys. `watched`: the nodes whose heartbeats this node waits for.
pub fn preflight(settings: &Settings, node: &Arc<str>, watched: Vec<Arc<str>>) -> Vec<Look> {
    let (source, node) = (settings.source.clone(), Arc::clone(node));
    let subject = Subject::node(Part::Signing);
    vec![subject.look_blocking(move || find(&source, &node, &watched))]
}

fn find(source: &Source, node: &Arc<str>, watched: &[Arc<str>]) -> Finding {
    let (keys, faults) = keys::read(source, node, &Keys::default());
    if let Some(fault) = faults.first() {
        let cure = match source {
            Source::Shared(_) => "put the group's key there, one of at least 32 bytes a line",
            Source::Own { .. } => {
                "put this node's private key and everybody's public keys there: see docs/signing.md"
            }
        };
        return Finding::missing(fault, cure);
    }
    let unknown: Vec<&str> = watched
        .iter()
        .filter(|watched| !keys.trusts(watched))
        .map(|watched| &**watched)
        .collect();
    match (source, unknown.as_slice()) {
        (Source::Own { trusted, .. }, [first, ..]) => Finding::missing(
            format!(
                "nothing that {} says can be verified: there is no public key",
                unknown.join(", ")
            ),
            format!("put it into {}/{first}.pub", trusted.display()),
        ),
        _ => Finding::noted(format!("{} keys are trusted", keys.len())),
    }
}
