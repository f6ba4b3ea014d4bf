"""Side-by-side measurements over a real server in its own process: `python -m benchmarks [name …]`.

Every figure is the median of several runs with its minimum and maximum, beside the load of the machine while it was
measured. JSON goes to `benchmarks/out/`, a table to standard output; `benchmarks/RESULTS.md` keeps the record.
"""
