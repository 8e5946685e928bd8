"""From a health worker's code to a phone's certificate, for authorities that have no verification server (4.6, 4.7)."""
