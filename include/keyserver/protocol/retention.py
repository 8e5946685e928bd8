"""What goes when, beside `exposure.RETENTION`: times that several workflows share (rules R1 to R3)."""

from __future__ import annotations

from datetime import timedelta

# How often retention runs: nothing is longer there than its limit and this.
CADENCE = timedelta(hours=1)
# R2: for so long at least a file stays in the store after its line left the index; no cache of an index is that old.
GRACE = timedelta(hours=24)
# How long a staged file may wait for its build, its confirmation or a decision, each of which may need a day.
STAGED_FOR = timedelta(days=1)
# Below this only by a named override: phones that look rarely would miss files (export.md 2.13).
LEAST_RETENTION = timedelta(days=10)
