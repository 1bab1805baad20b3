//! D-Bus messages as bytes: the header is put together and taken apart here, values are encoded and checked by
//! zbus's codec. Pure: it reads and writes no socket.
//!
//! zbus's own connection is not used: it takes messages of 128 MiB at the word of their header, queues them without
//! saying what it dropped, and runs tasks of its own.

use serde::ser::{Serialize, SerializeStruct as _, Serializer};
use zbus::wire::serialized::{Context, Data};
use zbus::wire::{BE, DynamicType, Endian, LE, to_bytes};
use zbus::{Signature, Type, Variant};

/// Most bytes of a message that is read; a longer one is skipped. What is asked for takes some hundred.
pub(crate) const MAX_MESSAGE: usize = 64 * 1024;
/// The specification's own bound: what claims more is no D-Bus.
const MAX_CLAIMED: usize = 128 * 1024 * 1024;
/// The part of a header whose length is known.
const FIXED: usize = 16;

/// What kind of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Call,
    Return,
    Error,
    Signal,
    /// One that the specification does not know: to be ignored.
    Other,
}

/// A message that was received.
#[derive(Debug, PartialEq)]
pub(crate) struct Message {
    pub(super) kind: Kind,
    /// The call that this answers.
    pub(super) answers: Option<u32>,
    pub(super) error: Option<String>,
    pub(super) interface: Option<String>,
    pub(super) member: Option<String>,
    pub(super) path: Option<String>,
    /// Written by the bus, which nobody else can.
    pub(super) sender: Option<String>,
    /// True if its body was too long to be kept.
    pub(super) too_long: bool,
    signature: String,
    body: Vec<u8>,
    endian: Endian,
}

/// What is called, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
}

impl Call<'_> {
    /// The bytes of this call with these arguments, a tuple. It asks for no password: nobody is there to type one.
    ///
    /// # Errors
    /// If the arguments cannot be encoded, as a text that holds a zero byte.
    pub(super) fn encode<A: Serialize + DynamicType>(
        &self,
        serial: u32,
        arguments: &A,
    ) -> Result<Vec<u8>, String> {
        let unfit = |error: zbus::Error| format!("cannot encode a call of {}: {error}", self.member);
        let signature = arguments.signature();
        let body = match signature {
            Signature::Unit => Vec::new(),
            _ => to_bytes(Context::new(LE, 0), arguments)
                .map_err(unfit)?
                .bytes()
                .to_vec(),
        };
        let path = zbus::ObjectPath::try_from(self.path).map_err(unfit)?;
        let mut fields = vec![
            (1u8, Field(Variant::ObjectPath(path))),
            (2, Field(Variant::from(self.interface))),
            (3, Field(Variant::from(self.member))),
            (6, Field(Variant::from(self.destination))),
        ];
        if !body.is_empty() {
            fields.push((8, Field(Variant::Signature(signature))));
        }
        let length =
            u32::try_from(body.len()).map_err(|_| format!("a call of {} is too long", self.member))?;
        let header = (b'l', 1u8, 0u8, 1u8, length, serial, fields);
        let mut bytes = to_bytes(Context::new(LE, 0), &header)
            .map_err(unfit)?
            .bytes()
            .to_vec();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(body);
        Ok(bytes)
    }
}

/// A field of a header. The signature of a body is written without the parentheses that make one value of several.
struct Field<'a>(Variant<'a>);

impl Type for Field<'_> {
    const SIGNATURE: &'static Signature = &Signature::Variant;
}

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Variant::Signature(signature) = &self.0 else {
            return self.0.serialize(serializer);
        };
        let mut variant = serializer.serialize_struct("Variant", 2)?;
        variant.serialize_field("signature", &Signature::Signature)?;
        variant.serialize_field("value", &signature.to_string_no_parens())?;
        variant.end()
    }
}

/// How long the message is that begins so: its header with padding, and its body. `None`: too little was received
/// to tell.
///
/// # Errors
/// If these bytes begin no message.
pub(super) fn lengths(bytes: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let Some(fixed) = bytes.first_chunk::<FIXED>() else {
        return Ok(None);
    };
    let endian = endian(fixed[0])?;
    if fixed[3] != 1 {
        return Err(format!("version {} of the protocol", fixed[3]));
    }
    let number = |at: usize| {
        let four = [fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]];
        match endian {
            Endian::Little => u32::from_le_bytes(four) as usize,
            Endian::Big => u32::from_be_bytes(four) as usize,
        }
    };
    let (body, fields) = (number(4), number(12));
    if body > MAX_CLAIMED || fields > MAX_CLAIMED {
        return Err(format!("a message that claims {body} bytes"));
    }
    Ok(Some(((FIXED + fields).next_multiple_of(8), body)))
}

fn endian(byte: u8) -> Result<Endian, String> {
    match byte {
        b'l' => Ok(LE),
        b'B' => Ok(BE),
        other => Err(format!("a message that begins with byte {other}")),
    }
}

impl Message {
    /// A message whose header is `header`; `None`: its body was too long to be kept.
    ///
    /// # Errors
    /// If the header is malformed.
    pub(super) fn of(header: &[u8], body: Option<&[u8]>) -> Result<Self, String> {
        type Header<'a> = (u8, u8, u8, u8, u32, u32, Vec<(u8, Variant<'a>)>);
        let endian = endian(header.first().copied().unwrap_or(0))?;
        let data = Data::new(header, Context::new(endian, 0));
        let (header, _): (Header<'_>, usize) = data
            .deserialize()
            .map_err(|error| format!("a header that cannot be read: {error}"))?;
        let mut message = Self {
            kind: match header.1 {
                1 => Kind::Call,
                2 => Kind::Return,
                3 => Kind::Error,
                4 => Kind::Signal,
                _ => Kind::Other,
            },
            answers: None,
            error: None,
            interface: None,
            member: None,
            path: None,
            sender: None,
            too_long: body.is_none(),
            signature: String::new(),
            body: body.unwrap_or_default().to_vec(),
            endian,
        };
        for (code, value) in header.6 {
            match (code, value) {
                (1, Variant::ObjectPath(path)) => message.path = Some(path.to_string()),
                (2, Variant::Str(text)) => message.interface = Some(text.to_string()),
                (3, Variant::Str(text)) => message.member = Some(text.to_string()),
                (4, Variant::Str(text)) => message.error = Some(text.to_string()),
                (5, Variant::U32(serial)) => message.answers = Some(serial),
                (7, Variant::Str(text)) => message.sender = Some(text.to_string()),
                (8, Variant::Signature(signature)) => message.signature = signature.to_string_no_parens(),
                _ => {}
            }
        }
        Ok(message)
    }

    /// Its arguments, if they are of these types.
    pub(super) fn arguments<A>(&self) -> Option<A>
    where
        A: serde::de::DeserializeOwned + Type,
    {
        let expected = A::SIGNATURE.to_string_no_parens();
        if self.too_long || self.signature != expected {
            return None;
        }
        let data = Data::new(self.body.as_slice(), Context::new(self.endian, 0));
        data.deserialize::<A>().ok().map(|(arguments, _)| arguments)
    }

    /// Its only argument, a variant.
    pub(super) fn value(&self) -> Option<Value> {
        if self.too_long || self.signature != "v" {
            return None;
        }
        let data = Data::new(self.body.as_slice(), Context::new(self.endian, 0));
        let (value, _): (Variant<'_>, usize) = data.deserialize().ok()?;
        Value::of(&value)
    }

    /// The text that an error brings along.
    pub(super) fn words(&self) -> String {
        self.arguments::<(String,)>()
            .map_or_else(String::new, |(words,)| words)
    }
}

/// The kinds of values that systemd's properties that are asked for have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(u64),
    Bytes(Vec<u8>),
    /// A job: its number and its path.
    Job(u32, String),
}

impl Value {
    fn of(value: &Variant<'_>) -> Option<Self> {
        Some(match value {
            Variant::Str(text) => Self::Text(text.to_string()),
            Variant::ObjectPath(path) => Self::Text(path.to_string()),
            Variant::Bool(is) => Self::Number(u64::from(*is)),
            Variant::U32(number) => Self::Number(u64::from(*number)),
            Variant::U64(number) => Self::Number(*number),
            // An exit code or a signal: never negative.
            Variant::I32(number) => Self::Number(u64::try_from(*number).ok()?),
            Variant::Array(array) => {
                let bytes = array.inner().iter().map(|item| match item {
                    Variant::U8(byte) => Some(*byte),
                    _ => None,
                });
                Self::Bytes(bytes.collect::<Option<_>>()?)
            }
            Variant::Structure(structure) => match structure.fields() {
                [Variant::U32(id), Variant::ObjectPath(path)] => Self::Job(*id, path.to_string()),
                _ => return None,
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_what_the_specification_says() {
        let call = Call {
            destination: "d.e",
            path: "/p",
            interface: "i.f",
            member: "Get",
        };
        let bytes = call.encode(7, &("a", "b")).unwrap();
        let expected = [
            &b"l\x01\x00\x01\x0e\x00\x00\x00\x07\x00\x00\x00\x48\x00\x00\x00"[..],
            b"\x01\x01o\x00\x02\x00\x00\x00/p\x00\x00\x00\x00\x00\x00",
            b"\x02\x01s\x00\x03\x00\x00\x00i.f\x00\x00\x00\x00\x00",
            b"\x03\x01s\x00\x03\x00\x00\x00Get\x00\x00\x00\x00\x00",
            b"\x06\x01s\x00\x03\x00\x00\x00d.e\x00\x00\x00\x00\x00",
            b"\x08\x01g\x00\x02ss\x00",
            b"\x01\x00\x00\x00a\x00\x00\x00\x01\x00\x00\x00b\x00",
        ]
        .concat();
        assert_eq!(bytes, expected);
        assert_eq!(lengths(&bytes), Ok(Some((88, 14))));
        let read = Message::of(&bytes[..88], Some(&bytes[88..])).unwrap();
        assert_eq!(read.member.as_deref(), Some("Get"));
        assert_eq!(read.arguments(), Some(("a".to_owned(), "b".to_owned())));
        assert_eq!(read.arguments::<(String,)>(), None, "of other types");
    }

    #[test]
    fn what_is_no_message_is_told() {
        let fixed = |version: u8, body: u8| {
            let mut fixed = [0; FIXED];
            (fixed[0], fixed[1], fixed[3], fixed[7]) = (b'l', 1, version, body);
            fixed
        };
        assert_eq!(lengths(b"l\x01"), Ok(None));
        assert!(lengths(b"HTTP/1.1 200 OK\r\n").unwrap_err().contains("byte 72"));
        assert!(lengths(&fixed(9, 0)).unwrap_err().contains("version 9"));
        assert!(lengths(&fixed(1, 255)).unwrap_err().contains("claims"));
        assert!(Message::of(&[b'l'; 40], None).is_err());
        assert!(Message::of(&[], None).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400), cut in 0usize..400) {
            let _ = lengths(&bytes);
            let cut = cut.min(bytes.len());
            let mut header = b"l\x02\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00".to_vec();
            header.extend(&bytes[..cut]);
            if let Ok(message) = Message::of(&header, Some(&bytes[cut..])) {
                let _ = (message.value(), message.words(), message.arguments::<(u32, String)>());
            }
        }
    }
}
