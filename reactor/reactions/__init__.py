"""The reactions: the work that the reactor does for each kind of row."""
