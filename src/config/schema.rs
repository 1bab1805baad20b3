//! What a field list is made of: tables, fields, what they take, and that in words.

use std::time::Duration;

use crate::engine::cause::Cause;

/// A table of the configuration.
#[derive(Debug)]
pub struct Section {
    /// As people name it: `[bus]`, `[peer.NAME]`.
    pub title: &'static str,
    /// Its table in config/defib.toml, whose header may need other lines before it.
    pub sample: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Its fields.
    pub fields: &'static [Field],
    /// Its tables and lists of tables.
    pub tables: &'static [&'static str],
    /// Keys that the design knows and this version does not.
    pub later: &'static [&'static str],
}

/// One field.
#[derive(Debug)]
pub struct Field {
    /// Its key.
    pub key: &'static str,
    /// What may be written.
    pub takes: Takes,
    /// What holds if it is not.
    pub unless: Unless,
    /// What it means; what it must be larger than.
    pub about: &'static str,
}

/// What may be written for a field.
#[derive(Clone, Copy, Debug)]
pub enum Takes {
    /// `true` or `false`.
    Bool,
    /// A whole number within bounds.
    Int(i64, i64),
    /// Any number.
    Number,
    /// A string, a number, `true` or `false`.
    Scalar,
    /// A time with its unit, within bounds.
    Time(Duration, Duration),
    /// Text of at most so many bytes; not empty.
    Text(usize),
    /// A name of nodes, groups and peers.
    Name,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// A list of at most so many texts of at most so many bytes.
    Texts(usize, usize),
    /// A list of causes that lie in the peer.
    Causes,
    /// A secret: `{ env = … }`, `{ file = … }`, or the text itself.
    Secret,
    /// An IP address and a port.
    Address,
    /// A path of a file.
    Path,
    /// `http://` or `https://`.
    Url,
    /// `m of n`.
    FailAfter,
    /// A status or a range of them.
    Statuses,
    /// A size in bytes with its unit, within bounds.
    Size(u64, u64),
    /// A port, or an IP address and a port.
    Listens,
    /// A list of ports.
    Ports,
    /// A list of exit codes.
    Codes,
    /// A list of users, by number.
    Users,
    /// Series of a metrics page.
    Series,
    /// What `tracing-subscriber` takes.
    LogFilter,
    /// A list of some of these.
    Words(&'static [&'static str]),
    /// A table of headers, each a secret.
    Headers,
    /// A table that becomes JSON, with words in its texts.
    Template,
}

/// What holds if a field is not written. Values are TOML.
#[derive(Clone, Copy, Debug)]
pub enum Unless {
    /// It must be; the text is an example.
    Must(&'static str),
    /// This value.
    Is(&'static str),
    /// Nothing; the text is an example.
    Absent(&'static str),
    /// What the first text says; the second is an example.
    Derived(&'static str, &'static str),
}

/// Causes that a remedy may follow, as written.
pub fn peer_causes() -> Vec<&'static str> {
    Cause::ALL
        .iter()
        .filter(|cause| cause.lies_in_peer())
        .map(|cause| cause.as_str())
        .collect()
}

/// A time as people write it.
pub fn time(value: Duration) -> String {
    humantime::format_duration(value).to_string()
}

/// Units of a size, the largest first.
pub const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A size as people write it, in the largest unit of which it is a multiple.
pub fn size(bytes: u64) -> String {
    let fits = UNITS.into_iter().find(|(_, unit)| bytes.is_multiple_of(*unit));
    let (name, unit) = fits.unwrap_or(("B", 1));
    format!("{}{name}", bytes / unit)
}

use Takes::{
    Address, Bool, Causes, Codes, FailAfter, Headers, Int, Listens, LogFilter, Name, Number, OneOf, Path,
    Ports, Scalar, Secret, Series, Size, Statuses, Template, Text, Texts, Time, Url, Users, Words,
};
use Unless::{Absent, Derived, Is, Must};

impl Takes {
    /// In words: "a time from 100ms to 1m".
    pub fn describe(self) -> String {
        match self {
            Bool => "true or false".to_owned(),
            Int(low, high) => format!("a whole number from {low} to {high}"),
            Number => "a number".to_owned(),
            Scalar => "a text, a number, true or false".to_owned(),
            Time(low, high) => format!("a time from {} to {}", time(low), time(high)),
            Text(max) => format!("a text of 1 to {max} bytes"),
            Name => "a name: a-z, 0-9, then also _ . -; at most 63".to_owned(),
            OneOf(all) => format!("one of {}", all.join(", ")),
            Texts(many, max) => format!("a list of at most {many} texts of 1 to {max} bytes"),
            Causes => format!("a list of {}", peer_causes().join(", ")),
            Secret => "{ env = \"NAME\" }, { file = \"/path\" }, or the text itself".to_owned(),
            Address => "an IP address and a port, as in 127.0.0.1:7337 or [::1]:7337".to_owned(),
            Path => "an absolute path".to_owned(),
            Url => "an http:// or https:// URL without a user or password".to_owned(),
            FailAfter => "\"m of n\" with 1 <= m <= n <= 64".to_owned(),
            Statuses => "a status or a range of them from 100 to 599, as in 204 or \"200-299\"".to_owned(),
            Size(low, high) => format!("a size from {} to {}, as in \"512MiB\"", size(low), size(high)),
            Listens => "a port, or \"ADDRESS:PORT\", as in 9080 or \"127.0.0.1:9080\"".to_owned(),
            Ports => "a list of 1 to 16 ports".to_owned(),
            Codes => "a list of at most 16 exit codes from 0 to 125".to_owned(),
            Users => "a list of 1 to 16 user ids".to_owned(),
            Series => "series, as in open_connections or queue_depth{queue=\"out\"}; = and !=".to_owned(),
            Words(all) => format!("a list of some of {}", all.join(", ")),
            Headers => {
                "a table of names, each with a text, { env = \"NAME\" } or { file = \"/path\" }".to_owned()
            }
            Template => "a table that becomes JSON; each text may hold {word}s".to_owned(),
            LogFilter => "a level (error, warn, info, debug, trace), also per module".to_owned(),
        }
    }
}

impl Section {
    /// The field with this key.
    pub fn field(&self, key: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.key == key)
    }
}

impl Unless {
    /// In words, for the documents.
    pub fn in_words(self) -> String {
        match self {
            Must(_) => "must be given".to_owned(),
            Is(value) => format!("`{value}`"),
            Absent(_) => "none".to_owned(),
            Derived(words, _) => words.to_owned(),
        }
    }
}
