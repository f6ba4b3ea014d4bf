"""Durable jobs: queue, worker, schedule, and the runners that execute extractors."""
