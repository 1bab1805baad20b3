//! A real redis-server on a free port, ended with its handle.
