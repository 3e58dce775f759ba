"""What the pages load: whole, from here only, for ever the same under its address, and readable by everyone."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbox.web.pages.static import FOREVER, assets, static_url
from tests.web.site import Site, open_box

STATIC = Path(__file__).parents[2] / "mlbox" / "web" / "static"
VENDOR = STATIC / "vendor"
OURS = [path for path in STATIC.rglob("*") if path.suffix in (".css", ".js", ".svg") and VENDOR not in path.parents]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    box = open_box(tmp_path_factory.mktemp("styles") / "data")
    yield Site(box, user="")
    box.close()


def test_every_vendored_file_is_in_the_manifest_unchanged() -> None:
    manifest = json.loads((VENDOR / "MANIFEST.json").read_text())
    assert {entry["file"] for entry in manifest} == {p.name for p in VENDOR.iterdir()} - {"MANIFEST.json"}
    for entry in manifest:
        assert set(entry) == {"file", "name", "version", "licence", "sha256", "from"}
        assert hashlib.sha256((VENDOR / entry["file"]).read_bytes()).hexdigest() == entry["sha256"], entry["file"]
        assert entry["from"] == f"npm:{entry['from'].removeprefix('npm:').rpartition('@')[0]}@{entry['version']}"


def test_files_are_kept_for_ever_under_the_digest_of_their_content(site: Site) -> None:
    for name, asset in assets().by_name.items():
        answer = site.get(static_url(name))
        assert answer.content == asset.content, name
        assert answer.headers["cache-control"] == FOREVER
        assert answer.headers["content-type"].startswith(asset.media_type)
    old = site.get("/static/000000000000/css/base.css")
    assert (old.status_code, old.headers["cache-control"]) == (200, "no-cache")
    plain = site.get(static_url("css/base.css"), headers={"accept-encoding": "identity"})
    assert gzip.decompress(assets().by_name["css/base.css"].gzipped) == plain.content


@pytest.mark.parametrize("name", ["../app.py", "..%2fapp.py", "css/none.css", "", "css", "%2e%2e/box.py"])
def test_no_other_file_can_be_had(site: Site, name: str) -> None:
    assert site.get(f"/static/{assets().digest}/{name}").status_code in (401, 404, 303)


def test_nothing_is_loaded_from_elsewhere() -> None:
    for path in OURS:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import|url\(", text), path
    for path in OURS:
        for module in re.findall(r"^import .*\"(.+)\";$", path.read_text(), re.M):
            assert (path.parent / module).exists(), (path, module)
        assert "innerHTML" not in path.read_text()
        assert "eval(" not in path.read_text()


def luminance(color: str) -> float:
    """WCAG 2.2's relative luminance."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    """WCAG 2.2's contrast ratio."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_and_lines_stand_out_enough_in_both_themes() -> None:
    css = (STATIC / "css" / "base.css").read_text()
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", css)
    for theme in (1, 2):
        colors = {entry[0]: entry[theme] for entry in found}
        grounds = ("bg", "surface", "sunk", "hover")
        pairs = [(text, ground) for text in ("text", "muted", "accent", "bad", "warn") for ground in grounds]
        pairs += [(kind, f"{kind}-soft") for kind in ("ok", "run", "wait", "warn", "bad", "accent")]
        pairs += [("on-accent", "accent"), ("text", "accent-soft"), ("ok", "surface"), ("run", "surface")]
        for text, ground in pairs:
            assert contrast(colors[text], colors[ground]) >= 4.5, (theme, text, ground)
        for series in range(1, 7):
            assert contrast(colors[f"series-{series}"], colors["surface"]) >= 3, (theme, series)
