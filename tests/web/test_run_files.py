"""Files of a run as pages show them: by their ending, never as what they claim to be, and what cannot be shown says why."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlbox.records import JobSpec
from mlbox.web.box import Box
from mlbox.web.pages.file_view import diff, markdown, plain
from tests.conftest import wait_for
from tests.models import linear
from tests.web.site import NASTY, Page, Site, open_box

HURT = b"<script>alert(1)</script>"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    box = open_box(tmp_path_factory.mktemp("files") / "data")
    yield box
    box.close()


@pytest.fixture(scope="module")
def run(box: Box) -> str:
    return box.tracker.start_run(experiment="e", user="ada", name="r").id


@pytest.fixture(scope="module")
def site(box: Box) -> Site:
    return Site(box)


@pytest.fixture
def shown(box: Box, run: str, site: Site) -> Any:
    """Keeps a file of the run, and asks for its page."""

    def show(path: str, content: bytes) -> str:
        sha256, size = box.artifacts.put([content])
        box.tracker.add_artifact(run, path, sha256, size)
        answer = site.get(f"/runs/{run}/files/{path}")
        assert answer.status_code == 200
        assert Page(answer).inline == []
        assert "<script>alert" not in answer.text
        return answer.text

    return show


def test_a_picture_is_shown_and_is_a_download_by_itself(shown: Any, site: Site, run: str) -> None:
    text = shown("plots/a b.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    source = f"/api/v1/runs/{run}/images/plots/a%20b.svg"
    assert f'<img class="shown" src="{source}"' in text
    answer = site.get(source)
    assert answer.headers["content-type"] == "image/svg+xml"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-security-policy"].startswith("sandbox")
    shown("page.html", HURT)
    assert site.get(f"/api/v1/runs/{run}/images/page.html").status_code == 404


def test_tables_show_their_first_rows(shown: Any) -> None:
    text = shown("t.csv", b"name,n\n" + b"".join(b"<b>%d</b>,=1+1\n" % n for n in range(300)))
    assert "The first 200 rows." in text
    assert text.count("&lt;b&gt;199") == 1
    assert "&lt;b&gt;200" not in text
    assert ">b<" in shown("t.tsv", b"a\tb\n1\n")
    assert "It is empty" in shown("empty.csv", b"")
    assert "no table" in shown("long.csv", b"x" * 200_000 + b"\n" + b'"' + b"y" * 200_000)
    table = io.BytesIO()
    pq.write_table(pa.table({"x": list(range(500)), HURT.decode(): [None] * 500}), table)
    text = shown("t.parquet", table.getvalue())
    assert "The first 200 of 500 rows." in text
    assert "int64" in text
    assert "null" in text
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, pa.schema({"y": pa.string()})) as writer:
        writer.write_table(pa.table({"y": ["seen"]}))
    assert "seen" in shown("t.arrow", stream.getvalue())
    logged = {"columns": ["a", "b"], "data": [[1, {"x": "<i>"}], [None, "z"]]}
    assert "{&#34;x&#34;:&#34;&lt;i&gt;&#34;}" in shown("logged.json", json.dumps(logged).encode())


def test_json_is_laid_out_and_what_is_none_is_text(shown: Any) -> None:
    assert "&#34;a&#34;: [\n" in shown("c.json", b'{"a":[1,2]}')
    for broken in (b"{", b"[" * 100_000, b"\xff\xfe", b'{"columns": 1, "data": [2]}', b'{"columns": [], "data": []}'):
        shown("broken.json", broken)


def test_a_text_has_no_colours_and_no_hidden_characters(shown: Any) -> None:
    text = shown("log.txt", b"\x1b[31mred\x1b[0m \x07bell\r\n" + HURT)
    assert "red ␇bell\n&lt;script&gt;" in text
    assert plain("a\x00b\x7f") == "a␀b␡"
    assert "no kind of file" in shown("model.bin", b"\x00\x01" * 50)
    assert "The first 512 kB." in shown("big.log", b"line\n" * 200_000)


def test_markdown_is_markup_without_danger(shown: Any, run: str) -> None:
    text = shown(
        "docs/README.md",
        b"# Title\n\n*words* " + HURT + b"\n\n![p](../plots/a.png) [o](other.md) [w](https://example.org/)"
        b" ![far](https://example.org/x.png) [bad](javascript:alert(1)) [rel](//example.org/x)\n\n| a |\n|---|\n| 1 |\n",
    )
    assert "<h2>Title</h2>" in text
    assert "<em>words</em>" in text
    assert f'src="/api/v1/runs/{run}/images/docs/../plots/a.png"' in text
    assert f'href="/runs/{run}/files/docs/other.md"' in text
    assert 'href="https://example.org/" rel="noopener noreferrer nofollow"' in text
    assert 'src="https' not in text
    assert 'href="javascript' not in text
    assert "<td>1</td>" in text
    assert "<script" not in markdown(NASTY + "\n\n<img src=x onerror=alert(1)>", run, "a.md")


def test_a_model_is_its_graph(shown: Any) -> None:
    text = shown("m.onnx", linear([0.5, 0.25]).SerializeToString())
    picture = text[text.index('<svg class="graph"') : text.index("</svg>", text.index('<svg class="graph"'))]
    assert "MatMul" in picture
    assert picture.count("<path") >= 3
    assert "float [N" in text
    for broken in (b"nonsense", b"", b"\x08\x07" * 1000):
        assert "cannot be read as onnx" in shown("broken.onnx", broken)
    assert "cannot be read as parquet" in shown("broken.parquet", b"PAR1" + b"\0" * 100 + b"PAR1")
    assert "cannot be read as arrow" in shown("broken.arrow", b"ARROW1" + b"\xff" * 100)


@pytest.mark.parametrize("path", ["none.txt", "../../etc/passwd", "%2e%2e/%2e%2e/x", "a" * 3000])
def test_what_is_not_there_is_not_found(site: Site, run: str, path: str) -> None:
    assert site.get(f"/runs/{run}/files/{path}").status_code == 404
    assert site.get(f"/runs/none/files/{path}").status_code == 404


def test_a_run_of_a_job_shows_its_code_its_log_and_runs_again(box: Box, site: Site) -> None:
    patch = b"diff --git a/t.py b/t.py\n--- a/t.py\n+++ b/t.py\n@@ -1 +1 @@\n-x = 1\n+x = '" + HURT + b"'\n"
    sha256, _ = box.artifacts.put([patch])
    spec = JobSpec(command=("true",), name="j", git_commit="c" * 40, git_diff=sha256)
    job = box.scheduler.submit(spec, user="ada")
    wait_for(lambda: box.scheduler.job(job.id).ended_at, what="the job to end")
    text = site.get(f"/runs/{job.run_id}").text
    assert '<span class="minus">-x = 1\n</span>' in text
    assert '<span class="plus">+x = &#39;&lt;script&gt;' in text
    assert f'action="/api/v1/jobs/{job.id}/rerun"' in text
    assert f'hx-get="/jobs/{job.id}"' in text
    assert 'id="output"' in site.get(f"/jobs/{job.id}").text
    box.access.create_user("vera", "viewer", actor="admin")
    assert "/rerun" not in Site(box, user="vera").get(f"/runs/{job.run_id}").text


def test_a_patch_is_told_apart_line_by_line() -> None:
    kinds = [kind for kind, _ in diff(b"diff --git\n+++ b\n@@ 1 @@\n+a\n-b\n c").lines]
    assert kinds == ["file", "file", "at", "plus", "minus", ""]


def test_nested_runs_lead_to_each_other(box: Box, site: Site) -> None:
    parent = box.tracker.start_run(experiment="e", user="ada", name="parent")
    child = box.tracker.start_run(experiment="e", user="ada", name="child", tags={"mlflow.parentRunId": parent.id})
    assert "1 nested run<" in site.get(f"/runs/{parent.id}").text
    assert f'href="/runs/{parent.id}"' in site.get(f"/runs/{child.id}").text
