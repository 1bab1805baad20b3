//! What this node asks of each Redis that its configuration names: gathered from every part, for `defib doctor --acl`.

use crate::bus::Backend;
use crate::checks::keys::key::RedisKey;
use crate::checks::keys::lock::RedisLock;
use crate::checks::{Probe, When};
use crate::config::Config;
use crate::fleet;
use crate::redis_client::Endpoint;
use crate::redis_client::acl::{Asks, Rules};
use crate::remedies::Remedy;

/// One server, as one user.
#[derive(Clone, Debug, PartialEq)]
pub struct Needs {
    /// Where, and as whom.
    pub endpoint: Endpoint,
    /// What this node does there.
    pub rules: Rules,
}

/// The bus's server comes first; none if the bus is embedded and nothing else is asked of a Redis.
pub fn needs(config: &Config) -> Vec<Needs> {
    let mut gathered = Gathered {
        bus: match &config.bus.backend {
            Backend::Redis(endpoint) => Some(endpoint.clone()),
            Backend::Embedded { .. } => None,
        },
        needs: Vec::new(),
    };
    gathered.add(
        None,
        Asks::Links {
            publish: &config.bus.publish_channel,
            subscribe: &config.bus.channels,
        },
    );
    if fleet::preflight::asks_redis(&config.fleet, &config.engine_settings("".into())) {
        gathered.add(None, Asks::Fleet(&fleet::prefix(&config.group)));
    }
    if !config.leases.prefixes.is_empty() {
        gathered.add(None, Asks::Leases(&config.leases.prefixes));
        gathered.database(None);
    }
    for (_, probe, _) in &config.checks.probes {
        match probe {
            Probe::Subscription(wanted) => {
                gathered.add(wanted.redis.as_ref(), Asks::Subscription(&wanted.channels));
            }
            Probe::RedisKey(key) => gathered.key(key),
            Probe::RedisLock(lock) => gathered.lock(lock),
            _ => {}
        }
    }
    for (_, when, _) in &config.checks.expectations {
        if let When::RedisKey(key) = when {
            gathered.key(key);
        }
    }
    for remedy in config.remedies.values() {
        if let Remedy::ClientKill { servers, .. } = remedy {
            for server in servers {
                gathered.add(server.as_ref(), Asks::ClientKill);
            }
        }
    }
    for needs in &mut gathered.needs {
        needs.rules = std::mem::take(&mut needs.rules).named();
    }
    gathered.needs
}

struct Gathered {
    bus: Option<Endpoint>,
    needs: Vec<Needs>,
}

impl Gathered {
    /// `own`: the server; `None`: the bus's.
    fn add(&mut self, own: Option<&Endpoint>, asks: Asks<'_>) {
        let Some(endpoint) = own.or(self.bus.as_ref()) else {
            return;
        };
        // (Each database of a server takes the same rules.)
        let same = |needs: &&mut Needs| {
            needs.endpoint.address == endpoint.address && needs.endpoint.user == endpoint.user
        };
        match self.needs.iter_mut().find(same) {
            Some(needs) => needs.rules.add(asks),
            None => self.needs.push(Needs {
                endpoint: endpoint.clone(),
                rules: Rules::of(asks),
            }),
        }
    }

    fn database(&mut self, own: Option<&Endpoint>) {
        if own.or(self.bus.as_ref()).is_some_and(|endpoint| endpoint.db != 0) {
            self.add(own, Asks::Database);
        }
    }

    fn key(&mut self, key: &RedisKey) {
        self.add(key.redis.as_ref(), key.asks());
        self.database(key.redis.as_ref());
    }

    fn lock(&mut self, lock: &RedisLock) {
        self.add(lock.redis.as_ref(), lock.asks());
        self.database(lock.redis.as_ref());
    }
}
