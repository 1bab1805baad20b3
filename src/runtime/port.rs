//! The way of commands to a part that may be started again: a bounded channel whose receiving end is made anew
//! at each start. What was queued for the part that failed is gone with it, as everything on a bus is.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

/// The sending side. Cheap to clone.
#[derive(Debug)]
pub struct Port<T> {
    sender: Arc<Mutex<Option<mpsc::Sender<T>>>>,
}

impl<T> Port<T> {
    /// A port that leads nowhere yet.
    pub fn new() -> Self {
        Self {
            sender: Arc::new(Mutex::new(None)),
        }
    }

    /// A fresh receiving end that holds up to `capacity` values; an earlier one receives nothing any more.
    #[must_use]
    pub fn connect(&self, capacity: usize) -> mpsc::Receiver<T> {
        let (sender, receiver) = mpsc::channel(capacity);
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// Hands `value` over at once, or gives it back: nobody there, or too much queued up.
    pub fn try_send(&self, value: T) -> Result<(), T> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        match sender.as_ref() {
            Some(sender) => sender
                .try_send(value)
                .map_err(mpsc::error::TrySendError::into_inner),
            None => Err(value),
        }
    }
}

impl<T> Clone for Port<T> {
    fn clone(&self) -> Self {
        Self {
            sender: Arc::clone(&self.sender),
        }
    }
}

impl<T> Default for Port<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_taken_comes_back() {
        let port = Port::new();
        assert_eq!(port.try_send(1), Err(1));
        let mut first = port.connect(1);
        assert_eq!(port.try_send(2), Ok(()));
        assert_eq!(port.try_send(3), Err(3));
        assert_eq!(first.try_recv(), Ok(2));

        let mut second = port.connect(1);
        assert_eq!(port.try_send(4), Ok(()));
        assert!(first.try_recv().is_err());
        assert_eq!(second.try_recv(), Ok(4));
        drop(second);
        assert_eq!(port.try_send(5), Err(5));
    }
}
