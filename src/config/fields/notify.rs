//! The fields of the targets of notifications.

use super::super::schema::Section;
use super::super::schema::Takes::{Headers, OneOf, Secret, Template, Texts, Time, Words};
use super::super::schema::Unless::{Absent, Derived, Is, Must};
use super::{DAY, HOUR, field, ms, secs};
use crate::notify::Event;

/// `[notify.NAME]`
pub const NOTIFY: Section = Section {
    title: "[notify.NAME]",
    sample: "[notify.slack]",
    about: "A receiver that is told what happens, by an HTTP POST for each episode and change (docs/notifications.md). One that \
            is slow, refuses or is away holds up nothing: messages are tried again with backoff, and of an episode the newest \
            state replaces older ones.",
    fields: &[
        field(
            "type",
            OneOf(&["json", "alertmanager"]),
            Is("\"json\""),
            "What it understands: JSON of any form, or Prometheus Alertmanager's API v2.",
        ),
        field(
            "url",
            Secret,
            Must("\"http://127.0.0.1:8080/hook\""),
            "`http://` or `https://`. Whoever knows the URL of a chat's hook may write there: it is shown nowhere. With \
             `alertmanager`, `/api/v2/alerts` is put behind it.",
        ),
        field(
            "headers",
            Headers,
            Absent("{ X-Token = { env = \"NOTIFY_TOKEN\" } }"),
            "Sent with each message.",
        ),
        field(
            "bearer",
            Secret,
            Absent("{ env = \"NOTIFY_TOKEN\" }"),
            "Sent as `Authorization: Bearer …`.",
        ),
        field(
            "hmac",
            Secret,
            Absent("{ file = \"/run/secrets/hmac\" }"),
            "Each message is signed with it: `X-Defib-Signature: t=SECONDS,v1=HEX`, HMAC-SHA256 over SECONDS, a dot and the body.",
        ),
        field(
            "template",
            Template,
            Absent("{ text = \"{summary}\" }"),
            "The JSON that is sent; without it, an object of all words.",
        ),
        field(
            "escape",
            OneOf(&["json", "slack"]),
            Is("\"json\""),
            "`slack`: `&`, `<` and `>` in words are written as Slack asks for, so that a peer's last words call nobody.",
        ),
        field(
            "events",
            Words(Event::CHOICE),
            Derived("all", "[\"gave_up\", \"recovered\"]"),
            "What it is told. The end of an alert is told to an Alertmanager in any case.",
        ),
        field(
            "peers",
            Texts(4096, 63),
            Derived("all", "[\"feed\"]"),
            "Of whom; with `docker.discover`, a name may be one that Docker's labels bring. What concerns the whole node (mass \
             silence) is told in any case.",
        ),
        field(
            "timeout",
            Time(ms(100), secs(60)),
            Is("\"5s\""),
            "Bound on one attempt, from resolving the name to the head of the answer.",
        ),
        field(
            "retry_for",
            Time(secs(0), DAY),
            Is("\"15m\""),
            "How long a message is tried again (1 s after the first failure, up to 1 min; at most 20 times).",
        ),
        field(
            "resend",
            Time(secs(5), HOUR),
            Derived("1m with `type = \"alertmanager\"`", "\"1m\""),
            "An open episode is told again this often; its alert ends by itself after four times that.",
        ),
    ],
    tables: &[],
    later: &[],
};
