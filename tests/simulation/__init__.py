"""A whole world in one thread: reactors, their database, their store, an app, and all that goes wrong between them."""
