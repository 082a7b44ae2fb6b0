"""The event loop's tools: clock, timer, threads."""
