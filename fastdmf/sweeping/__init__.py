"""The parts of a sweep: its grid, the work of one cell, the file that keeps it, the dataset at the end.

A finished cell is one line of text from the moment it leaves its worker.  The same lines come from threads,
processes and files, so that a dataset does not depend on who computed it, when, and in which order.
"""
