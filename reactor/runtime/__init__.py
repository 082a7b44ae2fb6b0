"""Clock, timers and threads for the event loop."""
