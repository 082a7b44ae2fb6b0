"""What is wrong here, and what mends it: the checks behind `reactor doctor`. They look, and change nothing."""
