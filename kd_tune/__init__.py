"""Hyperparameter search for knowledge distillation, on Ray Tune."""

__version__ = "0.1.0"
