"""A file of a run on a page: by its ending a picture, a table, a text, JSON, Markdown, or the graph of a model."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec
from markupsafe import Markup

from mlbox.errors import MlboxError
from mlbox.records import Job, RunArtifact
from mlbox.store.sandbox.look import ROWS, look
from mlbox.store.sandbox.look_worker import Format, GraphLook
from mlbox.web.box import Box
from mlbox.web.downloads import IMAGES
from mlbox.web.pages.graph_picture import GraphDrawing, draw

MOST_BYTES = 512_000
"""Of a text, what a page shows."""
MOST_COLUMNS = 200
MOST_CELL = 200
_LOOKED: dict[str, Format] = {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".onnx": "onnx"}
_TABLES = {".csv": ",", ".tsv": "\t"}
_MARKDOWN = (".md", ".markdown")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}


class Sheet(NamedTuple):
    """A table: its columns, its first rows, and how many there are."""

    columns: Sequence[str]
    types: Sequence[str]
    rows: Sequence[Sequence[str | None]]
    in_all: int | None
    """None where nobody counted."""


class Seen(NamedTuple):
    """A file as it is shown."""

    kind: Literal["image", "table", "text", "markdown", "graph", "nothing"]
    note: str = ""
    text: str = ""
    html: Markup = Markup("")
    sheet: Sheet | None = None
    graph: GraphLook | None = None
    drawing: GraphDrawing | None = None


def see(box: Box, run_id: str, file: RunArtifact) -> Seen:
    """A file by its ending; what cannot be shown says why."""
    ending = PurePosixPath(file.path).suffix.lower()
    if ending in IMAGES:
        return Seen("image")
    try:
        path = box.artifacts.path(file.sha256)
        if ending in _LOOKED:
            return _looked(box, path, _LOOKED[ending])
        with path.open("rb") as opened:
            content = opened.read(MOST_BYTES)
    except (MlboxError, OSError) as err:
        return Seen("nothing", f"It cannot be read: {err}")
    return _text(run_id, file, ending, content)


def _looked(box: Box, path: Any, format: Format) -> Seen:
    found = look(path, format, memory_mb=box.settings.upload_memory_mb, seconds=box.settings.upload_seconds)
    if found.table is not None:
        table = found.table
        more = (
            f"{table.columns_in_all - len(table.columns)} columns more. "
            if table.columns_in_all > len(table.columns)
            else ""
        )
        note = (
            f"The first {len(table.rows):,} of {table.rows_in_all:,} rows. {more}"
            if more or table.rows_in_all > ROWS
            else ""
        )
        return Seen("table", note, sheet=Sheet(table.columns, table.types, table.rows, table.rows_in_all))
    if found.graph is not None:
        return Seen("graph", graph=found.graph, drawing=draw(found.graph))
    return Seen("nothing", found.error)


def _text(run_id: str, file: RunArtifact, ending: str, content: bytes) -> Seen:
    cut = f"The first {MOST_BYTES // 1000:,} kB." if file.size > MOST_BYTES else ""
    if b"\0" in content[:8192]:
        return Seen("nothing", "It is no text, and no kind of file that is shown here.")
    text = content.decode("utf-8", "replace")
    if ending in _TABLES:
        return _csv(text, _TABLES[ending], cut)
    if ending == ".json" and not cut:
        return _json(content, text)
    if ending in _MARKDOWN:
        return Seen("markdown", cut, html=markdown(text, run_id, file.path))
    return Seen("text", cut, text=plain(text))


def plain(text: str) -> str:
    """A text without what a terminal would take for colours; other control characters are seen as what they are."""
    return _ANSI.sub("", text.replace("\r\n", "\n")).translate(_CONTROL)


def _csv(text: str, mark: str, cut: str) -> Seen:
    try:
        read = list(_first(csv.reader(io.StringIO(text, newline=""), delimiter=mark), ROWS + 2))
    except csv.Error as err:
        return Seen("text", f"It is no table: {err}.", text=plain(text))
    rows = [[cell[:MOST_CELL] for cell in row[:MOST_COLUMNS]] for row in read if row]
    more = "" if len(read) <= ROWS + 1 and not cut else f"The first {min(len(rows) - 1, ROWS)} rows."
    if not rows:
        return Seen("nothing", "It is empty.")
    wide = max(len(row) for row in rows)
    filled = [[*row, *[None] * (wide - len(row))] for row in rows[: ROWS + 1]]
    return Seen("table", more, sheet=Sheet([name or "" for name in filled[0]], (), filled[1:], None))


def _first(rows: Any, most: int) -> Any:
    for at, row in enumerate(rows):
        if at >= most:
            return
        yield row


def _json(content: bytes, text: str) -> Seen:
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError) as err:
        return Seen("text", f"It is no JSON: {err}.", text=plain(text))
    columns, data = (found.get("columns"), found.get("data")) if isinstance(found, dict) else (None, None)
    if isinstance(columns, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        rows = [[_cell(cell) for cell in row[:MOST_COLUMNS]] for row in data[:ROWS]]
        note = f"The first {ROWS} of {len(data):,} rows." if len(data) > ROWS else ""
        return Seen(
            "table", note, sheet=Sheet([_cell(one) or "" for one in columns[:MOST_COLUMNS]], (), rows, len(data))
        )
    return Seen("text", text=plain(msgspec.json.format(content, indent=2).decode()))


def _cell(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value if value is None else value[:MOST_CELL]
    return msgspec.json.encode(value).decode()[:MOST_CELL]


# -- Markdown -----------------------------------------------------------------------------------------------------------


def markdown(text: str, run_id: str, path: str) -> Markup:
    """CommonMark with tables as HTML that is safe: no HTML of its own, no address but of the web or of the run's other files."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(text)
    folder = PurePosixPath(path).parent
    level = 1  # that of the page's own heading; none is left out on the way down
    for token in tokens:
        if token.type == "heading_open":
            level = min(6, int(token.tag[1]) + 1, level + 1)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{level}"
        for child in token.children or ():
            _lead(child, run_id, folder)
    return Markup(reader.renderer.render(tokens, reader.options, {}))  # noqa: S704 - it escapes whatever it does not make itself


def _lead(token: Any, run_id: str, folder: PurePosixPath) -> None:
    """Let a link or an image of a Markdown lead to where it may."""
    name = {"link_open": "href", "image": "src"}.get(token.type)
    if name is None:
        return
    address = str(token.attrGet(name) or "")
    parts = urlsplit(address)
    if not parts.scheme and not parts.netloc and parts.path:
        inside = quote(str(folder / parts.path))
        page = f"/runs/{run_id}/files/" if name == "href" else f"/api/v1/runs/{run_id}/images/"
        token.attrSet(name, page + inside)
    elif name == "src":  # the browser would ask another host, and may not
        token.type, token.tag, token.attrs, token.children = "text", "", {}, None
    elif parts.scheme:
        token.attrSet("rel", "noopener noreferrer nofollow")


# -- diffs --------------------------------------------------------------------------------------------------------------

_DIFF = {"+": "plus", "-": "minus", "@": "at"}


class Diff(NamedTuple):
    """A patch by its lines, each with what it is."""

    lines: list[tuple[str, str]]
    is_cut: bool


def diff(content: bytes) -> Diff:
    """A unified diff as it is shown."""
    text = plain(content[:MOST_BYTES].decode("utf-8", "replace"))
    return Diff([(_kind(line), line) for line in text.split("\n")], len(content) > MOST_BYTES)


def code_diff(box: Box, job: Job | None) -> Diff | None:
    """What a job's code had that its commit has not."""
    sha256 = job.spec.git_diff if job is not None else None
    if sha256 is None:
        return None
    try:
        return diff(box.artifacts.read(sha256))
    except MlboxError:
        return None


def _kind(line: str) -> str:
    if line.startswith(("diff ", "index ", "--- ", "+++ ")):
        return "file"
    return _DIFF.get(line[:1], "")
