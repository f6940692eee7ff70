"""How small an image may be for a network."""

from __future__ import annotations


def check_size(name: str, image_size: int, smallest: int) -> None:
    """Raises ValueError if images are smaller than a network can take."""
    if image_size < smallest:
        raise ValueError(f"{name} needs images of at least {smallest} x {smallest} pixels, not {image_size}")
