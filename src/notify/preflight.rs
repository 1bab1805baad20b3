//! Whether the targets can be reached from here. Nothing is told: a connection is made and closed again.

use std::time::Duration;

use super::{Kind, Target};
use crate::http_client;
use crate::preflight::{Finding, Look, Part, Subject};

/// The looks at every target.
pub fn preflight(settings: &[Target]) -> Vec<Look> {
    let look = |target: &Target| {
        let subject = Subject {
            part: Part::Notify,
            peer: "".into(),
            name: target.name.clone(),
        };
        subject.look(reachable(target.clone()))
    };
    settings.iter().map(look).collect()
}

async fn reachable(target: Target) -> Finding {
    let url = match target.url.read().await {
        Ok(url) => url,
        Err(error) => return Finding::missing(error.to_string(), "provide it"),
    };
    let secrets = target.headers.iter().map(|(_, secret)| secret);
    for secret in secrets.chain(&target.bearer).chain(&target.hmac) {
        if let Err(error) = secret.read().await {
            return Finding::missing(error.to_string(), "provide it");
        }
    }
    let name = &target.name;
    let note = match target.kind {
        Kind::Json { .. } => format!("connects; `defib notify --test {name}` sends a message"),
        Kind::Alertmanager { .. } => format!("connects; `defib notify --test {name}` sends an alert"),
    };
    match http_client::reach(&url, target.timeout.min(Duration::from_secs(5))).await {
        Ok(()) => Finding::noted(note),
        Err(http_client::Error::Url(error)) => Finding::missing(error.to_string(), "correct the URL"),
        Err(error) => Finding::unknown(error.to_string()),
    }
}
