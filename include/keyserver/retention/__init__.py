"""What goes when, what somebody asks to have gone, and the proof that it is gone (rules R1 to R5)."""
