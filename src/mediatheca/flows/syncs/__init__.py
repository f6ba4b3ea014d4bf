"""Syncs: a bucket follows a folder of a store that belongs to a caller.

connections (what is stored of one, and opening it) · config (what a caller may ask for) · filters, globs · mapping (a
file as an object) · state (records, runs, schedules) · ledger (what is known of every file) · files (read, into our
store) · objects (made of them) · failures (what could not be taken) · run (a slice of a run) · jobs.
"""
