"""Measurements; `make bench` runs them and prints what they found."""
