//! Messages as they arrive in pieces, within bounds: a body that is too long is skipped as it comes. Pure.

use bytes::{Buf as _, BytesMut};

use super::wire::{self, MAX_MESSAGE, Message};

/// What has arrived and was not taken yet.
#[derive(Default)]
pub(crate) struct Inbox {
    buffer: BytesMut,
    /// Bytes still to come of a body that is too long to be kept.
    skip: usize,
}

impl Inbox {
    /// Where what arrives goes, at its end.
    pub(crate) fn room(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next message, once it is whole.
    ///
    /// # Errors
    /// If what arrived is none: nothing can be read after that.
    pub(crate) fn next(&mut self) -> Result<Option<Message>, String> {
        let skipped = self.skip.min(self.buffer.len());
        self.buffer.advance(skipped);
        self.skip -= skipped;
        if self.skip > 0 {
            return Ok(None);
        }
        let Some((header, body)) = wire::lengths(&self.buffer)? else {
            return Ok(None);
        };
        if header > MAX_MESSAGE {
            return Err(format!("a header of {header} bytes"));
        }
        if header + body > MAX_MESSAGE {
            if self.buffer.len() < header {
                return Ok(None);
            }
            self.skip = body;
            return Message::of(&self.buffer.split_to(header), None).map(Some);
        }
        if self.buffer.len() < header + body {
            return Ok(None);
        }
        let bytes = self.buffer.split_to(header + body);
        let (header, body) = bytes.split_at(header);
        Message::of(header, Some(body)).map(Some)
    }
}
