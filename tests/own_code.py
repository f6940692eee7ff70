"""A package as users bring it: student, teacher, objective and transform of their own, outside of the repository."""

from __future__ import annotations

from pathlib import Path

PACKAGE = "acme_vision"

NETWORKS = '''
"""Networks of a user's own: plain functions and classes that know nothing of kd_tune."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

Path(__file__).with_name("was_imported").touch()


def small(num_classes, in_channels, image_size, hidden: Annotated[int, Field(ge=1)] = 8):
    pixels = in_channels * image_size**2
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))


class Big(nn.Module):
    def __init__(self, num_classes, in_channels, image_size, **options):
        super().__init__()
        self.last = nn.Linear(in_channels * image_size**2, num_classes, bias=options.get("bias", True))

    def forward(self, images):
        return self.last(images.flatten(1))


def reads_its_weights(num_classes, in_channels, image_size, hidden=8):
    network = small(num_classes, in_channels, image_size, hidden)
    network[1].bias.data.fill_(network[1].weight.abs().max().item())
    return network


def wrong_shape(num_classes, in_channels, image_size):
    return nn.Flatten()


def no_network(num_classes, in_channels, image_size):
    return 3


def broken(num_classes, in_channels, image_size):
    raise KeyError("no such weights")


not_callable = 3
as_partial = partial(small, image_size=16)


class Size(BaseModel):
    size: int


def for_checkers(num_classes, in_channels, image_size, hidden: "Sequence[int]" = 3):
    return small(num_classes, in_channels, image_size, hidden)


def with_model(num_classes, in_channels, image_size, hidden: Size):
    return small(num_classes, in_channels, image_size, hidden.size)
'''

LOSSES = '''
"""An objective of a user's own."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from pydantic import Field


@dataclass(frozen=True)
class MatchLogits:
    """Mean squared distance between logits."""

    num_classes: int
    weight: Annotated[float, Field(ge=0)] = 1.0
    version: ClassVar[int] = 1
    needs_teacher: ClassVar[bool] = True

    def __call__(self, student_logits, labels, teacher_logits):
        return {
            "match": self.weight * self.num_classes * F.mse_loss(student_logits, teacher_logits),
            "hard": F.cross_entropy(student_logits, labels),
        }


def nothing():
    return lambda student_logits, labels, teacher_logits: {}


def invert(images):
    return 255 - images
'''


def write_package(folder: Path) -> Path:
    """Writes the package into a folder, which is returned."""
    package = folder / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "networks.py").write_text(NETWORKS)
    (package / "losses.py").write_text(LOSSES)
    return folder


def was_imported(folder: Path) -> bool:
    """Whether anybody has run the package's code."""
    return (folder / PACKAGE / "was_imported").exists()
