"""A matplotlib figure as SVG that stands inside a page: no style and no script, no name that another figure has.

What is black, grey or white takes the page's colours (the classes of `report.css`), so that it can be read on a dark
page too. What is drawn on a colour keeps its own: whatever has the gid `OWN_COLOURS`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import matplotlib as mpl
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

OWN_COLOURS = "own_colours"
WIDE = 800  # pixels; a narrow screen shows less of a wider figure, not a smaller one
DPI = 160  # of what is rasterised
DROPPED = {"metadata", "style"}
DROPPED_STYLES = {"font", "font-family", "mix-blend-mode"}
GREYS = ((0.25, "ink"), (0.65, "dim"), (0.85, "faint"), (0.99, "grid"), (1.0, "page"))  # lightness up to which
REFERENCE = re.compile(r"#([^)]+)")
NUMBER = re.compile(r"-?\d+\.\d+")
NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that XML has no place for
REPLACEMENT = "\ufffd"


def inline(figure: Figure, name: str, title: str) -> str:
    """An `<svg>` element.

    Args:
        figure: to be drawn.
        name: its ids begin so; no other figure of the page has it.
        title: what it shows, for who cannot see it.
    """
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kd_tune"}):
        figure.savefig(text, format="svg", transparent=True, dpi=DPI, metadata={"Date": None})
    root = ElementTree.fromstring(NO_XML.sub(REPLACEMENT, text.getvalue()))  # noqa: S314 - matplotlib wrote it
    _clean(root, _new_ids(root, name), own_colours=False)
    width, height = (_pixels(root.get(key, "")) for key in ("width", "height"))
    look = "plot wide" if int(width) > WIDE else "plot"
    root.attrib |= {"width": width, "height": height, "class": look}
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title"}
    heading = Element("title", {"id": f"{name}-title"})
    heading.text = NO_XML.sub(REPLACEMENT, title)
    root.insert(0, heading)
    return ElementTree.tostring(root, encoding="unicode")


def _new_ids(root: Element, name: str) -> dict[str, str]:
    """New ids of the elements that others refer to."""
    values = (value for element in root.iter() for value in element.attrib.values() if "#" in value)
    targets = {target for value in values for target in REFERENCE.findall(value)}
    known = dict.fromkeys(element.get("id", "") for element in root.iter())
    return {old: f"{name}-{number}" for number, old in enumerate(known) if old in targets}


def _clean(element: Element, ids: dict[str, str], own_colours: bool) -> None:
    """Rewrites an element and what is in it."""
    element.tag = _local(element.tag)
    old, element.attrib = element.attrib, {}
    own_colours = own_colours or old.get("id", "").startswith(OWN_COLOURS)
    if old.get("id") in ids:
        element.set("id", ids[old["id"]])
    styles = dict(_styles(old.pop("style", "")))
    if own_colours and element.tag in ("text", "g"):
        styles.setdefault("fill", "#000000")
    for key, value in {**old, **styles}.items():
        _set(element, _local(key), value, ids, own_colours)
    for child in list(element):
        if _local(child.tag) in DROPPED:
            element.remove(child)
        else:
            _clean(child, ids, own_colours)


def _set(element: Element, key: str, value: str, ids: dict[str, str], own_colours: bool) -> None:
    if key in ("id", "space", "version"):
        return
    if key in ("fill", "stroke") and not own_colours and (grey := _grey(value)):
        element.set("class", " ".join(filter(None, (element.get("class"), f"{key}-{grey}"))))
        return
    if key in ("d", "x", "y", "transform"):
        value = NUMBER.sub(_rounded, value)
    if _refers(key, value):
        value = REFERENCE.sub(lambda found: f"#{ids.get(found[1], found[1])}", value)
    element.set(key, value)


def _rounded(number: re.Match[str]) -> str:
    """To a hundredth of a point; scales, which are below 1, to four digits."""
    value = float(number[0])
    return f"{value:.4g}" if abs(value) < 1 else f"{value:.2f}"


def _refers(key: str, value: str) -> bool:
    return (key == "href" and value.startswith("#")) or value.startswith("url(#")


def _styles(style: str) -> Iterator[tuple[str, str]]:
    for part in style.split(";"):
        key, colon, value = part.partition(":")
        if colon and key.strip() not in DROPPED_STYLES:
            yield key.strip(), value.strip()


def _grey(colour: str) -> str | None:
    """The page's colour in place of a black, grey or white one; None for any other."""
    if not colour.startswith("#"):
        return None
    red, green, blue = to_rgb(colour)
    if max(red, green, blue) - min(red, green, blue) > 0.01:
        return None
    return next(name for most, name in GREYS if red <= most)


def _local(name: str) -> str:
    """A name without its namespace."""
    return name.rpartition("}")[2]


def _pixels(points: str) -> str:
    return f"{float(points.removesuffix('pt')) * 4 / 3:.0f}"
