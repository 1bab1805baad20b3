//! `defib notify --test` and `defib doctor`, as people run them.

use super::receiver::{Behaviour, Receiver};
use crate::support::node::defib;
use crate::support::ports::free_port;

fn config(dir: &tempfile::TempDir, targets: &[(&str, String)]) -> String {
    let table = |(name, url): &(&str, String)| {
        format!("[notify.{name}]\nurl = \"{url}\"\nhmac = \"k3y\"\ntimeout = \"2s\"\n")
    };
    let text: Vec<String> = targets.iter().map(table).collect();
    let path = dir.path().join("defib.toml");
    std::fs::write(&path, text.concat()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_test_message_is_sent_and_the_answer_told() {
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) = (Receiver::good(), Receiver::start(Behaviour::Answers(403, "")));
    let nobody = format!("127.0.0.1:{}", free_port());
    let file = config(
        &dir,
        &[
            ("good", good.url()),
            ("bad", bad.url()),
            ("gone", format!("http://{nobody}/s3cret")),
        ],
    );
    let (code, said) = defib(&["notify", "--config", &file, "--test", "good"]);
    assert_eq!(
        (code, said.trim()),
        (Some(0), "good: taken: status 200 its answer")
    );
    let got = good.one("the test", |_| true);
    assert_eq!(got.event(), "test");
    assert!(got.headers["x-defib-signature"].starts_with("t="));
    let (code, said) = defib(&["notify", "--config", &file, "--test"]);
    assert_eq!(code, Some(1), "{said}");
    for line in [
        "good: taken",
        "bad: NOT taken: status 403 its answer",
        "gone: NOT taken: cannot connect",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert!(!said.contains("s3cret") && !said.contains("k3y"), "{said}");
    let (code, said) = defib(&["notify", "--config", &file, "--test", "god"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("there are: good, bad, gone"), "{said}");
    assert_eq!(
        defib(&["notify", "--config", &file]).0,
        Some(2),
        "it does nothing else"
    );
}

#[test]
fn doctor_says_whether_a_target_can_be_reached_and_shows_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let good = Receiver::good();
    let file = config(&dir, &[("good", good.url())]);
    let (code, said) = defib(&["doctor", "--config", &file]);
    assert_eq!(code, Some(0), "{said}");
    let line = said.lines().find(|line| line.contains("notify good")).unwrap();
    assert!(
        line.starts_with("ok") && line.contains("defib notify --test good"),
        "{said}"
    );
    let text = std::fs::read_to_string(&file).unwrap();
    let missing = text.replace(&format!("\"{}\"", good.url()), "{ file = \"/nowhere/url\" }");
    std::fs::write(&file, missing).unwrap();
    let (code, said) = defib(&["doctor", "--config", &file]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("/nowhere/url"), "{said}");
    assert!(good.got().is_empty(), "nothing was sent");
}
