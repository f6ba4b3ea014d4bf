"""What is done with documents after they were written: one file each, one `Phase` value each, found by discovery.

In order of their numbers: 1 taxonomies, 2 clusters, 3 alerts, 4 retriever enrichments. A phase looks at the documents
of one follow-up, does what is attached to their collection (higher `priority` first) and says what came of it.

* It may be repeated after a crash, and then changes nothing that it has done already.
* A failed application is a problem in its `Outcome`, with the reason and what to do; the next one goes on.
* `run.check()` between steps. `UnavailableError` means: try the whole phase again later.
* Documents it writes go through `flows.enrichment.writer`, so that they are no news to this very mechanism.
"""

ENTRY_POINTS = "mediatheca.phases"
