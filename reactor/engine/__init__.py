"""When the reactor does it: hearing, remembering, claiming, settling, and catching up."""
