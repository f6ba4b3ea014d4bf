"""Standing queries turned round: a few new documents against many queries in one pass, instead of one query after the
other against all documents. Pure.

Each part gives every (document, query) pair that can match and never leaves one out: `vectors` for nearness, `lexical`
for words, `filters` for conditions. `ranks` knows how much room a query has left before its `top_k` cuts: as long as
there is room, a document above the floor is a match without asking anybody.
"""
