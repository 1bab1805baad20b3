//! Answers that are long because there are many peers: made once for each snapshot and shared by all who ask. Whoever
//! asks without end then gets neither the thread (the engine's too) nor a copy of megabytes for each connection.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use axum::body::Bytes;

use super::View;

/// A shorter answer is made anew for each request: its ages and counters are those of that moment.
const LONG: usize = 256 * 1024;

/// The last answer of one endpoint, if it was long, and what it was made from.
#[derive(Debug, Default)]
pub(super) struct Long(Mutex<Option<(Weak<View>, Bytes)>>);

impl Long {
    /// What `make` says of `view`, or said of it before.
    pub(super) fn of(
        &self,
        view: &Arc<View>,
        make: impl FnOnce() -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<Bytes> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((from, body)) = &*kept
            && from.as_ptr() == Arc::as_ptr(view)
        {
            return Ok(body.clone());
        }
        let body = Bytes::from(make()?);
        *kept = (body.len() > LONG).then(|| (Arc::downgrade(view), body.clone()));
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_answer_is_made_once_for_each_snapshot_and_a_short_one_each_time() {
        for (size, for_two) in [(LONG + 1, 1), (LONG, 2)] {
            let long = Long::default();
            let mut times = 0;
            let mut ask = |view: &Arc<View>| {
                let make = || {
                    times += 1;
                    Ok(vec![b'x'; size])
                };
                assert_eq!(long.of(view, make).unwrap().len(), size);
                times
            };
            let view = Arc::new(View::misconfigured("x"));
            ask(&view);
            assert_eq!(ask(&view), for_two);
            assert_eq!(ask(&Arc::new(View::misconfigured("x"))), for_two + 1);
        }
    }
}
