"""The demo: a real database, a real reactor, a folder for a store that is flaky on purpose, and an app that suffers."""
