//! What may be configured, and what is said of what may not.

use defib::config::explain::explain;
use defib::config::{Sources, load};
use defib::notify::Kind;
use defib::secret::Secret;

use crate::config::sources;

fn with_secrets(text: &str) -> Sources {
    let mut sources = sources(text);
    for (name, value) in [
        ("SLACK_URL", "https://hooks.slack.com/services/T/B/s3cret"),
        ("HOOK_TOKEN", "s3cret"),
        ("HOOK_KEY", "s3cret"),
    ] {
        sources.env.insert(name.to_owned(), value.to_owned());
    }
    sources
}

#[test]
fn the_examples_of_the_docs_load() {
    let docs = include_str!("../../../docs/notifications.md");
    let blocks: Vec<_> = docs
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(blocks.len() >= 3, "{}", blocks.len());
    for block in blocks {
        let config = load(&with_secrets(block)).unwrap_or_else(|report| panic!("{report}\n{block}"));
        assert!(!config.notify.is_empty(), "{block}");
        let told = explain(&config);
        assert!(
            !told.contains("s3cret") && !told.contains("hooks.slack"),
            "{told}"
        );
    }
}

#[test]
fn every_word_of_a_template_is_in_the_docs() {
    let docs = include_str!("../../../docs/notifications.md");
    for (_, name, about) in defib::notify::template::Word::ALL {
        let row = format!("| `{name}` | {} |", about.trim());
        assert!(docs.contains(&row), "docs/notifications.md lacks the row\n{row}");
    }
}

#[test]
fn a_template_is_a_table_whose_words_exist() {
    let good = r#"
[notify.slack]
url = { env = "SLACK_URL" }
escape = "slack"
template.text = "*{peer}*"
template.blocks = [{ type = "section", n = 3, yes = true, text = { text = "{{{why}}} {episode}" } }]
"#;
    let config = load(&with_secrets(good)).unwrap_or_else(|report| panic!("{report}"));
    let Kind::Json { template, .. } = &config.notify[0].kind else {
        panic!()
    };
    assert!(template.is_some());
    assert_eq!(config.notify[0].url, Secret::Env("SLACK_URL".to_owned()));

    let bad = "[notify.slack]\nurl = { env = \"SLACK_URL\" }\n\
               template = { text = \"{peer} is {livenes}\", more = [\"{x}\", \"}\"], at = 2026-01-01 }";
    let report = load(&with_secrets(bad)).unwrap_err().to_string();
    for told in [
        "defib.toml:3:32: error[unknown_word]: `template`: there is no word `{livenes}`",
        "defib.toml:3:53: error[unknown_word]: `template`: there is no word `{x}`",
        "a `}` stands alone",
        "JSON has no form for a date",
        "4 mistakes",
    ] {
        assert!(report.contains(told), "{told}\n{report}");
    }
    let near = load(&with_secrets(&bad.replace("livenes", "evidense")))
        .unwrap_err()
        .to_string();
    assert!(near.contains("did you mean evidence?"), "{near}");
}

#[test]
fn what_is_wrong_is_told_without_the_secret() {
    for (text, told) in [
        ("[notify.a]\n", "`notify.a.url` must be given"),
        (
            "[notify.a]\nurl = \"https://x@s3cret/\"",
            "holds a user or password",
        ),
        (
            "[notify.a]\nurl = \"s3cret\"",
            "must begin with http:// or https://",
        ),
        ("[notify.a]\nurl = { env = \"NOWHERE\" }", "the variable NOWHERE"),
        ("[notify.A]\nurl = \"http://a/\"", "is not a name for a target"),
        (
            "[notify.a]\nurl = \"http://a/\"\nresend = \"1m\"",
            "`resend` is for type = \"alertmanager\"",
        ),
        (
            "[notify.a]\ntype = \"alertmanager\"\nurl = \"http://a/\"\ntemplate = { a = \"b\" }",
            "`template` is for type = \"json\"",
        ),
        (
            "[notify.a]\nurl = \"http://a/\"\ntemplate = \"{peer}\"",
            "takes a table",
        ),
        (
            "[notify.a]\nurl = \"http://a/\"\nevents = [\"gave_upp\"]",
            "did you mean gave_up?",
        ),
        (
            "[notify.a]\nurl = \"http://a/\"\nevents = \"gave_up\"",
            "takes a list of some of",
        ),
        (
            "[notify.a]\nurl = \"http://a/\"\npeers = [\"feed\"]",
            "there is no peer `feed`",
        ),
        (
            "[notify.a]\nurl = \"http://a/\"\nheaders = { Host = \"s3cret\" }",
            "defib sets itself",
        ),
        (
            "[notify.a]\nurl = \"http://a/\"\nheaders = { \"a b\" = \"s3cret\" }",
            "no name of a header",
        ),
        (
            "[notify.a]\nurl = \"http://a/\"\nheaders = { A = [\"s3cret\"] }",
            "this is a list",
        ),
        ("[notify.a]\nurl = \"http://a/\"\nheaders = 3", "takes a table"),
        (
            "[notify.a]\nurl = \"http://a/\"\nuri = \"s3cret\"",
            "no key `uri`",
        ),
        (
            "[peer.b]\nowner = { pid = 1 }\nremedies = [{ do = \"notify\", to = \"slack\" }]",
            "there is no [notify.slack]",
        ),
        (
            "[notify.slack]\nurl = \"http://a/\"\n[peer.b]\nowner = { pid = 1 }\nremedies = [{ do = \"notify\", to = \"slak\" }]",
            "did you mean slack?",
        ),
    ] {
        let report = load(&with_secrets(text)).expect_err(text).to_string();
        assert!(report.contains(told), "{told}\n{report}");
        assert!(!report.contains("s3cret"), "{report}");
    }
}

#[test]
fn the_canonical_rung_is_for_whoever_has_no_incarnation() {
    let text = r#"
[notify.slack]
url = { env = "SLACK_URL" }
[peer.recorder]
checks.status = { type = "redis_key", key = "timescale:status", age = "ts", max_age = "30s", redis = "redis://r" }
remedies = [{ do = "notify", to = "slack" }]
"#;
    let config = load(&with_secrets(text)).unwrap_or_else(|report| panic!("{report}"));
    assert!(explain(&config).contains("a message to slack, and nothing else"));
}

#[test]
fn a_peer_that_dockers_labels_may_bring_may_be_named() {
    let text = |discover: &str| {
        format!(
            "docker.discover = \"{discover}\"\n[notify.hook]\nurl = \"http://h/\"\npeers = [\"telemetry\"]\n"
        )
    };
    let report = load(&sources(&text("off"))).unwrap_err().to_string();
    assert!(report.contains("there is no peer `telemetry`"), "{report}");
    let config = load(&sources(&text("project"))).unwrap_or_else(|report| panic!("{report}"));
    assert!(config.notify[0].peers.as_ref().unwrap().contains("telemetry"));
}
