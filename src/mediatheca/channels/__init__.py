"""Notification channels: one file each, one `Channel` value each. They import only the kernel."""

ENTRY_POINTS = "mediatheca.channels"
