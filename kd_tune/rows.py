"""The parameters of a network as one row of numbers, and back; narrower networks in the corners of a wider one.

Shapes: K rows, P numbers in each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Rows:
    """How tensors of some shapes lie in a row.

    A smaller tensor takes the corner of its place where all indices are smallest; the rest of it is zero.

    Args:
        shapes: of the places, by name.
    """

    def __init__(self, shapes: Mapping[str, torch.Size]) -> None:
        self._shapes = shapes
        self._sizes = [math.prod(shape) for shape in shapes.values()]

    def pack(self, tensors: Sequence[Tensor]) -> Tensor:
        """A copy of one tensor for every place, `[P]`."""
        places = [tensor.new_zeros(shape) for tensor, shape in zip(tensors, self._shapes.values(), strict=True)]
        for place, tensor in zip(places, tensors, strict=True):
            place[_corner(tensor)] = tensor.detach()
        return torch.cat([place.flatten() for place in places])

    def unpack(self, row: Tensor, tensors: Sequence[Tensor]) -> None:
        """Writes numbers `[P]` back into the tensors that they came from."""
        with torch.no_grad():
            for tensor, place in zip(tensors, self.by_name(row[None]).values(), strict=True):
                tensor.copy_(place[0][_corner(tensor)])

    def by_name(self, rows: Tensor) -> dict[str, Tensor]:
        """The places of rows `[K, P]`: views `[K, ...]` by name."""
        pieces = rows.split(self._sizes, dim=1)
        return {name: piece.view(-1, *shape) for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)}


def _corner(tensor: Tensor) -> tuple[slice, ...]:
    return tuple(slice(size) for size in tensor.shape)
