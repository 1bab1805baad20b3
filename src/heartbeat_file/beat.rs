//! What one heartbeat says.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::stamp::Stamp;
use crate::http_client::lookup;

/// A heartbeat: any JSON object. What each field is worth is asked of it by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Beat(Value);

impl Beat {
    /// Reads what a writer left. Of two fields of one name the later one counts, as in Python. What Python's `json`
    /// writes and JSON does not know (`NaN`, `Infinity`) reads as null.
    ///
    /// # Errors
    /// In words, if it is not a whole JSON object in UTF-8: a writer that died in the middle leaves less.
    pub fn parse(content: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(content).map_err(|_| "it is not UTF-8".to_owned())?;
        if text.trim().is_empty() {
            return Err("it is empty".to_owned());
        }
        let value = serde_json::from_str(text).or_else(|error| match without_nan(text) {
            Cow::Borrowed(_) => Err(error),
            Cow::Owned(text) => serde_json::from_str(&text),
        });
        match value {
            Ok(Value::Object(fields)) => Ok(Self(Value::Object(fields))),
            Ok(_) => Err("it is not a JSON object".to_owned()),
            Err(error) => Err(format!("it is not a whole JSON object: {error}")),
        }
    }

    /// The field at this path: keys and indices, separated by dots.
    pub fn field(&self, path: &str) -> Option<&Value> {
        lookup(&self.0, path)
    }

    /// When it was made, by the field at this path. `None`: it has none.
    ///
    /// # Errors
    /// In words, if that is no date.
    pub fn stamp(&self, path: &str) -> Result<Option<Stamp>, String> {
        let value = self.field(path);
        let stamp = value.map(|value| Stamp::parse(value).map_err(|wrong| format!("its {path} {wrong}")));
        stamp.transpose()
    }

    /// The number of the process that wrote it, in that process's own pid namespace. `None`: it has none.
    ///
    /// # Errors
    /// In words, if no process has such a number.
    pub fn pid(&self) -> Result<Option<u32>, String> {
        let Some(value) = self.field("pid").filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let number = value.as_u64().and_then(|pid| i32::try_from(pid).ok());
        match number.and_then(|pid| u32::try_from(pid).ok()) {
            Some(pid @ 1..) => Ok(Some(pid)),
            _ => {
                let shown: String = value.to_string().chars().take(64).collect();
                Err(format!("its pid {shown} is not a process number"))
            }
        }
    }

    /// The machine on which it was written, as that calls itself.
    pub fn hostname(&self) -> Option<&str> {
        self.field("hostname")?.as_str()
    }

    /// All of it.
    pub fn into_fields(self) -> Map<String, Value> {
        match self.0 {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }
}

/// The text with `null` for each `NaN`, `Infinity` and `-Infinity` outside of strings; borrowed if there is none.
fn without_nan(text: &str) -> Cow<'_, str> {
    const WORDS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];
    let bytes = text.as_bytes();
    let (mut out, mut copied) = (String::new(), 0);
    let (mut at, mut quoted) = (0, false);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b'N' | b'I' | b'-' if !quoted => {
                let word = WORDS.iter().find(|word| bytes[at..].starts_with(word.as_bytes()));
                if let Some(word) = word {
                    out.push_str(&text[copied..at]);
                    out.push_str("null");
                    at += word.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn beat(text: &str) -> Beat {
        Beat::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn s27_what_is_no_whole_object_is_refused() {
        for (content, why) in [
            (&b""[..], "it is empty"),
            (b" \n", "it is empty"),
            (b"{", "not a whole JSON object"),
            (b"{\"timestamp\": \"2026", "not a whole JSON object"),
            (b"{} {}", "not a whole JSON object"),
            (b"\xef\xbb\xbf{}", "not a whole JSON object"),
            (b"[]", "not a JSON object"),
            (b"\"x\"", "not a JSON object"),
            (b"NaN", "not a JSON object"),
            (b"{\"a\": \"\xff\"}", "not UTF-8"),
            (b"\x00\x01\x02", "not a whole JSON object"),
        ] {
            let error = Beat::parse(content).unwrap_err();
            assert!(error.contains(why), "{content:?}: {error}");
        }
        let deep = format!("{{\"a\": {}", "[".repeat(60_000));
        assert!(Beat::parse(deep.as_bytes()).unwrap_err().contains("recursion"));
        let huge = format!("{{\"a\": 1{}}}", "0".repeat(50_000));
        assert!(Beat::parse(huge.as_bytes()).unwrap_err().contains("out of range"));
    }

    #[test]
    fn of_two_fields_of_one_name_the_later_one_counts() {
        assert_eq!(beat(r#"{"pid": 1, "pid": 2}"#).pid(), Ok(Some(2)));
    }

    #[test]
    fn what_python_writes_for_a_number_that_is_none_is_read() {
        let nan = beat(
            r#"{"metadata": {"pnl": NaN, "high": Infinity, "low": [-Infinity, -1]}, "said": "NaN \" Infinity"}"#,
        );
        assert!(nan.field("metadata.pnl").unwrap().is_null());
        assert!(nan.field("metadata.low.0").unwrap().is_null());
        assert_eq!(nan.field("metadata.low.1").unwrap(), -1);
        assert_eq!(nan.field("said").unwrap(), "NaN \" Infinity");
    }

    #[test]
    fn s29_a_number_that_no_process_has_is_refused() {
        assert_eq!(beat("{}").pid(), Ok(None));
        assert_eq!(beat(r#"{"pid": null}"#).pid(), Ok(None));
        assert_eq!(beat(r#"{"pid": 4711}"#).pid(), Ok(Some(4711)));
        for wrong in [
            "0",
            "-1",
            "1.5",
            "2147483648",
            "1e3",
            "\"1\"",
            "true",
            "[1]",
            "99999999999999999999999",
        ] {
            let error = beat(&format!("{{\"pid\": {wrong}}}")).pid().unwrap_err();
            assert!(error.contains("not a process number"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Beat::parse(&bytes);
        }

        #[test]
        fn any_cut_of_a_heartbeat_but_the_whole_is_refused(cut in 0usize..110) {
            let whole = r#"{"timestamp": "2026-11-22T12:00:00+00:00", "pid": 7, "hostname": "h", "metadata": {"x": NaN, "é": "\""}}"#;
            let bytes = whole.as_bytes();
            prop_assert_eq!(Beat::parse(&bytes[..cut.min(bytes.len())]).is_ok(), cut >= bytes.len());
        }

        #[test]
        fn whatever_python_could_write_is_read(text in "[a-zN\"\\\\\\- {}é]{0,20}", number in proptest::num::f64::ANY) {
            let number = if number.is_nan() { "NaN".to_owned() } else if number.is_infinite() {
                if number > 0.0 { "Infinity".to_owned() } else { "-Infinity".to_owned() }
            } else { format!("{number:e}") };
            let whole = format!("{{\"a\": {}, \"b\": {number}}}", serde_json::to_string(&text).unwrap());
            let beat = beat(&whole);
            prop_assert_eq!(beat.field("a").unwrap(), &Value::String(text));
        }
    }
}
