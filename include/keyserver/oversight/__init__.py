"""What operators and auditors ask, answered from what is stored: nothing here changes a state.

explain and window: where is this key, or why is it nowhere; what became of all keys of a window. provenance: what a
batch's files were made of, by which rules, and that its counts add up. rebuild: that the same rows still give the same
bytes. An answer never holds a key.
"""
