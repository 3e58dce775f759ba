"""DVC's pointer files: what git keeps of a file or a directory whose bytes are elsewhere.

Of the YAML only what DVC itself writes is read: one entry under `outs`, one `key: value` a line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from mlbox.errors import InvalidInput
from mlbox.records import Record

MAX_POINTER = 1 << 20
_LINE = re.compile(r"(?P<indent>[ -]*)(?P<key>[A-Za-z_][\w-]*):(?: +(?P<value>.*))?")
_PLAIN = re.compile(r"(?![\d_.eE+-]+$|0[xo])\w[\w./@-]*", re.ASCII)
"""Text that needs no quotes: not what YAML takes for a number or a date."""
_WORDS = frozenset(("true", "false", "yes", "no", "on", "off", "null", "y", "n"))
"""What YAML takes for something else than text."""


class Pointer(Record, frozen=True, kw_only=True):
    """What a pointer file names: an object of a DVC remote, and where it goes."""

    md5: str = ""
    """Of a directory with `.dir` at its end."""
    path: str = ""
    """Where it goes, beside the pointer file."""
    size: int | None = None
    """Bytes, of all files together."""
    nfiles: int | None = None
    dataset: str = ""
    """The version that it is, as NAME@vN."""
    hash: str = ""
    """That version's hash."""


class _Entry(NamedTuple):
    indent: int
    first: bool
    """Whether it begins an item of a list."""
    key: str
    value: str


def write_pointer(pointer: Pointer) -> str:
    """The text of a pointer file, as DVC would write it, with a `meta` block that names the version."""
    out = {"md5": pointer.md5, "size": pointer.size, "nfiles": pointer.nfiles, "hash": "md5", "path": pointer.path}
    lines = [f"{key}: {_scalar(value)}" for key, value in out.items() if value is not None]
    text = "outs:\n- " + "\n  ".join(lines) + "\n"
    if pointer.dataset:
        meta = {"dataset": pointer.dataset, "hash": pointer.hash}
        text += "meta:\n  mlbox:\n" + "".join(f"    {key}: {_scalar(value)}\n" for key, value in meta.items())
    return text


def read_pointer(text: str, *, name: str) -> Pointer:
    """What a pointer file says; raises InvalidInput, naming the file, for what is none, or has several outs."""
    top, outs, meta = "", [], {}
    for entry in _entries(text, name):
        if entry.indent == 0 and not entry.first:
            top = entry.key
        elif top == "outs" and entry.first:
            outs.append({entry.key: entry.value})
        elif top == "outs" and outs:
            outs[-1].setdefault(entry.key, entry.value)
        elif top == "meta":
            meta[entry.key] = entry.value
    if len(outs) != 1 or not outs[0].get("md5") or not outs[0].get("path"):
        found = f"it has {len(outs)} outs" if len(outs) != 1 else "its out has no md5 or no path"
        raise InvalidInput(f"{name} is no pointer to one file or directory: {found}.", hint=_HINT, field="pointer")
    out = outs[0]
    if out.get("hash") != "md5":
        raise InvalidInput(
            f"{name} was written by DVC 2 or earlier, which names files in another way.",
            hint="Run `dvc cache migrate --dvc-files` in its repository, and push again.",
            field="pointer",
        )
    return Pointer(
        md5=out["md5"],
        path=out["path"],
        size=_number(out, "size", name),
        nfiles=_number(out, "nfiles", name),
        dataset=meta.get("dataset", ""),
        hash=meta.get("hash", ""),
    )


_HINT = "Give the .dvc file that `dvc add` wrote."


def _entries(text: str, name: str) -> Iterator[_Entry]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#") or line.strip() == "---":
            continue
        found = _LINE.fullmatch(line.rstrip())
        if found is None:
            continue  # a text over several lines, such as a description
        dash = found["indent"].rstrip(" ").endswith("-")
        yield _Entry(len(found["indent"]), dash, found["key"], _value(found["value"] or "", name, number))


def _value(text: str, name: str, number: int) -> str:
    """A scalar; what a description may be besides is left as it is, since nobody asks for it."""
    try:
        if text.startswith('"'):
            value, end = json.JSONDecoder().raw_decode(text)
            rest = text[end:]
        elif text.startswith("'"):
            found = re.match(r"'((?:[^']|'')*)'", text)
            value, rest = (found[1].replace("''", "'"), text[found.end() :]) if found else (text, "")
        else:
            value, rest = text.partition(" #")[0].strip(), ""
    except ValueError as err:
        raise InvalidInput(f"Line {number} of {name} cannot be read.", hint=_HINT, field="pointer") from err
    if rest.strip() and not rest.lstrip().startswith("#"):
        raise InvalidInput(f"Line {number} of {name} cannot be read.", hint=_HINT, field="pointer")
    return str(value)


def _number(out: dict[str, str], key: str, name: str) -> int | None:
    text = out.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidInput(f"The {key} in {name} is no number.", hint=_HINT, field="pointer")
    return int(text)


def _scalar(value: object) -> str:
    text = str(value)
    if isinstance(value, int) or (_PLAIN.fullmatch(text) and text.lower() not in _WORDS):
        return text
    return json.dumps(text, ensure_ascii=False)
