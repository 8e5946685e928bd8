"""A simulated phone: keys, uploads, download, verification, matching.

It knows the protocol only as a phone does. Its reader of files shares no code with the exporter, so that the two
check each other.
"""
