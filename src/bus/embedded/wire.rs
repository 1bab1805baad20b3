//! The wire: requests from bytes, within bounds that hold before anything is buffered; replies to bytes.
//!
//! The codec crate decodes nested frames by recursion and believes the lengths it reads. A request is only ever
//! one flat array of bulk strings (or an inline line), so it is measured here first, and the crate sees nothing
//! but a complete one.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use redis_protocol::{resp2, resp3};
use tokio_util::codec::Decoder;

pub(super) use redis_protocol::resp3::types::BytesFrame as Frame;

/// A request typed by hand ends within this many bytes, or is none.
const INLINE_BYTES: usize = 16 * 1024;
/// `*` or `$`, a number, CRLF.
const HEADER_BYTES: usize = 32;

/// What the client chose with HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Resp2,
    Resp3,
}

/// Why a connection is given up: what it sends cannot be read on from here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Violation {
    #[error("ERR Protocol error: {0}")]
    Malformed(&'static str),
    /// A browser was made to send HTTP to this port: no line of it may run as a command.
    #[error("ERR Protocol error: this is not an HTTP server")]
    Http,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads requests: each a command and its arguments, never empty.
#[derive(Debug)]
pub(crate) struct Requests {
    /// Longest request, in bytes on the wire.
    pub(crate) request_bytes: usize,
    /// Most arguments of one request, the command's name included.
    pub(crate) arguments: usize,
}

impl Decoder for Requests {
    type Item = Vec<Bytes>;
    type Error = Violation;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Vec<Bytes>>, Violation> {
        loop {
            let request = match src.first() {
                None => return Ok(None),
                Some(b'*') => self.array(src)?,
                Some(_) => inline(src)?,
            };
            // Redis passes over empty requests in silence.
            if request.as_ref().is_none_or(|arguments| !arguments.is_empty()) {
                return Ok(request);
            }
        }
    }
}

impl Requests {
    fn array(&self, src: &mut BytesMut) -> Result<Option<Vec<Bytes>>, Violation> {
        let Some(length) = self.measure(src)? else {
            return Ok(None);
        };
        let request = src.split_to(length).freeze();
        match resp2::decode::decode_bytes(&request) {
            Ok(Some((resp2::types::BytesFrame::Array(items), _))) => {
                items.into_iter().map(argument).collect()
            }
            Ok(Some((resp2::types::BytesFrame::Null, _))) => Ok(Some(Vec::new())),
            _ => Err(Violation::Malformed("invalid request")),
        }
    }

    /// Length of the request at the start of `src`; `None` if it is not all there. Refuses what is out of bounds
    /// as soon as its header says so.
    fn measure(&self, src: &[u8]) -> Result<Option<usize>, Violation> {
        let Some((count, mut end)) = header(src, 0, "invalid multibulk length")? else {
            return Ok(None);
        };
        if usize::try_from(count).is_ok_and(|count| count > self.arguments) {
            return Err(Violation::Malformed("invalid multibulk length"));
        }
        for _ in 0..count.max(0) {
            match src.get(end) {
                None => return Ok(None),
                Some(b'$') => {}
                Some(_) => return Err(Violation::Malformed("expected '$'")),
            }
            let Some((length, body)) = header(src, end, "invalid bulk length")? else {
                return Ok(None);
            };
            end = usize::try_from(length)
                .ok()
                .and_then(|length| body.checked_add(length)?.checked_add(2))
                .filter(|end| *end <= self.request_bytes)
                .ok_or(Violation::Malformed("invalid bulk length"))?;
        }
        Ok((end <= src.len()).then_some(end))
    }
}

/// The number in the header line that begins at `at`, and where the next line begins.
fn header(src: &[u8], at: usize, fault: &'static str) -> Result<Option<(i64, usize)>, Violation> {
    let line = src.get(at + 1..).unwrap_or_default();
    let line = &line[..line.len().min(HEADER_BYTES)];
    let Some(end) = line.iter().position(|&byte| byte == b'\r') else {
        return if line.len() < HEADER_BYTES {
            Ok(None)
        } else {
            Err(Violation::Malformed(fault))
        };
    };
    let number = str::from_utf8(&line[..end])
        .ok()
        .and_then(|digits| digits.parse().ok());
    match line.get(end + 1) {
        None => Ok(None),
        Some(b'\n') => number.map_or(Err(Violation::Malformed(fault)), |number| {
            Ok(Some((number, at + end + 3)))
        }),
        Some(_) => Err(Violation::Malformed(fault)),
    }
}

fn argument(frame: resp2::types::BytesFrame) -> Result<Option<Bytes>, Violation> {
    match frame {
        resp2::types::BytesFrame::BulkString(bytes) => Ok(Some(bytes)),
        _ => Err(Violation::Malformed("expected '$'")),
    }
}

/// A request as a person types it. Words are split at blanks; there is no quoting.
fn inline(src: &mut BytesMut) -> Result<Option<Vec<Bytes>>, Violation> {
    let Some(end) = src.iter().take(INLINE_BYTES).position(|&byte| byte == b'\n') else {
        return if src.len() < INLINE_BYTES {
            Ok(None)
        } else {
            Err(Violation::Malformed("too big inline request"))
        };
    };
    let line = src.split_to(end + 1).freeze();
    let words: Vec<Bytes> = line
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .map(|word| line.slice_ref(word))
        .collect();
    // As Redis does: a page in a browser can make it POST to loopback, with commands in the body.
    let http = |word: &Bytes| word.eq_ignore_ascii_case(b"post") || word.eq_ignore_ascii_case(b"host:");
    if words.first().is_some_and(http) {
        return Err(Violation::Http);
    }
    Ok(Some(words))
}

/// `frame` as bytes. RESP2 gets what Redis sends there: maps and pushes as arrays, verbatim text as bulk.
///
/// Not by the codec crate: it counts digits by logarithms, and the library of mathematics that this takes was a third
/// of a megabyte in memory for nothing else.
pub(super) fn encode(frame: &Frame, protocol: Protocol) -> Bytes {
    let mut out = BytesMut::new();
    write(&mut out, frame, protocol);
    out.freeze()
}

fn write(out: &mut BytesMut, frame: &Frame, protocol: Protocol) {
    let resp3 = protocol == Protocol::Resp3;
    match frame {
        Frame::SimpleString { data, .. } => line(out, b'+', data),
        Frame::SimpleError { data, .. } => line(out, b'-', data.as_bytes()),
        Frame::Number { data, .. } => line(out, b':', data.to_string().as_bytes()),
        Frame::VerbatimString { data, .. } if resp3 => string(out, b'=', b"txt:", data),
        Frame::BlobString { data, .. } | Frame::VerbatimString { data, .. } => string(out, b'$', b"", data),
        Frame::Array { data, .. } => list(out, b'*', data, protocol),
        Frame::Push { data, .. } => list(out, if resp3 { b'>' } else { b'*' }, data, protocol),
        Frame::Map { data, .. } => {
            let (kind, count) = if resp3 {
                (b'%', data.len())
            } else {
                (b'*', data.len() * 2)
            };
            line(out, kind, count.to_string().as_bytes());
            for (key, value) in data {
                write(out, key, protocol);
                write(out, value, protocol);
            }
        }
        // Nothing else is made here.
        _ if resp3 => line(out, b'_', b""),
        _ => line(out, b'$', b"-1"),
    }
}

fn line(out: &mut BytesMut, kind: u8, text: &[u8]) {
    out.put_u8(kind);
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

fn string(out: &mut BytesMut, kind: u8, format: &[u8], data: &[u8]) {
    line(out, kind, (format.len() + data.len()).to_string().as_bytes());
    out.extend_from_slice(format);
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

fn list(out: &mut BytesMut, kind: u8, items: &[Frame], protocol: Protocol) {
    line(out, kind, items.len().to_string().as_bytes());
    for item in items {
        write(out, item, protocol);
    }
}

pub(super) fn status(text: &'static str) -> Frame {
    Frame::SimpleString {
        data: Bytes::from_static(text.as_bytes()),
        attributes: None,
    }
}

/// An error reply. What a client sent may be quoted in it, so control characters, which could end the line and
/// forge a second reply, become blanks.
pub(super) fn error(text: &str) -> Frame {
    let line = text.replace(char::is_control, " ");
    Frame::SimpleError {
        data: line.into(),
        attributes: None,
    }
}

pub(super) fn number(value: impl TryInto<i64>) -> Frame {
    Frame::Number {
        data: value.try_into().unwrap_or(i64::MAX),
        attributes: None,
    }
}

pub(super) fn bulk(data: impl Into<Bytes>) -> Frame {
    Frame::BlobString {
        data: data.into(),
        attributes: None,
    }
}

/// Text for people, marked as such in RESP3.
pub(super) fn text(data: String) -> Frame {
    let format = resp3::types::VerbatimStringFormat::Text;
    Frame::VerbatimString {
        data: data.into(),
        format,
        attributes: None,
    }
}

pub(super) fn array(data: Vec<Frame>) -> Frame {
    Frame::Array {
        data,
        attributes: None,
    }
}

pub(super) fn push(data: Vec<Frame>) -> Frame {
    Frame::Push {
        data,
        attributes: None,
    }
}

pub(super) fn map<const N: usize>(pairs: [(&'static str, Frame); N]) -> Frame {
    let data = pairs.into_iter().map(|(key, value)| (bulk(key), value)).collect();
    Frame::Map {
        data,
        attributes: None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: Requests = Requests {
        request_bytes: 64,
        arguments: 4,
    };

    fn decode(bytes: &[u8]) -> Result<Option<Vec<Bytes>>, String> {
        let mut requests = SMALL;
        requests
            .decode(&mut BytesMut::from(bytes))
            .map_err(|violation| violation.to_string())
    }

    #[test]
    fn reads_arrays_and_lines() {
        let ping = vec![Bytes::from("PING"), Bytes::from("x")];
        assert_eq!(decode(b"*2\r\n$4\r\nPING\r\n$1\r\nx\r\n"), Ok(Some(ping.clone())));
        assert_eq!(decode(b"PING  x\r\n"), Ok(Some(ping.clone())));
        assert_eq!(
            decode(b"\r\n*0\r\n*-1\r\n PING x\n"),
            Ok(Some(ping)),
            "empty requests are passed over"
        );
        assert_eq!(decode(b"*1\r\n$0\r\n\r\n"), Ok(Some(vec![Bytes::new()])));
    }

    #[test]
    fn waits_for_what_is_not_there_yet() {
        let request = b"*2\r\n$4\r\nPING\r\n$1\r\nx\r\n";
        for end in 0..request.len() {
            assert_eq!(decode(&request[..end]), Ok(None), "{end} bytes");
        }
    }

    #[test]
    fn refuses_at_the_header_what_is_out_of_bounds() {
        for (bytes, fault) in [
            (&b"*1000000\r\n"[..], "invalid multibulk length"),
            (b"*5\r\n", "invalid multibulk length"),
            (b"*x\r\n", "invalid multibulk length"),
            (b"*1\rx", "invalid multibulk length"),
            (
                b"*99999999999999999999999999999999999",
                "invalid multibulk length",
            ),
            (b"*1\r\n$536870912\r\n", "invalid bulk length"),
            (b"*1\r\n$9223372036854775807\r\n", "invalid bulk length"),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (
                b"*2\r\n$50\r\n01234567890123456789012345678901234567890123456789\r\n$9\r\n",
                "invalid bulk length",
            ),
            (b"*1\r\n*1\r\n*1\r\n", "expected '$'"),
            (b"*1\r\n:1\r\n", "expected '$'"),
        ] {
            let seen = decode(bytes);
            assert_eq!(
                seen,
                Err(format!("ERR Protocol error: {fault}")),
                "{}",
                bytes.escape_ascii()
            );
        }
        assert!(decode(&[b'x'; INLINE_BYTES]).is_err());
        assert!(decode(b"POST / HTTP/1.1\r\n").is_err());
        assert!(decode(b"Host: localhost\r\n").is_err());
    }

    #[test]
    fn replies_have_the_form_of_their_protocol() {
        for (frame, resp2, resp3) in [
            (status("OK"), "+OK\r\n", "+OK\r\n"),
            (error("ERR a\r\n+OK"), "-ERR a  +OK\r\n", "-ERR a  +OK\r\n"),
            (number(7), ":7\r\n", ":7\r\n"),
            (bulk("a\r\n"), "$3\r\na\r\n\r\n", "$3\r\na\r\n\r\n"),
            (text("hi".into()), "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"),
            (Frame::Null, "$-1\r\n", "_\r\n"),
            (array(vec![number(1)]), "*1\r\n:1\r\n", "*1\r\n:1\r\n"),
            (
                push(vec![bulk("m"), Frame::Null]),
                "*2\r\n$1\r\nm\r\n$-1\r\n",
                ">2\r\n$1\r\nm\r\n_\r\n",
            ),
            (
                map([("a", number(1))]),
                "*2\r\n$1\r\na\r\n:1\r\n",
                "%1\r\n$1\r\na\r\n:1\r\n",
            ),
        ] {
            assert_eq!(encode(&frame, Protocol::Resp2), resp2);
            assert_eq!(encode(&frame, Protocol::Resp3), resp3);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_a_wait_or_a_violation(bytes in proptest::collection::vec(
            prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b'-'), any::<u8>()], 0..200
        )) {
            let mut src = BytesMut::from(&bytes[..]);
            let mut requests = SMALL;
            while let Ok(Some(request)) = requests.decode(&mut src) {
                prop_assert!(!request.is_empty());
            }
        }

        #[test]
        fn a_request_survives_the_wire(arguments in proptest::collection::vec(any::<Vec<u8>>(), 1..5)) {
            let items = arguments.iter().map(|item| bulk(item.clone())).collect();
            let mut src = BytesMut::from(&encode(&array(items), Protocol::Resp2)[..]);
            let mut requests = Requests { request_bytes: 4096, arguments: 4 };
            let request = requests.decode(&mut src).unwrap().unwrap();
            prop_assert_eq!(request, arguments);
            prop_assert!(src.is_empty());
        }
    }
}
