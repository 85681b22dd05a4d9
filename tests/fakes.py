"""Fakes for unit tests. Each is held against the real part by a contract test in tests/integration."""
