"""Measuring retrievers: golden data sets, evaluations as jobs, benchmarks on recorded sessions, comparisons."""

from mediatheca.flows.evaluation.benchmarks import create_benchmark, run_benchmark
from mediatheca.flows.evaluation.datasets import (
    DatasetSpec,
    check_learning_config,
    create_dataset,
    dataset_view,
    generate_dataset,
)
from mediatheca.flows.evaluation.evaluations import EvaluationConfig, evaluation_view, run_evaluation, start_evaluation
from mediatheca.flows.evaluation.jobs import evaluation_died, evaluation_jobs
from mediatheca.flows.replay import Ran, Replayer, compare_runs, ran_of, replay_request

__all__ = [
    "DatasetSpec",
    "EvaluationConfig",
    "Ran",
    "Replayer",
    "check_learning_config",
    "compare_runs",
    "create_benchmark",
    "create_dataset",
    "dataset_view",
    "evaluation_died",
    "evaluation_jobs",
    "evaluation_view",
    "generate_dataset",
    "ran_of",
    "replay_request",
    "run_benchmark",
    "run_evaluation",
    "start_evaluation",
]
