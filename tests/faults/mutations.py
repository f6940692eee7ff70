"""Seeded ways of spoiling files: their bytes, their text, or the values that they hold."""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from typing import Any

import numpy as np

# What a hand, a disk, or somebody with bad intentions puts where something else belongs.
NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 10**9, 2**63, 10**400, -0.0, 1e-320, 1e308, float("inf"), float("nan")),
    *("", "nan", "1e999", "../../../etc/passwd", "\x00", "\ud800", "ä" * 50, "x" * 10_000, "os:system", "<script>"),
    *([], {}, [[]], [None], {"": None}, {"event": 3}, {"choice": []}, {"float": [1, 0]}, list(range(1000))),
)
NASTY_TEXT = (
    *("null", "~", "true", "yes", "-1", "0", "1e999", "-1e-999", ".inf", ".nan", "9" * 5000, "0x10", "1_000", "1:30"),
    *(
        "!!python/object/apply:os.system [id]",
        "!!binary aGk=",
        "&a [1]",
        "*a",
        "<<: {a: 1}",
        "{}",
        "[]",
        "''",
        '"',
        "'",
    ),
    *(
        "- -",
        "? ",
        ": ",
        "|",
        ">",
        "%YAML 9.9",
        "---",
        "...",
        "@",
        "`",
        "\t",
        "\x00",
        "\u2028",
        "\ufeff",
        "#",
        "[" * 500,
    ),
    *("{float: [1, 0]}", "{choice: []}", "{choice: [{}, 1]}", "{int: [0, 1e9]}", "{float: [0, 1], log: true}", "x:y"),
)
BILLION_LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def spoil_bytes(chance: random.Random, content: bytes) -> bytes:
    """Bits flipped, or bytes lost, doubled, moved, overwritten."""
    made = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        at, other = (chance.randrange(len(made) + 1) for _ in range(2))
        size = chance.choice((1, 2, 8, 100, 5000))
        kind = chance.randrange(8)
        if not made or kind == 0:
            made = made[:at]
        elif kind in (1, 2):
            made[at % len(made)] ^= 1 << chance.randrange(8)
        elif kind == 3:
            made[at : at + size] = b""
        elif kind == 4:
            made[at:at] = made[other : other + size]
        elif kind == 5:
            made[at : at + size] = made[other : other + size]
        elif kind == 6:
            made[at : at + size] = chance.choice((b"\0", b"\xff", b"\xfe\xff")) * size
        else:
            made[at : at + size] = chance.randbytes(size)
    return bytes(made)


def flip_bit(chance: random.Random, content: bytes) -> bytes:
    """One bit."""
    made = bytearray(content)
    made[chance.randrange(len(made))] ^= 1 << chance.randrange(8)
    return bytes(made)


def truncate(chance: random.Random, content: bytes) -> bytes:
    """The beginning of it."""
    return content[: chance.randrange(len(content))]


def spoil_yaml(chance: random.Random, text: str) -> bytes:
    """A search file that somebody mistyped, or made to do harm."""
    lines = text.splitlines()
    kind, at = chance.randrange(12), chance.randrange(len(lines))
    key, colon, value = lines[at].partition(":")
    if kind < 4 and colon:
        lines[at] = f"{key}: {chance.choice(NASTY_TEXT)}"
    elif kind == 4:
        lines[at] = lines[at].replace(value.strip() or "x", json.dumps(chance.choice(NASTY), default=str))
    elif kind == 5:
        lines.insert(at, chance.choice(lines))  # a key twice
    elif kind == 6:
        del lines[at]
    elif kind == 7:
        lines[at] = " " * chance.choice((1, 3, 40)) + lines[at]
    elif kind == 8:
        depth = chance.choice((10, 50, 1000, 100_000))
        deep = "[" * depth + "]" * chance.choice((0, depth)) if chance.random() < 0.5 else "{a: " * depth
        lines[at] = f"{key}: {deep}"
    elif kind == 9:
        lines.insert(at, BILLION_LAUGHS)
    elif kind == 10:
        lines[at] = f"{key}x: {value}"
    else:
        return spoil_bytes(chance, text.encode())
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def spoil_value(chance: random.Random, value: Any) -> Any:
    """A copy of a JSON value in which a part is lost, renamed, or something nasty."""
    made = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 2))):
        places = _places(made)
        if not places:
            break
        holder, key = chance.choice(places)
        kind = chance.randrange(6)
        if kind == 0 and isinstance(holder, dict):
            holder.pop(key, None)
        elif kind == 1 and isinstance(holder, dict):
            holder[key + "x"] = holder.pop(key, None)
        elif kind == 2:
            deep: Any = 0
            for _ in range(chance.choice((50, 400))):
                deep = [deep]
            holder[key] = deep
        else:
            holder[key] = copy.deepcopy(chance.choice(NASTY))  # which a later mutation may change
    return made


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in _places(value[key])]


def spoil_json(chance: random.Random, value: Any) -> bytes:
    """One JSON text: another value, a key twice, or spoilt bytes."""
    text = json.dumps(spoil_value(chance, value) if chance.random() < 0.8 else value)
    if chance.random() < 0.1:
        text = text[:-1] + ", " + text[1:]
    if chance.random() < 0.05:
        text = text.replace("0.", "9" * 5000 + ".", 1)
    content = text.encode("utf-8", "surrogatepass")
    return spoil_bytes(chance, content) if chance.random() < 0.2 else content


def spoil_arrays(chance: random.Random, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of which one has other numbers, another shape or type, or holds objects."""
    made = dict(arrays)
    key = chance.choice(list(made))
    old = made[key]
    kind = chance.randrange(9)
    if kind == 0:
        made.pop(key)
    elif kind == 1:
        made[key] = old[: chance.choice((0, 1, len(old) - 1))]
    elif kind == 2:
        types = (np.int8, np.int64, np.float32, np.float64, np.complex64, bool, "U8", "S3", "M8[s]", np.uint16)
        made[key] = old.astype(chance.choice(types))
    elif kind == 3:
        made[key] = np.array([{"a": 1}, print], object)
    elif kind == 4:
        made[key] = old[..., None] if chance.random() < 0.5 else old.reshape(-1)
    elif kind == 5:
        numbers = old.astype(np.float64).reshape(-1)
        numbers[chance.randrange(numbers.size)] = chance.choice((np.nan, np.inf, -1, 1e300))
        made[key] = numbers.reshape(old.shape)
    elif kind == 6:
        made[key] = np.array(chance.choice((0, -1, 2**60)))
    elif kind == 7:
        numbers = old.astype(np.int64).copy()
        numbers.reshape(-1)[chance.randrange(numbers.size)] = chance.choice((-1, 255, 10**6, 2**62))
        made[key] = numbers
    else:
        made[chance.choice(list(arrays))] = made[key]
    return made


def spoil_npz(chance: random.Random, arrays: dict[str, np.ndarray], whole: bytes) -> tuple[bytes, Any]:
    """An .npz file, and the arrays that it holds ({}: as numpy reads them); None where only bytes were spoilt.

    Beside arrays of another kind: bombs (megabytes of zeros in a few bytes, headers that promise terabytes), names that
    lead elsewhere, members twice.
    """
    kind = chance.randrange(8)
    if kind < 3:
        return spoil_bytes(chance, whole), None
    file = io.BytesIO()
    if kind < 6:
        made = spoil_arrays(chance, arrays)
        (np.savez_compressed if chance.random() < 0.5 else np.savez)(file, **made)
        return file.getvalue(), made
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in arrays.items():
            archive.writestr(f"{key}.npy", _as_npy(value))
        name = f"{chance.choice(list(arrays))}.npy"
        if kind == 6:
            shape = chance.choice(((2**40,), (2**31, 28, 28), (-1,), (2**62, 2**62), (10**30,)))
            header = str({"descr": chance.choice(("|u1", "<f8", "|O")), "fortran_order": False, "shape": shape})
            text = header.encode().ljust(117) + b"\n"
            content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
            with_zeros = content + bytes(chance.choice((0, 10**6)))
        else:
            with_zeros = spoil_bytes(chance, _as_npy(arrays[name[:-4]]))
    content = file.getvalue()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in old.namelist():
            archive.writestr(member, with_zeros if member == name else old.read(member))
    return file.getvalue(), {}


def _as_npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def spoil_safetensors(chance: random.Random, content: bytes) -> bytes:
    """Spoilt bytes, a header that lies about lengths, places, shapes or types, or tensors that are not finite."""
    if chance.random() < 0.4:
        return spoil_bytes(chance, content)
    length = int.from_bytes(content[:8], "little")
    header, numbers = json.loads(content[8 : 8 + length]), content[8 + length :]
    if chance.random() < 0.2:
        lie = chance.choice((0, 1, 2**24, 2**32, 2**63, 2**64 - 1, length - 1, length + 1))
        return lie.to_bytes(8, "little") + content[8:]
    if chance.random() < 0.2:
        return content[: 8 + length] + chance.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f")) * (len(numbers) // 4)
    text = json.dumps(spoil_value(chance, header)).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + numbers
