"""Where bytes are kept: the spool that apps write to, and the object stores."""
