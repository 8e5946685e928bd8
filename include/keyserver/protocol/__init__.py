"""The protocol's rules, pure: no I/O, no clock, no environment, no global randomness; all of these are arguments."""
