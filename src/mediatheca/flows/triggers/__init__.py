"""Triggers: an action, and when it runs: by the clock, after events, or when a collection has changed enough.

`config` reads what a caller wrote, `state` stores it with its schedule, `events` is the consumer of events, `runs` the
jobs, `actions` what can be done, `canary` and `conditions` what is measured.
"""
