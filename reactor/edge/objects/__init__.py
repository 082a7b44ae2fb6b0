"""Where the bytes of an upload go: one protocol, and a module per kind of store."""
