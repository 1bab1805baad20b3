//! Logging: human unless in Kubernetes or asked for JSON. `warn` means that somebody may have to look.
