"""Reactor processes under faults: an app as load, the faults, and the checks at the end."""
