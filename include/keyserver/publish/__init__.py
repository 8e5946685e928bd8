"""Phones publish keys to us: from a decoded request to stored rows, `accept` (publish.md 1.5)."""
