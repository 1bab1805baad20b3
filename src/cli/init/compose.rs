//! A compose project: as it runs, or as its file describes it. A file is read loosely: what is not as expected is as
//! good as not said, and no variable is looked up. `docker compose config` prints one file that has everything in it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use serde_json::Value;

use crate::docker::Composed;

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Services that are taken.
const MAX_SERVICES: usize = 256;

/// One project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Project {
    /// Where it was found, in words.
    pub(super) source: String,
    pub(super) name: Option<String>,
    pub(super) services: Vec<Service>,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) name: String,
    /// Its container's name, if that is fixed.
    pub(super) container: Option<String>,
    pub(super) image: String,
    /// The URL that its health check asks, as seen from another container.
    pub(super) health: Option<String>,
    /// The service in whose network namespace it lives.
    pub(super) network_of: Option<String>,
    /// Ports on the host, and the container's ports behind them.
    pub(super) published: Vec<(u16, u16)>,
}

impl Project {
    /// # Errors
    /// If it is no compose file.
    pub(super) fn read(file: &Path) -> Result<Self, String> {
        let shown = file.display();
        let mut text = String::new();
        let read =
            std::fs::File::open(file).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
        read.map_err(|error| format!("{shown}: {error}"))?;
        if text.len() as u64 > MAX_FILE {
            return Err(format!(
                "{shown} is longer than {MAX_FILE} bytes: no compose file"
            ));
        }
        let mut project = Self::parse(&text).map_err(|why| format!("{shown}: {why}"))?;
        project.source = shown.to_string();
        if project.name.is_none() {
            // As compose does it.
            let dir = file.canonicalize().ok();
            let dir = dir.as_deref().and_then(Path::parent).and_then(Path::file_name);
            project.name = dir
                .map(|dir| project_name(&dir.to_string_lossy()))
                .filter(|name| !name.is_empty());
        }
        Ok(project)
    }

    /// # Errors
    /// If the text is no YAML (or JSON), or has no services.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let file: Value = serde_saphyr::from_str(text).map_err(|error| {
            // The parser shows the place with its surroundings; secrets may stand there.
            let said = error.to_string();
            format!(
                "cannot be read as YAML: {}",
                said.lines().next().unwrap_or_default()
            )
        })?;
        let services = file.get("services").and_then(Value::as_object);
        let services = services.ok_or("it has no `services`: is it a compose file?")?;
        Ok(Self {
            source: String::new(),
            name: text_of(&file, "name"),
            services: services
                .iter()
                .take(MAX_SERVICES)
                .map(|(name, said)| Service::of(name, said))
                .collect(),
        })
    }

    /// The one that runs: `wanted`, or the only one.
    ///
    /// # Errors
    /// Why none was taken.
    pub(super) fn running(all: &[Composed], wanted: Option<&str>) -> Result<Self, String> {
        let mut names: Vec<&str> = all.iter().map(|container| container.project.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let name = match (wanted, names.as_slice()) {
            (Some(wanted), _) if names.contains(&wanted) => wanted,
            (None, [only]) => only,
            (_, []) => return Err("no compose project runs here".to_owned()),
            (Some(wanted), _) => {
                return Err(format!(
                    "no project {wanted:?} runs here; there are {}",
                    names.join(", ")
                ));
            }
            (None, _) => {
                return Err(format!(
                    "several projects run here: {}; name one with --project",
                    names.join(", ")
                ));
            }
        };
        let containers: Vec<&Composed> = all.iter().filter(|container| container.project == name).collect();
        let mut services: BTreeMap<&str, Service> = BTreeMap::new();
        for container in containers.iter().take(MAX_SERVICES) {
            let network = container.network_of.as_ref();
            let other = containers.iter().find(|other| network == Some(&other.id));
            services.insert(
                &container.service,
                Service {
                    name: container.service.clone(),
                    image: container.image.clone(),
                    published: container.published.clone(),
                    network_of: other.map(|other| other.service.clone()),
                    ..Service::default()
                },
            );
        }
        Ok(Self {
            source: format!("the running project {name:?}"),
            name: Some(name.to_owned()),
            services: services.into_values().collect(),
        })
    }

    fn redis(&self) -> Option<&Service> {
        self.services.iter().find(|service| service.is_redis())
    }

    /// The port of this machine on which the project's Redis is published.
    pub(super) fn published_redis(&self) -> Option<u16> {
        let published = &self.redis()?.published;
        published
            .iter()
            .find(|(_, inside)| *inside == 6379)
            .map(|(outside, _)| *outside)
    }

    /// Where the project's own containers find its Redis.
    pub(super) fn redis_inside(&self) -> Option<String> {
        Some(format!("redis://{}:6379", self.redis()?.name))
    }

    /// Those that are worth watching.
    pub(super) fn watched(&self) -> impl Iterator<Item = &Service> {
        self.services
            .iter()
            .filter(|service| !service.is_redis() && !service.is_defib())
    }
}

impl Service {
    fn of(name: &str, said: &Value) -> Self {
        let network = text_of(said, "network_mode");
        let network_of = network.and_then(|mode| mode.strip_prefix("service:").map(str::to_owned));
        let host = network_of.as_deref().unwrap_or(name);
        Self {
            name: name.to_owned(),
            container: text_of(said, "container_name").filter(|name| !name.contains('$')),
            image: text_of(said, "image").unwrap_or_default(),
            health: health(said).and_then(|url| from_outside(&url, host)),
            published: said
                .get("ports")
                .and_then(Value::as_array)
                .map_or_else(Vec::new, |ports| ports.iter().filter_map(port).collect()),
            network_of,
        }
    }

    fn runs(&self, programs: &[&str]) -> bool {
        let image = self.image.rsplit('/').next().unwrap_or_default();
        let image = image.split([':', '@']).next().unwrap_or_default();
        programs
            .iter()
            .any(|program| image == *program || (image.is_empty() && self.name == *program))
    }

    pub(super) fn is_redis(&self) -> bool {
        self.runs(&["redis", "valkey", "redis-stack", "redis-stack-server", "keydb"])
    }

    /// One whose restart is no small shock.
    pub(super) fn is_store(&self) -> bool {
        self.runs(&[
            "postgres",
            "timescaledb",
            "timescaledb-ha",
            "mysql",
            "mariadb",
            "mongo",
            "influxdb",
            "clickhouse-server",
            "rabbitmq",
            "kafka",
            "nats",
            "minio",
            "elasticsearch",
        ])
    }

    fn is_defib(&self) -> bool {
        self.runs(&["defib"])
    }
}

/// What compose calls a project after its directory.
fn project_name(dir: &str) -> String {
    let kept = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let name: String = dir.to_lowercase().chars().filter(kept).collect();
    name.trim_start_matches(['_', '-']).to_owned()
}

fn text_of(of: &Value, key: &str) -> Option<String> {
    of.get(key)?.as_str().map(str::to_owned)
}

/// `"8080:80"`, `"127.0.0.1:8080:80/tcp"`, or `{ published: 8080, target: 80 }`.
fn port(said: &Value) -> Option<(u16, u16)> {
    let number = |value: Option<&Value>| {
        let value = value?;
        let number = value.as_u64().map(|number| number.to_string());
        number.or_else(|| value.as_str().map(str::to_owned))?.parse().ok()
    };
    if said.is_object() {
        return Some((number(said.get("published"))?, number(said.get("target"))?));
    }
    let text = said.as_str()?.split('/').next()?;
    let (outside, inside) = text.rsplit_once(':')?;
    Some((outside.rsplit(':').next()?.parse().ok()?, inside.parse().ok()?))
}

/// The first http URL in the health check's command: what `curl`, `wget` and scripts ask.
fn health(said: &Value) -> Option<String> {
    let test = said.get("healthcheck")?.get("test")?;
    let words = match test {
        Value::Array(words) => words
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(" "),
        Value::String(words) => words.clone(),
        _ => return None,
    };
    let (at, _) = words.match_indices("http://").next()?;
    let url: String = words[at..]
        .chars()
        .take_while(|c| !c.is_whitespace() && !"\"'|;&)<>\\$".contains(*c))
        .collect();
    Some(url)
}

/// The same question from another container; `None` if it is none that this node could ask.
fn from_outside(url: &str, host: &str) -> Option<String> {
    let target = crate::http_client::Target::parse(url).ok()?;
    let own = ["localhost", "127.0.0.1", "0.0.0.0", "::1"].contains(&target.host.as_str());
    // A query may hold a token.
    let path = target.path.split('?').next().unwrap_or("/");
    let host = if own { host } else { &target.host };
    let there = format!("http://{host}:{}{path}", target.port);
    crate::http_client::Target::parse(&there).ok()?;
    Some(there)
}

/// Names of services by what they are called in channels: `telemetry` speaks on `telemetry_heartbeat`.
pub(super) fn speaker<'s>(services: &[&'s Service], channel: &str) -> Option<&'s Service> {
    let words: BTreeMap<usize, &'s Service> = services
        .iter()
        .filter(|service| channel.contains(service.name.as_str()))
        .map(|service| (service.name.len(), *service))
        .collect();
    words.into_values().next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
name: base-station
x-common: &common
  restart: unless-stopped
  environment:
    REDIS_URL: redis://:hunter2@redis:6379
services:
  redis:
    image: docker.io/library/redis:7.2-alpine
    ports: ["127.0.0.1:16379:6379"]
  telemetry:
    <<: *common
    image: universal-telemetry:latest
    container_name: daq-telemetry
    ports:
      - published: 9080
        target: 9080
    healthcheck:
      test: ["CMD", "curl", "-f", "http://localhost:9080/health?token=hunter2"]
  bridge:
    image: bridge
    network_mode: "service:telemetry"
    healthcheck:
      test: wget -q http://127.0.0.1:9090/ || exit 1
  named: { image: x, container_name: "${PREFIX}-x" }
  nothing:
"#;

    #[test]
    fn services_are_read_with_their_anchors() {
        let project = Project::parse(FILE).unwrap();
        assert_eq!(project.name.as_deref(), Some("base-station"));
        assert_eq!(project.published_redis(), Some(16379));
        assert_eq!(project.redis_inside().as_deref(), Some("redis://redis:6379"));
        let watched: Vec<&Service> = project.watched().collect();
        let names: Vec<&str> = watched.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(names, ["bridge", "named", "nothing", "telemetry"]);
        let telemetry = watched[3];
        assert_eq!(telemetry.container.as_deref(), Some("daq-telemetry"));
        assert_eq!(telemetry.health.as_deref(), Some("http://telemetry:9080/health"));
        assert_eq!(telemetry.published, [(9080, 9080)]);
        assert_eq!(watched[0].health.as_deref(), Some("http://telemetry:9090/"));
        assert_eq!(watched[1].container, None);
        assert_eq!(speaker(&watched, "telemetry_heartbeat"), Some(telemetry));
        assert_eq!(speaker(&watched, "can_messages"), None);
    }

    #[test]
    fn of_several_projects_that_run_one_has_to_be_named() {
        let container = |project: &str, service: &str, network: Option<&str>| Composed {
            id: format!("id-{service}"),
            project: project.to_owned(),
            service: service.to_owned(),
            image: service.to_owned(),
            published: vec![(16379, 6379)],
            network_of: network.map(str::to_owned),
        };
        let mut all = vec![
            container("daq", "redis", None),
            container("daq", "app", None),
            container("daq", "side", Some("id-app")),
        ];
        let project = Project::running(&all, None).unwrap();
        assert_eq!(project.name.as_deref(), Some("daq"));
        assert_eq!(project.published_redis(), Some(16379));
        assert_eq!(project.services[2].network_of.as_deref(), Some("app"));
        all.push(container("sim", "app", None));
        assert!(Project::running(&all, None).unwrap_err().contains("daq, sim"));
        assert_eq!(Project::running(&all, Some("sim")).unwrap().services.len(), 1);
        assert!(Project::running(&all, Some("x")).is_err());
        assert!(Project::running(&[], None).is_err());
    }

    #[test]
    fn what_docker_compose_config_prints_as_json_is_read_too() {
        let json = r#"{"name": "sim", "services": {"app": {"image": "app", "ports": [{"target": 80, "published": "8080"}]}}}"#;
        let project = Project::parse(json).unwrap();
        assert_eq!(project.services[0].published, [(8080, 80)]);
    }

    #[test]
    fn what_is_no_compose_file_is_refused_without_repeating_it() {
        for text in [
            "",
            "hunter2",
            "- hunter2",
            "services: hunter2",
            "a: [hunter2",
            "a: &a [*a, *a]\nservices: 1",
        ] {
            let why = Project::parse(text).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn a_file_that_unfolds_for_ever_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..10 {
            let before = format!("*a{}", n - 1);
            let ten = [before.as_str(); 10].join(", ");
            text.extend([format!("a{n}: &a{n} [{ten}]\n")]);
        }
        assert!(Project::parse(&(text + "services: {}\n")).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived(text in "[a-z:\\-\\[\\]{}&*<!|> \n\"'$0-9]{0,200}") {
            let _ = Project::parse(&text);
            let _ = Project::parse(&format!("services:\n  a:\n    {text}"));
        }
    }
}
