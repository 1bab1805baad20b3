//! The group's leave: its budgets, its done-marks, and that nobody else heals this peer now. Where the group cannot be
//! asked, `when_bus_down` says what then.

use super::{Asked, GuardName, Refusal};
use crate::engine::settings::WhenBusDown;

pub(super) fn ask(asked: &Asked<'_>) -> Result<(), Refusal> {
    let outside = &asked.episode.outside;
    let needed = asked.settings.fleet_asks && asked.remedy.restarts;
    if !needed || outside.may(&asked.peer.life(), asked.rung) {
        return Ok(());
    }
    if outside.is_away(asked.now) && survived_by(asked) {
        return Ok(());
    }
    match outside.no(GuardName::FleetLease, asked.now) {
        Some(no) => Err(no),
        None => GuardName::FleetLease.refuses("asking the group", None),
    }
}

/// `when_bus_down = "local"`, and its end was witnessed while the bus still worked: an outage cannot be its cause, and
/// is no reason to leave it.
pub(super) fn survived_by(asked: &Asked<'_>) -> bool {
    asked.peer_settings.when_bus_down == WhenBusDown::Local
        && asked.peer.exited
        && asked.episode.outside.outlived
}
