"""From closed windows to released files, one module a step.

In their order: windows, claim, build, gate, sign, verify, release, index.
Every step is safe to run again: it looks where its batch stands, does nothing when it was done before, and moves the
batch on by an update that names the run's claim, in one transaction with its audit event (rules B1, B3, A1).
"""
