"""Other keys than those that sign: the revision keys are rotated, the keys of health authorities are imported."""
