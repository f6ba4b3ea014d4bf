"""Resources: one file each, one `Resource` declaration each. The contract is in `base.py`."""
