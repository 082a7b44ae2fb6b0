"""The spool, to which apps write, and the object stores."""
