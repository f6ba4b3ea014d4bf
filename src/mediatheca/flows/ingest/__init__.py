"""From objects to documents: plan a batch, process its chunks, settle it when everything is searchable."""
