//! Just enough of RESP2 and RESP3 for a client that publishes, listens, and asks who is there.
//!
//! Why not the codec of a client crate: what arrives here is written by whoever can reach the bus. redis-rs
//! 1.8 buffers every body whole (up to 512 MB), and its RESP2 subscription queues without a bound. Here a body
//! longer than [`MAX_BULK`] is skipped as it comes, nothing is copied, and one frame is all that is ever held.

use bytes::{Buf, BytesMut};

/// Longest string that is handed out where nothing else was asked for, in bytes; INFO has about 6 KB.
pub(crate) const MAX_BULK: usize = 64 * 1024;
/// A frame that is not complete after so many longest strings is malformed.
const FRAME_BULKS: usize = 4;
/// Longer than any server's `proto-max-bulk-len`: malformed rather than skipped for ever.
const MAX_SKIP: usize = 1 << 30;
/// Deepest nesting of lists that is read.
const MAX_DEPTH: u8 = 8;
/// Longest list that is read; COMMAND's is longer, and nobody asks for it here.
const MAX_ITEMS: usize = 1024;
/// Room that is made for one read.
const READ: usize = 16 * 1024;

/// One value as the server sent it, borrowed from the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// A line: `+OK`.
    Simple(&'a [u8]),
    /// `-ERR …`, or RESP3's blob error.
    Error(&'a [u8]),
    Integer(i64),
    Bulk(&'a [u8]),
    /// A string of so many bytes that was too long to be kept.
    Oversized(usize),
    Null,
    /// A list or a set.
    List(Vec<Self>),
    /// Keys and values in turn.
    Map(Vec<Self>),
    /// Out of band (RESP3).
    Push(Vec<Self>),
    /// A double, a boolean, a big number: nothing we ask for answers with one.
    Other,
}

impl<'a> Value<'a> {
    /// The text of a string of either kind.
    pub(crate) fn text(&self) -> Option<&'a [u8]> {
        match self {
            Self::Simple(text) | Self::Bulk(text) => Some(text),
            _ => None,
        }
    }
}

/// What arrived is not RESP, or outside of every bound. The connection cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Finds values in what was read.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// Longest string that is handed out, in bytes.
    max_bulk: usize,
    buffer: BytesMut,
    /// Start of what was not handed out yet.
    at: usize,
    /// What is left to come of a string that is not kept.
    skip: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::up_to(MAX_BULK)
    }
}

impl Decoder {
    /// Hands out strings of up to so many bytes.
    pub(crate) fn up_to(max_bulk: usize) -> Self {
        Self {
            max_bulk,
            buffer: BytesMut::new(),
            at: 0,
            skip: 0,
        }
    }

    /// Where to read into: to be asked for when [`Self::next`] has no more.
    pub(crate) fn room(&mut self) -> &mut BytesMut {
        self.buffer.advance(self.at);
        self.at = 0;
        // What held one long answer is not kept for the short ones.
        if self.buffer.is_empty() && self.buffer.capacity() > FRAME_BULKS * MAX_BULK {
            self.buffer = BytesMut::new();
        }
        self.buffer.reserve(READ);
        &mut self.buffer
    }

    /// The next complete value, or `None` until more was read.
    pub(crate) fn next(&mut self) -> Result<Option<Value<'_>>, Malformed> {
        let skipped = self.skip.min(self.buffer.len() - self.at);
        self.at += skipped;
        self.skip -= skipped;
        let waiting = &self.buffer[self.at..];
        if self.skip > 0 || waiting.is_empty() {
            return Ok(None);
        }
        let mut cursor = Cursor {
            bytes: waiting,
            at: 0,
            skip: 0,
            max_bulk: self.max_bulk,
        };
        match cursor.value(0, true) {
            Ok(value) => {
                self.at += cursor.at;
                self.skip = cursor.skip;
                Ok(Some(value))
            }
            Err(Stop::Incomplete) if waiting.len() > FRAME_BULKS * self.max_bulk => {
                Err(Malformed("a frame without an end"))
            }
            Err(Stop::Incomplete) => Ok(None),
            Err(Stop::Malformed(what)) => Err(Malformed(what)),
        }
    }
}

/// Adds a command to `out`.
pub(crate) fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

enum Stop {
    Incomplete,
    Malformed(&'static str),
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    skip: usize,
    max_bulk: usize,
}

impl<'a> Cursor<'a> {
    /// `last`: nothing of the frame follows this value, so that it may be skipped instead of kept.
    fn value(&mut self, depth: u8, last: bool) -> Result<Value<'a>, Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::Malformed("lists nested too deeply"));
        }
        let kind = *self.bytes.get(self.at).ok_or(Stop::Incomplete)?;
        self.at += 1;
        Ok(match kind {
            b'+' => Value::Simple(self.line()?),
            b'-' => Value::Error(self.line()?),
            b':' => Value::Integer(number(self.line()?)?),
            b'$' => self.string(last)?,
            b'!' => match self.string(false)? {
                Value::Bulk(text) => Value::Error(text),
                other => other,
            },
            b'=' => match self.string(false)? {
                Value::Bulk(text) => Value::Bulk(text.get(4..).unwrap_or_default()),
                other => other,
            },
            b'*' | b'~' => match self.length()? {
                Some(count) => Value::List(self.list(count, depth, last)?),
                None => Value::Null,
            },
            b'>' => {
                let count = self.length()?.unwrap_or(0);
                Value::Push(self.list(count, depth, last)?)
            }
            b'%' => {
                let count = self.length()?.unwrap_or(0).saturating_mul(2);
                Value::Map(self.list(count, depth, last)?)
            }
            b'|' => {
                let count = self.length()?.unwrap_or(0).saturating_mul(2);
                self.list(count, depth, false)?;
                self.value(depth + 1, last)?
            }
            b'_' => {
                self.line()?;
                Value::Null
            }
            b'#' | b',' | b'(' => {
                self.line()?;
                Value::Other
            }
            _ => return Err(Stop::Malformed("not RESP")),
        })
    }

    fn list(&mut self, count: usize, depth: u8, last: bool) -> Result<Vec<Value<'a>>, Stop> {
        if count > MAX_ITEMS {
            return Err(Stop::Malformed("a list that is too long"));
        }
        // The count is the sender's word: room grows with what is really there.
        let mut items = Vec::with_capacity(count.min(4));
        for index in 0..count {
            items.push(self.value(depth + 1, last && index + 1 == count)?);
        }
        Ok(items)
    }

    fn string(&mut self, last: bool) -> Result<Value<'a>, Stop> {
        let Some(length) = self.length()? else {
            return Ok(Value::Null);
        };
        if length > self.max_bulk {
            if !last {
                return Err(Stop::Malformed("a string that is too long"));
            }
            self.skip = length + 2;
            return Ok(Value::Oversized(length));
        }
        let end = self.at + length;
        let text = self.bytes.get(self.at..end).ok_or(Stop::Incomplete)?;
        match self.bytes.get(end..end + 2) {
            Some(b"\r\n") => {}
            Some(_) => return Err(Stop::Malformed("a string longer than it said")),
            None => return Err(Stop::Incomplete),
        }
        self.at = end + 2;
        Ok(Value::Bulk(text))
    }

    /// A length line; `None` is RESP2's null (-1).
    fn length(&mut self) -> Result<Option<usize>, Stop> {
        match number(self.line()?)? {
            -1 => Ok(None),
            length => match usize::try_from(length) {
                Ok(length) if length <= MAX_SKIP => Ok(Some(length)),
                _ => Err(Stop::Malformed("an absurd length")),
            },
        }
    }

    fn line(&mut self) -> Result<&'a [u8], Stop> {
        let rest = &self.bytes[self.at..];
        let length = rest
            .iter()
            .position(|byte| *byte == b'\r')
            .ok_or(Stop::Incomplete)?;
        match rest.get(length + 1) {
            Some(b'\n') => {
                self.at += length + 2;
                Ok(&rest[..length])
            }
            Some(_) => Err(Stop::Malformed("a line that does not end")),
            None => Err(Stop::Incomplete),
        }
    }
}

fn number(line: &[u8]) -> Result<i64, Stop> {
    // Lengths, nearly always: worth not going through a string for.
    if (1..10).contains(&line.len()) && line.iter().all(u8::is_ascii_digit) {
        return Ok(line
            .iter()
            .fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')));
    }
    std::str::from_utf8(line)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(Stop::Malformed("not a number"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that comes out when `bytes` arrive in pieces of `piece`, as text.
    fn read(bytes: &[u8], piece: usize) -> (Vec<String>, Option<Malformed>) {
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for part in bytes.chunks(piece.max(1)) {
            decoder.room().extend_from_slice(part);
            loop {
                match decoder.next() {
                    Ok(Some(value)) => seen.push(format!("{value:?}")),
                    Ok(None) => break,
                    Err(malformed) => return (seen, Some(malformed)),
                }
            }
        }
        (seen, None)
    }

    fn one(bytes: &[u8]) -> Value<'_> {
        let mut cursor = Cursor {
            bytes,
            at: 0,
            skip: 0,
            max_bulk: MAX_BULK,
        };
        let value = cursor.value(0, true).ok().unwrap();
        assert_eq!(cursor.at, bytes.len());
        value
    }

    #[test]
    fn reads_what_servers_answer() {
        assert_eq!(one(b"+PONG\r\n"), Value::Simple(b"PONG"));
        assert_eq!(one(b"-ERR no\r\n"), Value::Error(b"ERR no"));
        assert_eq!(one(b"!6\r\nERR no\r\n"), Value::Error(b"ERR no"));
        assert_eq!(one(b":-3\r\n"), Value::Integer(-3));
        assert_eq!(one(b"$-1\r\n"), Value::Null);
        assert_eq!(one(b"_\r\n"), Value::Null);
        assert_eq!(one(b"#t\r\n"), Value::Other);
        assert_eq!(one(b"=5\r\ntxt:a\r\n"), Value::Bulk(b"a"));
        assert_eq!(
            one(b"%1\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"),
            Value::Map(vec![Value::Bulk(b"role"), Value::Bulk(b"master")])
        );
        assert_eq!(
            one(b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$0\r\n\r\n"),
            Value::Push(vec![Value::Bulk(b"message"), Value::Bulk(b"c"), Value::Bulk(b"")])
        );
        assert_eq!(one(b"|1\r\n+ttl\r\n:1\r\n:2\r\n"), Value::Integer(2));
    }

    #[test]
    fn s04_a_body_of_10_mb_is_skipped_and_not_kept() {
        let size = 10 * 1024 * 1024;
        let mut bytes = format!("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n${size}\r\n").into_bytes();
        bytes.resize(bytes.len() + size, b'x');
        bytes.extend_from_slice(b"\r\n+PONG\r\n");
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for part in bytes.chunks(10_000) {
            decoder.room().extend_from_slice(part);
            while let Some(value) = decoder.next().unwrap() {
                seen.push(format!("{value:?}"));
            }
            assert!(decoder.buffer.capacity() < 4 * (FRAME_BULKS * MAX_BULK));
        }
        assert_eq!(seen.len(), 2);
        assert!(seen[0].contains("Oversized(10485760)"), "{}", seen[0]);
        assert!(seen[1].starts_with("Simple"));
    }

    #[test]
    fn refuses_what_has_no_bound() {
        let deep = b"*1\r\n".repeat(1000);
        let endless = vec![b'+'; (FRAME_BULKS * MAX_BULK) + 2];
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"*1025\r\n",
            b"*99999999999999\r\n",
            b"$99999999999999999\r\n",
            b"$-2\r\n",
            b"*2\r\n$70000\r\n",
            b":x\r\n",
            b"$1\r\nabc",
            b"+a\rb",
            &deep,
            &endless,
        ] {
            assert!(read(bytes, bytes.len()).1.is_some(), "{:?}", bytes.escape_ascii());
        }
    }

    #[test]
    fn commands_are_length_prefixed() {
        let mut out = Vec::new();
        command(&mut out, &[b"PUBLISH", b"c", b"\r\n"]);
        assert_eq!(out, b"*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n$2\r\n\r\n\r\n");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in proptest::collection::vec(prop_oneof![
                Just(b'\r'), Just(b'\n'), Just(b'*'), Just(b'$'), Just(b'>'), Just(b'%'), Just(b'1'), any::<u8>()
            ], 0..100),
            piece in 1usize..50,
        ) {
            read(&bytes, piece);
        }

        #[test]
        fn pieces_do_not_matter(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 1..20),
            piece in 1usize..64,
        ) {
            let mut bytes = Vec::new();
            for body in &bodies {
                command(&mut bytes, &[b"message", b"channel", body]);
                bytes.extend_from_slice(b"+PONG\r\n");
            }
            let whole = read(&bytes, bytes.len());
            prop_assert_eq!(whole.0.len(), 2 * bodies.len());
            prop_assert_eq!(whole, read(&bytes, piece));
        }
    }
}
