//! The `http` check: asks its question and reports what the answer means for the peer.
