//! The signature of a message, as Stripe signs its own: who has the key can tell that it came from a defib, and when.
//!
//! `X-Defib-Signature: t=1770000000,v1=HEX`: HMAC-SHA256 over `t`, a dot, and the body as it is on the wire. The time
//! is that of the attempt, so that a receiver may refuse what is old.

use std::fmt::Write as _;
use std::time::Duration;

use ring::hmac;

/// The header that holds it.
pub(super) const HEADER: &str = "X-Defib-Signature";

/// The header's value. `wall` is the time since 1970.
pub(super) fn sign(key: &str, wall: Duration, body: &str) -> String {
    let seconds = wall.as_secs();
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let tag = hmac::sign(&key, format!("{seconds}.{body}").as_bytes());
    let mut value = format!("t={seconds},v1=");
    for byte in tag.as_ref() {
        // Writing to a String cannot fail.
        let _ = write!(value, "{byte:02x}");
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `printf '1492774577.{"a":1}' | openssl dgst -sha256 -hmac secret`.
    #[test]
    fn it_is_what_openssl_says() {
        let signed = sign("secret", Duration::from_secs(1_492_774_577), "{\"a\":1}");
        assert_eq!(
            signed,
            "t=1492774577,v1=ff8d5f25d7eee08192b9853d29d5e538b200ea9882f0a5f1be60b41cefdc5d79"
        );
    }
}
