"""The reference pages follow from the code, and every command shows how it is used."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import generate
from mlbox import errors
from mlbox.cli.main import COMMANDS, load

HOME = Path(__file__).parents[1]


# Litestar 2 asks to prepare for its version 3, which our requirement keeps out.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", generate.PAGES)
def test_the_reference_page_is_up_to_date(name: str) -> None:
    written = generate.REFERENCE / name
    assert written.exists(), "Run `python -m docs.generate`."
    assert written.read_text() == generate.NOTE + generate.PAGES[name](), "Run `python -m docs.generate`."


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_each_route_says_what_it_does() -> None:
    assert [path for path, _, _, what in generate.routes() if not what] == []


def test_each_command_has_a_help_line_and_an_example() -> None:
    for path, text in generate.commands():
        assert re.search(r"^Usage: mlbox[^\n]*\n(  [^\n]*\n)*\n  \S", text), f"{path} does not say what it does"
        if "COMMAND [ARGS]" not in text:
            assert re.search(r"^  Example: ", text, re.MULTILINE), f"{path} has no example"


def test_each_command_that_shows_something_knows_all_formats() -> None:
    for path, text in generate.commands():
        if path.rpartition(" ")[2] in {"ls", "show", "status", "config"}:
            assert "--output" in text, path


def test_the_table_of_commands_says_what_the_commands_say() -> None:
    for name, entry in COMMANDS.items():
        found = load(name)
        assert found.help.partition("\n\n")[0].replace("\n", " ").strip() == entry.help


def test_each_error_is_in_the_tree_that_is_drawn() -> None:
    drawn = re.findall(r"(\w+)\s+(\d{3}) (\w+)\s+exit (\d+)", errors.__doc__ or "")
    public = [e for e in errors._walk(errors.MlboxError) if e.__module__ == errors.__name__]  # a room may have its own
    assert drawn == [(e.__name__, str(e.status), e.code, str(e.exit_code)) for e in public]
    assert set(generate.EXIT_CODES) >= {e.exit_code for e in errors.BY_CODE.values()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_endpoint_of_mlflows_is_in_its_reference() -> None:
    page = (generate.REFERENCE / "mlflow.md").read_text()
    served = {path for path, *_ in generate.routes() if path.startswith("/api/") and "mlflow" in path}
    assert len(served) > 50
    for path in served:
        method = re.sub(r"^/api/[23]\.0/(mlflow/)?", "", path)
        noun, _, verb = method.partition("/")
        named = method in page or (
            f"`{noun}" in page and all(word in page for word in verb.split("/") if word[0] != "{")
        )
        assert named, path


def test_every_page_is_in_the_index_and_no_link_is_broken() -> None:
    index = (HOME / "docs" / "README.md").read_text()
    for page in (HOME / "docs").glob("*/*.md"):
        assert f"({page.relative_to(HOME / 'docs')})" in index, page
    for page in (HOME / "README.md", *(HOME / "docs").rglob("*.md")):
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), (page, link)


PAGES = [HOME / "README.md", *sorted((HOME / "docs").glob("[!r]*/*.md"))]
"""The pages that people write."""


def typed(line: str) -> Iterator[list[str]]:
    """The commands of mlbox in a line of a shell, as words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in (*lexer, ";"):
        if set(word) <= set("();<>|&"):
            while words and "=" in words[0]:
                del words[0]
            if words[:1] == ["mlbox"]:
                yield words[1:]
            words = []
        else:
            words.append(word)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_command_of_a_page_is_one_that_the_program_takes(page: Path) -> None:
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    for block in re.findall(r"^ *```console\n(.*?)^ *```", text, flags=re.S | re.M):
        for line in re.findall(r"^ *\$ (.*mlbox .*)", block, flags=re.M):
            for name, *words in typed(line):
                assert name in COMMANDS, line
                load(name).make_context(name, words)  # raises what the program would say of a wrong option
