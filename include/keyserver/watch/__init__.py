"""Watching all the time: what was stored, what is in public, and how fresh it is."""
