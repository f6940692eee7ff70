"""Latency and memory of ONNX files in onnxruntime on one thread, in processes that do not load torch.

Times are taken in one process, file after file in every round, so that what else the machine does falls on all of them
alike. Memory is taken in a process a file.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from kd_tune.manifest import processor

BATCHES = {1: 50, 32: 10}  # rounds by batch size
WARM_UP = 3

Shape = tuple[int, int, int]  # channels, height, width


def measure(files: Mapping[str, Path], shape: Shape) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Times files, and takes their memory.

    Args:
        files: ONNX by name, all for the same images.
        shape: of an image.

    Returns:
        By name: `latency_ms_batch_1` and `latency_ms_batch_32`, medians for the whole batch, and `memory_mib`, by which
        the process grows that loads the file and runs the larger batch. And the conditions.
    """
    paths = {name: str(path) for name, path in files.items()}
    load_before = os.getloadavg()[0]
    figures = {name: dict(times) for name, times in _in_process(_times, paths, shape).items()}
    for name, path in paths.items():
        figures[name]["memory_mib"] = _in_process(_memory, path, shape)
    return figures, {
        "runtime": f"onnxruntime {_runtime_version()}",
        "processor": processor(),
        "threads": 1,
        "rounds": {str(size): rounds for size, rounds in BATCHES.items()},
        "statistic": "median of rounds, files taking turns",
        "load_average_before": round(load_before, 2),
        "system": platform.platform(),
    }


def _in_process(function: Any, *arguments: Any) -> Any:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def _runtime_version() -> str:
    from importlib.metadata import version

    return version("onnxruntime")


def _session(path: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _images(size: int, shape: Shape) -> np.ndarray:
    return np.random.default_rng(0).random((size, *shape), dtype=np.float32)


def _times(paths: Mapping[str, str], shape: Shape) -> dict[str, dict[str, float]]:
    """Median milliseconds by file and batch size."""
    sessions = {name: _session(path) for name, path in paths.items()}
    found: dict[str, dict[str, float]] = {name: {} for name in paths}
    for size, rounds in BATCHES.items():
        images = _images(size, shape)
        taken: dict[str, list[float]] = {name: [] for name in paths}
        for _ in range(WARM_UP + rounds):
            for name, session in sessions.items():
                began = time.perf_counter()
                session.run(None, {"images": images})
                taken[name].append(1000 * (time.perf_counter() - began))
        for name, times in taken.items():
            found[name][f"latency_ms_batch_{size}"] = round(median(times[WARM_UP:]), 4)
    return found


def _memory(path: str, shape: Shape) -> float:
    """MiB that the largest batch needs beyond a process that has loaded onnxruntime."""
    import onnxruntime  # noqa: F401 - what it takes by itself is not the file's

    images = _images(max(BATCHES), shape)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _peak_bytes()
    session = _session(path)
    session.run(None, {"images": images})
    return round((_peak_bytes() - before) / 2**20, 2)


def _peak_bytes() -> int:
    """The largest resident memory of this process; Linux counts its parent's in `getrusage`."""
    with suppress(OSError):
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
        if found:
            return 1024 * int(found[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
