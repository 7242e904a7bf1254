"""What checks an export, in parts that are read one by one; `joined` makes of them the one file that exports carry.

The parts need Python's standard library alone. Exports are written with the same rows and trees, so that a view
cannot mean two things.
"""
