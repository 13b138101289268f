"""A real one-node Kubernetes for tests, built from packages and Go modules."""
