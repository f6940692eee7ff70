"""Hyperparameter search for knowledge distillation, on Ray Tune.

From Python: `run_search` and `resume_search` run searches, `read_run` gives a run as tables, `train_trial` trains one
student, `load_student` opens an exported one. What a person can mend is raised as a `ConfigError`. All of it is
imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kd_tune import ray_environment as ray_environment

if TYPE_CHECKING:
    from kd_tune.library import ConfigError, load_student, read_run, resume_search, run_search, train_trial

__version__ = "0.1.0"
__all__ = ["ConfigError", "__version__", "load_student", "read_run", "resume_search", "run_search", "train_trial"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kd_tune import library

    return getattr(library, name)


def __dir__() -> list[str]:
    return sorted(__all__)
