"""The service side of the local hub over HTTPS: what the service SDKs call, and the command line's client for it."""
