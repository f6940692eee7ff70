"""How large a search's students are, worked out before it starts, without their weights."""

from __future__ import annotations

import json
from collections.abc import Mapping

import optuna

from kd_tune import user_code
from kd_tune.catalog import build_network
from kd_tune.engine import count_parameters
from kd_tune.models.cost import without_weights
from kd_tune.records import derive_seed
from kd_tune.space import Draw, Space
from kd_tune.strata import Students

STUDENTS_DRAWN = 200


def survey(space: Space, shape: Mapping[str, int], seed: int) -> Students:
    """Draws students at random and says how large they are.

    Args:
        space: of any arm of a search: all have the same students.
        shape: of data and answers: num_classes, in_channels, image_size.
        seed: the search's.
    """
    students = Space({"student": space.template["student"]})
    sampler = optuna.samplers.RandomSampler(seed=derive_seed(seed, "students") % 2**32)
    study = optuna.create_study(sampler=sampler)
    counts: dict[str, int] = {}

    def count(draw: Draw) -> int:
        section = students.fill(draw)["student"]
        key = json.dumps(section, sort_keys=True, default=str)
        if key not in counts:
            counts[key] = _count(section, shape)
        return counts[key]

    return Students(count, tuple(students.suggest(study.ask()) for _ in range(STUDENTS_DRAWN)))


def _count(section: Mapping[str, object], shape: Mapping[str, int]) -> int:
    if user_code.is_reference(str(section["name"])):
        return count_parameters(build_network(section, **shape))  # may compute with its weights while it is built
    return count_parameters(without_weights(lambda: build_network(section, **shape)))
