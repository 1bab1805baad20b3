//! An operator said: do nothing; or a maintenance window is open. Or the node is about to end.

use super::{Asked, GuardName, Refusal};

pub(super) fn ask(asked: &Asked<'_>) -> Result<(), Refusal> {
    if asked.draining {
        return GuardName::Paused.refuses("this node is draining", None);
    }
    match (asked.node_pause, &asked.peer.pause) {
        (Some(pause), _) => {
            GuardName::Paused.refuses(format!("the node is paused: {}", pause.reason), pause.until)
        }
        (None, Some(pause)) => GuardName::Paused.refuses(format!("paused: {}", pause.reason), pause.until),
        (None, None) => match asked.window {
            Some(window) => GuardName::Paused.refuses(
                format!("a maintenance window is open: {}", window.reason),
                Some(window.until),
            ),
            None => Ok(()),
        },
    }
}
