"""When the reactor does it: hearing, track_released, claiming, settling, and catching up."""
