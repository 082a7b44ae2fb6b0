"""`reactor demo`: a simulated app with failing uploads and stale runs, and a reactor that handles them."""
