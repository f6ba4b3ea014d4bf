"""Changing the model of a collection while it stays searchable: plan → build beside → compare → switch or roll back.

New vectors stand in columns of their own (`side_indexes` of the collection) beside those that answer searches. What was
written meanwhile is made up for before each turn, and a turn is one transaction under the table's lease, so that no
search ever meets a document without a vector. After it the old feature URIs lead to the new index (`index_map`), and
the old vectors stay until `finish`, for a way back.
"""
