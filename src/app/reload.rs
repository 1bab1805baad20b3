//! Takes another configuration while the node runs: read and validated as a whole, compared part by part, applied as the
//! difference; or refused as a whole, with the old one kept. Judges nothing: what a change means for a verdict is the
//! engine's business.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{Executing, MAINTENANCE, PREFLIGHT, looking, maintenance_task};
use crate::bus;
use crate::checks::parts::{Part, Table, parts};
use crate::config::{Config, Over};
use crate::engine::event::{CheckId, Event, ExpectationId, Opened, PeerId};
use crate::engine::reload::Reload;
use crate::engine::settings::Settings;
use crate::engine::time::Time;
use crate::fleet::Blocker;
use crate::http::View;
use crate::reload_desk::{Ask, Outcome};
use crate::remedies::{self, Executors};
use crate::runtime::clock;
use crate::runtime::config_file::ConfigFile;
use crate::runtime::event_loop;
use crate::runtime::healing::Healer;
use crate::runtime::maintenance::Calendar;
use crate::runtime::sd_notify::Notifier;
use crate::runtime::supervise::{self, Policy};
use crate::telemetry::metrics::Metrics;

/// The number of a peer that was removed is nobody's for so long: longer than a request over HTTP that holds it may wait.
const REST: Duration = Duration::from_secs(60);
/// A configuration must have been read and validated by then, or is refused. Who asks waits a little longer.
const LOADING: Duration = Duration::from_secs(25);
/// How soon it is looked for again whether a remedy has ended that was at work on who was removed.
const LEAVING: Duration = Duration::from_secs(5);
/// Characters of a refusal that are told in one notice.
const TOLD: usize = 4_000;

/// A file that changed and was refused for a reason that is not in it is read again after so long, then twice that, …
const AGAIN: Duration = Duration::from_secs(5);
/// … and so on up to this.
const AGAIN_MOST: Duration = Duration::from_secs(300);
/// Who asks, if nobody does.
const ITS_FILE: &str = "its file";

/// Why a configuration was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In words: every mistake, with line and column.
    pub why: String,
    /// It is nothing in the configuration: the same one may be taken later.
    pub passes: bool,
}

impl Refusal {
    /// Of this content, whenever it is read.
    pub const fn of_content(why: String) -> Self {
        Self { why, passes: false }
    }

    /// For a reason that may pass by itself.
    pub const fn for_now(why: String) -> Self {
        Self { why, passes: true }
    }
}

/// Reads and validates the configuration for a node that runs. Blocks nobody.
pub type Load = Arc<dyn Fn(Over) -> BoxFuture<'static, Result<Config, Refusal>> + Send + Sync>;

/// Where a node's configuration is read again.
pub struct Source {
    /// Does so.
    pub load: Load,
    /// The file that is watched; `None`: it is read again only when somebody asks.
    pub watch: Option<ConfigFile>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("watch", &self.watch)
            .finish_non_exhaustive()
    }
}

/// What a reload changes, and whom it tells.
pub(super) struct Wiring {
    pub(super) settings: Settings,
    pub(super) parts: Vec<Part>,
    pub(super) around: crate::checks::Surroundings,
    pub(super) healing: remedies::Surroundings,
    pub(super) tasks: mpsc::Sender<supervise::Order>,
    pub(super) engine: mpsc::Sender<event_loop::Order>,
    pub(super) progress: watch::Receiver<event_loop::Progress>,
    pub(super) listening: watch::Sender<bus::Channels>,
    pub(super) blocking: watch::Sender<Arc<[Blocker]>>,
    pub(super) view: watch::Sender<Arc<View>>,
    pub(super) metrics: Metrics,
    pub(super) notifier: Arc<Notifier>,
}

/// Does one reload after the other.
pub(super) struct Reloader {
    config: Arc<Config>,
    wiring: Wiring,
    /// Numbers of peers that were removed, and when.
    resting: BTreeMap<PeerId, Time>,
    /// What nobody tells any more, and a fence may still stand on: forgotten once no remedy is at work on that peer.
    leaving: BTreeSet<(Table, PeerId)>,
    /// Who was removed while a remedy was at work: its end is told, and counted.
    gone: BTreeMap<PeerId, Arc<str>>,
    /// The last reload was refused for a reason that may pass.
    refused: Option<Refused>,
}

/// What is tried again by itself.
struct Refused {
    why: String,
    wait: Duration,
}

impl Refused {
    /// Longer, if it was tried before.
    fn again(before: Option<Self>, why: String) -> Self {
        let wait = before.map_or(AGAIN, |before| AGAIN_MOST.min(2 * before.wait));
        Self { why, wait }
    }
}

/// The parts of two configurations beside each other.
struct Difference {
    ended: Vec<Part>,
    started: Vec<Part>,
    /// Those of the started that look in another way than the one in whose place they begin.
    other_way: Vec<Part>,
    checks_anew: BTreeSet<CheckId>,
    expectations_anew: BTreeSet<ExpectationId>,
}

impl Reloader {
    pub(super) fn new(config: Config, wiring: Wiring) -> Self {
        Self {
            config: Arc::new(config),
            wiring,
            resting: BTreeMap::new(),
            leaving: BTreeSet::new(),
            gone: BTreeMap::new(),
            refused: None,
        }
    }

    /// Until cancelled. An error means that the event loop or the supervision is gone.
    pub(super) async fn run(
        mut self,
        source: Source,
        mut asked: mpsc::Receiver<Ask>,
        cancel: CancellationToken,
    ) -> anyhow::Result<()> {
        let reloading = async {
            let Source {
                load,
                watch: mut file,
            } = source;
            let mut again: Option<Pin<Box<tokio::time::Sleep>>> = None;
            loop {
                let changed = async {
                    match &mut file {
                        Some(file) => file.changed().await,
                        None => std::future::pending().await,
                    }
                };
                let is_time = async {
                    match &mut again {
                        Some(again) => again.await,
                        None => std::future::pending().await,
                    }
                };
                let ask = tokio::select! {
                    biased;
                    Some(ask) = asked.recv() => Some(ask),
                    () = changed => {
                        self.refused = None;
                        None
                    }
                    () = is_time => None,
                    () = tokio::time::sleep(LEAVING), if !self.leaving.is_empty() || !self.gone.is_empty() => {
                        self.forget_who_left();
                        continue;
                    }
                };
                let (by, reply) = match ask {
                    Some(Ask { by, reply }) => {
                        if let Some(file) = &mut file {
                            file.read_by_others().await;
                        }
                        (by, Some(reply))
                    }
                    None => (ITS_FILE.to_owned(), None),
                };
                let outcome = self.reload(&load, &by).await?;
                // Nobody asks again because Docker is back.
                let waits = self.refused.as_ref().filter(|_| file.is_some());
                again = waits.map(|refused| Box::pin(tokio::time::sleep(refused.wait)));
                if let Some(reply) = reply {
                    // Who asked may not wait for it.
                    let _ = reply.send(outcome);
                }
            }
        };
        match cancel.run_until_cancelled(reloading).await {
            Some(ended) => ended,
            None => Ok(()),
        }
    }

    async fn reload(&mut self, load: &Load, by: &str) -> anyhow::Result<Outcome> {
        if self.wiring.progress.borrow().draining_by.is_some() {
            let error = "this node says goodbye and ends: it takes up no other configuration".to_owned();
            return Ok(Outcome::Refused { error });
        }
        self.wiring.notifier.reloading(clock::monotonic());
        let now = self.wiring.around.reporting.clock.now();
        let at_work = self.wiring.progress.borrow().at_work.clone();
        self.resting
            .retain(|id, since| now.since(*since) < REST || at_work.contains(id));
        let over = Over {
            config: Arc::clone(&self.config),
            resting: self.resting.keys().copied().collect(),
        };
        let loaded = tokio::time::timeout(LOADING, load(over)).await;
        let before = self.refused.take();
        let outcome = match loaded
            .unwrap_or_else(|_| Err(too_late()))
            .and_then(|config| self.is_meant(config, by))
        {
            Err(Refusal { why, passes }) => {
                // Not told at each try.
                let known = before.as_ref().is_some_and(|before| before.why == why) && by == ITS_FILE;
                self.refused = passes.then(|| Refused::again(before, why.clone()));
                self.refuse(by, why, known).await?
            }
            Ok(config) if config == *self.config => Outcome::Unchanged,
            Ok(config) => self.apply(config, by).await?,
        };
        let refused = match &outcome {
            Outcome::Refused { error } => Some(Arc::from(error.as_str())),
            Outcome::Applied { .. } | Outcome::Unchanged => None,
        };
        if outcome == Outcome::Unchanged {
            tracing::info!(by, "the configuration was read again: it is the one that holds");
        }
        self.wiring
            .view
            .send_modify(|view| *view = Arc::new(view.with_refused(refused)));
        let at = self.wiring.around.reporting.clock.wall();
        self.wiring.metrics.engine.reloaded(&outcome, at);
        self.wiring.notifier.ready();
        Ok(outcome)
    }

    /// What is left of a file that could not be written whole may be a configuration of nobody.
    fn is_meant(&self, config: Config, by: &str) -> Result<Config, Refusal> {
        let before = self.wiring.settings.peers().count();
        let settings = config.engine_settings(Arc::clone(&self.wiring.settings.boot));
        let after = settings.peers().count();
        if by == ITS_FILE && before > 0 && after == 0 {
            return Err(Refusal::of_content(format!(
                "no peer is left of {before}: a file may have been cut off; if that is meant, ask for it with `defib reload`"
            )));
        }
        Ok(config)
    }

    async fn refuse(&self, by: &str, error: String, known: bool) -> anyhow::Result<Outcome> {
        if known {
            tracing::debug!("the configuration is still refused: {error}");
            return Ok(Outcome::Refused { error });
        }
        let detail = in_one_line(&error).chars().take(TOLD).collect();
        let by = by.to_owned();
        let order = event_loop::Order::Refused { by, detail };
        self.wiring.engine.send(order).await?;
        Ok(Outcome::Refused { error })
    }

    /// What runs no longer ends first, and has said all that it will: then the loop is told, and then what is new
    /// begins. So nothing that an old part saw is taken for what a new one did.
    async fn apply(&mut self, config: Config, by: &str) -> anyhow::Result<Outcome> {
        let config = Arc::new(config);
        for warning in config
            .warnings
            .iter()
            .filter(|known| !self.config.warnings.contains(known))
        {
            tracing::warn!("{warning}");
        }
        let boot = Arc::clone(&self.wiring.settings.boot);
        let settings = config.engine_settings(boot);
        self.wiring.around.settle = settings.bus_settle;
        self.wiring.around.scrub = config.variables.clone().into();
        let parts = parts(&config.checks, &settings, &self.wiring.around);
        let difference = Difference::between(&self.wiring.parts, &parts);
        let reporting = &self.wiring.around.reporting;
        let other = config.maintenance != self.config.maintenance;
        let mut calendar =
            other.then(|| Calendar::new(Arc::clone(&config.maintenance), Arc::clone(&reporting.clock)));
        let detail = self
            .tell_engine((&config, &settings), &difference, calendar.as_mut(), by)
            .await?;
        self.leave(&difference, &parts);
        self.start(&config, &difference, calendar).await?;
        self.wiring.listening.send_if_modified(|known| {
            let wanted = bus::Channels::from(config.bus.channels.clone());
            let other = *known != wanted;
            *known = wanted;
            other
        });
        self.forget_removed(&settings, &parts);
        self.wiring.settings = settings;
        self.wiring.parts = parts;
        self.config = config;
        Ok(Outcome::Applied { detail })
    }

    async fn tell_engine(
        &self,
        (config, settings): (&Arc<Config>, &Settings),
        difference: &Difference,
        calendar: Option<&mut Calendar>,
        by: &str,
    ) -> anyhow::Result<String> {
        let names = difference.ended.iter().map(|part| part.name().to_owned());
        let told_anew = calendar.as_ref().map(|_| MAINTENANCE.to_owned());
        let tasks = names.chain([PREFLIGHT.to_owned()]).chain(told_anew).collect();
        let (ended, all_ended) = oneshot::channel();
        self.wiring
            .tasks
            .send(supervise::Order::End { tasks, ended })
            .await?;
        all_ended.await?;
        for part in &difference.ended {
            part.ended(&self.wiring.around);
        }
        let reload = Reload {
            settings: settings.clone(),
            checks_anew: difference.checks_anew.clone(),
            expectations_anew: difference.expectations_anew.clone(),
            rungs: rungs((&self.config, &self.wiring.settings), (config, settings)),
            windows: calendar.map(open_windows),
            by: by.to_owned(),
        };
        let detail = reload.words(&self.wiring.settings);
        // The engine asks all anew; what was still asked by the old ones is nobody's answer.
        self.wiring
            .blocking
            .send_replace(Arc::from(config.fleet.blockers.clone()));
        let (taken, is_taken) = oneshot::channel();
        let order = event_loop::Order::Reload {
            reload: Box::new(reload),
            healer: healer(config, &self.wiring.healing),
            shown: self.show_pushes(config),
            taken,
        };
        self.wiring.engine.send(order).await?;
        is_taken.await?;
        Ok(detail)
    }

    async fn start(
        &self,
        config: &Arc<Config>,
        difference: &Difference,
        calendar: Option<Calendar>,
    ) -> anyhow::Result<()> {
        let around = &self.wiring.around;
        for part in &difference.other_way {
            part.begins_anew(around);
        }
        around.files.sweep();
        let started = difference.started.iter().cloned();
        let mut tasks: Vec<_> = started.map(|part| (part.task(around), Policy::Keep)).collect();
        let (view, metrics) = (self.wiring.view.clone(), self.wiring.metrics.clone());
        tasks.push((looking(Arc::clone(config), view, metrics), Policy::Keep));
        if let Some(calendar) = calendar.filter(|_| !config.maintenance.is_empty()) {
            let events = around.reporting.events.clone();
            tasks.push((maintenance_task(calendar, events), Policy::Keep));
        }
        self.wiring.tasks.send(supervise::Order::Start(tasks)).await?;
        Ok(())
    }

    fn show_pushes(&self, config: &Config) -> Box<dyn FnOnce() + Send + Sync> {
        let (view, pushes) = (self.wiring.view.clone(), Arc::from(config.http.pushes.clone()));
        Box::new(move || view.send_modify(|view| *view = Arc::new(view.with_pushes(pushes))))
    }

    /// What ended parts have told goes, unless others tell there from now on. The engine grants nothing more on it; what it
    /// has granted may be at work.
    fn leave(&mut self, difference: &Difference, parts: &[Part]) {
        let told: BTreeSet<_> = parts.iter().flat_map(Part::tells).collect();
        self.leaving.extend(difference.ended.iter().flat_map(Part::tells));
        self.leaving.retain(|place| !told.contains(place));
        self.forget_who_left();
    }

    fn forget_who_left(&mut self) {
        let progress = self.wiring.progress.borrow();
        self.leaving.retain(|(table, peer)| {
            let at_work = progress.at_work.contains(peer);
            if !at_work {
                table.forget(*peer, &self.wiring.around);
            }
            at_work
        });
        self.gone.retain(|peer, name| {
            let at_work = progress.at_work.contains(peer);
            if !at_work && self.wiring.settings.peer_id(name).is_none() {
                self.wiring.metrics.forget_peer(name);
            }
            at_work
        });
    }

    /// Nothing is left of who is configured no longer.
    fn forget_removed(&mut self, settings: &Settings, parts: &[Part]) {
        let metrics = &self.wiring.metrics;
        let now = self.wiring.around.reporting.clock.now();
        metrics.engine.configured_anew();
        for (id, peer) in self.wiring.settings.peers() {
            if settings.peer_id(&peer.name).is_none() {
                self.resting.insert(id, now);
                metrics.forget_peer(&peer.name);
                if self.wiring.progress.borrow().at_work.contains(&id) {
                    self.gone.insert(id, Arc::clone(&peer.name));
                }
            }
        }
        let names: BTreeSet<&str> = parts.iter().map(Part::name).collect();
        for part in self
            .wiring
            .parts
            .iter()
            .filter(|part| !names.contains(part.name()))
        {
            metrics.tasks.forget(part.name());
        }
    }
}

impl Difference {
    fn between(old: &[Part], new: &[Part]) -> Self {
        let before: BTreeMap<&str, &Part> = old.iter().map(|part| (part.name(), part)).collect();
        let after: BTreeMap<&str, &Part> = new.iter().map(|part| (part.name(), part)).collect();
        let stays = |of: &BTreeMap<&str, &Part>, part: &Part| {
            of.get(part.name()).is_some_and(|other| **other == *part)
        };
        let looks_anew = |part: &&Part| {
            let known = before.get(part.name());
            known.is_none_or(|known| !part.looks_as(known))
        };
        let anew: Vec<&Part> = new.iter().filter(looks_anew).collect();
        let in_a_place = |part: &&&Part| before.contains_key(part.name());
        Self {
            other_way: anew
                .iter()
                .filter(in_a_place)
                .map(|part| (*part).clone())
                .collect(),
            ended: old.iter().filter(|part| !stays(&after, part)).cloned().collect(),
            started: new.iter().filter(|part| !stays(&before, part)).cloned().collect(),
            checks_anew: anew.iter().filter_map(|part| part.check()).collect(),
            expectations_anew: anew.iter().filter_map(|part| part.expectation()).collect(),
        }
    }
}

/// A notice is one line: every mistake and what would be right, without the pictures of where it is.
fn in_one_line(error: &str) -> String {
    let is_picture = |line: &&str| {
        let margin = line.split_once('|').map(|(margin, _)| margin.trim());
        margin.is_some_and(|margin| margin.chars().all(|c| c.is_ascii_digit()))
    };
    let lines = error.lines().map(str::trim);
    let said: Vec<&str> = lines
        .filter(|line| !line.is_empty() && !is_picture(line))
        .collect();
    said.join("; ").replace("; = ", ": ")
}

fn too_late() -> Refusal {
    Refusal::for_now(format!(
        "the configuration could not be read and checked within {} s: is what it lies on away, or Docker?",
        LOADING.as_secs()
    ))
}

/// Of each rung that does what one of before did: which one that was.
fn rungs(
    (before, old): (&Config, &Settings),
    (after, new): (&Config, &Settings),
) -> BTreeMap<(PeerId, u16), u16> {
    let mut same = BTreeMap::new();
    for (id, peer) in new.peers() {
        let Some(known) = old
            .peers
            .get(id.0 as usize)
            .filter(|known| known.name == peer.name)
        else {
            continue;
        };
        let mut free: Vec<u16> = (0u16..).zip(&known.remedies).map(|(rung, _)| rung).collect();
        for (rung, remedy) in (0u16..).zip(&peer.remedies) {
            let does_the_same = |was: &u16| {
                let acts = (before.remedies.get(&(id, *was)), after.remedies.get(&(id, rung)));
                known.remedies[usize::from(*was)].kind == remedy.kind
                    && match acts {
                        (Some(was), Some(is)) => was.does_as(is),
                        (was, is) => was.is_none() && is.is_none(),
                    }
            };
            if let Some(place) = free.iter().position(does_the_same) {
                same.insert((id, rung), free.remove(place));
            }
        }
    }
    same
}

/// Those that are open at its beginning, which it does not tell again.
fn open_windows(calendar: &mut Calendar) -> Vec<(u16, Opened)> {
    let changes = calendar.changes().into_iter();
    changes
        .filter_map(|event| match event {
            Event::Maintenance { window, open } => Some((window, open?)),
            _ => None,
        })
        .collect()
}

/// The executors of this configuration, as the loop wants them.
pub(super) fn healer(config: &Config, around: &remedies::Surroundings) -> Arc<dyn Healer> {
    let around = remedies::Surroundings {
        scrub: config.variables.clone(),
        ..around.clone()
    };
    let executors = Executors::new(config.remedies.clone(), around);
    Arc::new(Executing(Arc::new(executors)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn configuration(text: &str) -> Config {
        let sources = Sources {
            file: Some(("d.toml".into(), text.to_owned())),
            ..Sources::default()
        };
        load(&sources).unwrap_or_else(|report| panic!("{report}"))
    }

    #[test]
    fn a_rung_whose_bounds_change_is_the_rung_that_it_was() {
        let of = |command: &str, bound: u32| {
            configuration(&format!(
                "[capture]\nmax_total = \"{bound}MiB\"\n[peer.a]\nowner = {{ container = \"a\" }}\nremedies = [\n\
                 {{ do = \"capture\", timeout = \"{bound}s\", max_size = \"{bound}KiB\", logs = {bound} }},\n\
                 {{ do = \"exec\", command = [\"{command}\"], timeout = \"{bound}s\" }},\n\
                 {{ do = \"docker\", stop_timeout = \"{bound}s\" }},\n]\n"
            ))
        };
        let same = |before: &Config, after: &Config| -> Vec<(u16, u16)> {
            let [old, new] = [before, after].map(|config| config.engine_settings("b".into()));
            let same = rungs((before, &old), (after, &new));
            same.into_iter().map(|((_, is), was)| (is, was)).collect()
        };
        let before = of("/bin/true", 20);
        assert_eq!(same(&before, &of("/bin/true", 30)), [(0, 0), (1, 1), (2, 2)]);
        assert_eq!(same(&before, &of("/bin/false", 20)), [(0, 0), (2, 2)]);
    }

    #[test]
    fn what_is_refused_again_is_tried_again_ever_later() {
        let first = Refused::again(None, "away".to_owned());
        assert_eq!(first.wait, AGAIN);
        let later = (0..20).fold(first, |before, _| Refused::again(Some(before), "away".to_owned()));
        assert_eq!(later.wait, AGAIN_MOST);
    }

    #[test]
    fn a_refusal_is_told_in_one_line() {
        let error = "d.toml:3:9: error[value]: `grace`: 3 has no unit\n  |\n3 | grace = 3\n  |         ^\n  = write \"3s\"\n\n\
                     d.toml:5:1: error[unknown_key]: there is no key `a|b`\n2 mistakes in the configuration";
        assert_eq!(
            in_one_line(error),
            "d.toml:3:9: error[value]: `grace`: 3 has no unit: write \"3s\"; d.toml:5:1: error[unknown_key]: there is no key \
             `a|b`; 2 mistakes in the configuration"
        );
    }
}
