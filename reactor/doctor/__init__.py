"""The checks behind `reactor doctor`: what is wrong and how to fix it. Checks change nothing."""
