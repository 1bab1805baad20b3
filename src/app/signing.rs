//! How this node signs: the key ring, what signs and what verifies with it, and the task that keeps both.

use std::sync::Arc;

use crate::bus::Seal;
use crate::config::Config;
use crate::engine::settings::Settings;
use crate::signing::{self, Keyring, Own, Signer, Verifier};
use crate::task::Task;
use crate::telemetry::metrics::Metrics;

/// Everything there is to sign with, where the configuration asks for it.
pub(super) struct Signing {
    pub(super) seal: Seal,
    /// Verifies what other nodes answer over HTTP: what the bus has brought already, or is about to.
    pub(super) of_answers: Arc<Verifier>,
    settings: signing::Settings,
    keyring: Arc<Keyring>,
}

impl Signing {
    /// Reads the keys; those that cannot be read are said, and looked for again later.
    pub(super) async fn start(config: &Config, engine: &Settings, metrics: &Metrics) -> Option<Self> {
        let settings = config.signing.clone()?;
        let keyring = Arc::new(Keyring::new(
            &settings,
            Arc::clone(&engine.node),
            metrics.signing.clone(),
        ));
        keyring.read_at_start().await;
        let signer = Signer::new(Arc::clone(&keyring), Arc::clone(&engine.group));
        let own = Own {
            node: Arc::clone(&engine.node),
            group: Arc::clone(&engine.group),
            boot: Arc::clone(&engine.boot),
        };
        let verifier = Verifier::new(
            Arc::clone(&keyring),
            own,
            Arc::clone(&engine.group_channel),
            &settings,
            metrics.signing.clone(),
        )
        .expecting(engine.watched_nodes().cloned());
        verifier.restore(&settings.heard);
        let verifier = Arc::new(verifier);
        let of_answers = Arc::new(Verifier::beside(&verifier));
        let seal = Seal {
            signer: Arc::new(signer),
            verifier,
        };
        Some(Self {
            seal,
            of_answers,
            settings,
            keyring,
        })
    }

    /// Follows the key files, and keeps who was heard.
    pub(super) fn task(self) -> Task {
        Task {
            name: "signing".to_owned(),
            start: Box::new(move |cancel| {
                Box::pin(signing::keep(
                    self.settings.clone(),
                    Arc::clone(&self.keyring),
                    Arc::clone(&self.seal.verifier),
                    cancel,
                ))
            }),
        }
    }
}
