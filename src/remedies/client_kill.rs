//! The `client_kill` remedy: `CLIENT KILL` of the very connections that a `subscription` check condemned. Redis closes
//! them; a client that connects again is healed without a restart. What the act is fenced by: the connection is one
//! that is condemned in the granted life, and Redis still lists it under the same id, address and name.

use std::time::Duration;

use super::Passed;
use crate::condemned::{Client, CondemnedTable};
use crate::engine::decision::Grant;
use crate::engine::event::RemedyOutcome;
use crate::preflight::Finding;
use crate::redis_client::failure::Failure;
use crate::redis_client::{Asker, Endpoint, ListedClient, Server, Which};

/// What came of one connection.
#[derive(Debug)]
enum Done {
    Killed,
    /// Redis does not list it any more, or it is another one.
    Gone(String),
    /// Redis could not be asked.
    Away(String),
    Refused(String),
}

pub(super) async fn run(
    servers: &[Option<Endpoint>],
    timeout: Duration,
    grant: &Grant,
    passed: Passed<'_>,
) -> RemedyOutcome {
    let executors = passed.executors;
    let condemned = condemned(&executors.condemned, grant);
    if condemned.is_empty() {
        return RemedyOutcome::NotActed {
            detail: "no connection of it that Redis knows is condemned".to_owned(),
        };
    }
    let mut askers: Vec<Asker> = servers
        .iter()
        .map(|server| Asker::new(executors.redis.or(server.as_ref()), "remedy"))
        .collect();
    passed.act();
    let mut done = Vec::new();
    for client in condemned {
        let outcome = kill(&mut askers, &client, timeout).await;
        done.push((client, outcome));
    }
    sum_up(&done)
}

/// Could it act? Asked with an id and an address that nobody has.
pub(super) async fn preflight(server: Server, within: Duration) -> Finding {
    let mut asker = Asker::new(server, "preflight");
    let place = asker.place();
    let listed = asker.clients(Which::Subscribed, within, |_| false).await;
    let killed = match listed {
        Ok(_) => asker.kill(i64::MAX.unsigned_abs(), "0.0.0.0:1", within).await,
        Err(failure) => Err(failure),
    };
    match killed {
        Ok(_) => Finding::OK,
        Err(Failure::Refused { cure }) => Finding::missing(format!("{place} refuses"), cure),
        Err(Failure::Down { reason, .. }) => Finding::unknown(format!("{place}: {reason}")),
    }
}

/// What is condemned for this cause in the granted life.
fn condemned(table: &CondemnedTable, grant: &Grant) -> Vec<Client> {
    let of_cause = table
        .of(grant.peer, &grant.incarnation)
        .into_iter()
        .filter(|connection| connection.cause == grant.cause);
    of_cause.filter_map(|connection| connection.client).collect()
}

async fn kill(askers: &mut [Asker], client: &Client, timeout: Duration) -> Done {
    let mut last = Done::Gone("Redis does not list it any more".to_owned());
    for asker in askers {
        let outcome = kill_at(asker, client, timeout).await.unwrap_or_else(|failure| {
            let refused = matches!(failure, Failure::Refused { .. });
            let why = format!("{}: {}", asker.place(), failure.into_text());
            if refused {
                Done::Refused(why)
            } else {
                Done::Away(why)
            }
        });
        match outcome {
            Done::Killed => return Done::Killed,
            other => last = other,
        }
    }
    last
}

async fn kill_at(asker: &mut Asker, client: &Client, timeout: Duration) -> Result<Done, Failure> {
    let address = client.addr.parse().ok();
    let listed = asker
        .clients(Which::All, timeout, |listed| Some(listed) == address)
        .await?;
    let same = |listed: &&ListedClient| listed.id == client.id && listed.addr == client.addr;
    Ok(match listed.wanted.iter().find(same) {
        None => Done::Gone("Redis does not list it any more".to_owned()),
        Some(listed) if listed.name != client.name => Done::Gone(format!(
            "it is called {:?} by now, and was {:?}",
            listed.name, client.name
        )),
        // With the address, too: nobody else can have got it in between, as the old connection holds it.
        Some(_) if asker.kill(client.id, &client.addr, timeout).await? => Done::Killed,
        Some(_) => Done::Gone("it closed by itself".to_owned()),
    })
}

fn sum_up(done: &[(Client, Done)]) -> RemedyOutcome {
    let words = |(client, done): &(Client, Done)| {
        let who = format!("client {} ({})", client.id, client.addr);
        match done {
            Done::Killed => format!("{who} killed"),
            Done::Gone(why) | Done::Away(why) | Done::Refused(why) => format!("{who} not killed: {why}"),
        }
    };
    let detail = done.iter().map(words).collect::<Vec<_>>().join("; ");
    if done.iter().any(|(_, done)| matches!(done, Done::Killed)) {
        RemedyOutcome::Acted { detail }
    } else if done.iter().any(|(_, done)| matches!(done, Done::Refused(_))) {
        RemedyOutcome::NotActed { detail }
    } else {
        // They are gone, or Redis is away for a moment: no reason for a harder remedy.
        RemedyOutcome::Fenced { detail }
    }
}
