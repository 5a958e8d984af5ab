"""Does to sandboxes what happens to them in the long run, and counts what is left.

Each function does one kind of harm ``count`` times and returns a line with its figures; what must
not be raises AssertionError. `python -m tests.faults` does all of them, the suite a few of each.
"""
