"""Alerts: standing queries over what is written, and watches on the state of the system.

A document matches an alert when it is in the answer of the alert's retriever, with the alert's inputs, right after it
was written. New documents are held against all alerts of their collection in one pass (`percolator`); what that pass
cannot decide is asked of the retriever itself, and `standing` says which of the two an alert is.

standing (how an alert works) → percolator (which documents match) → evaluate (is that a hit?) → state (is it news?)
→ notify (who is told). `history` asks the same of documents that are there already.
"""
