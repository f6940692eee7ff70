"""Teachers that are not trained networks: two controls that know nothing, and answers from a file.

What they say about images is made in `prepare`; here is what a search file says about them. A student that learns as
well from one of the controls as from a real teacher has learnt nothing from the real one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

Seed = Annotated[int, Field(ge=0, lt=2**32)]


@dataclass(frozen=True)
class Random:
    """A network with its first, random weights: its answers follow the image, but say nothing about its class.

    Attributes:
        network: a teacher's name.
        seed: of the weights.
    """

    network: str
    seed: Seed = 0


@dataclass(frozen=True)
class Permuted:
    """A real teacher whose answers are dealt out among the images: right in style and number, wrong for each image.

    All views of an image get the answers to the same other image.

    Attributes:
        of: a teacher's name.
        seed: of the permutation.
    """

    of: str
    seed: Seed = 0


@dataclass(frozen=True)
class Logits:
    """Answers from a file, of a teacher that cannot be run here.

    Attributes:
        file: `.npy`, `[N, C]` for the clean image or `[V, N, C]` for the first V views of `augment.view_table`, where N
            counts all of the data set's training images before the split, in its own order.
    """

    file: str


DERIVED: dict[str, type] = {"random": Random, "permuted": Permuted, "logits": Logits}
