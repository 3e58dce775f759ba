"""A job is submitted and a cron written from their forms, in a real browser: with code, with errors at the field."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.visitor import Visitor
from tests.conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]


def archive(**files: str) -> bytes:
    """A tar.gz."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"{name}.py")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return packed.getvalue()


def submit(page: Page) -> str:
    """Press the button, and the id of the job that it leads to."""
    page.get_by_role("button", name="Submit", exact=True).click()
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f]{32}$"))
    return page.url.rpartition("/")[2]


def test_code_is_sent_run_and_run_again_with_other_settings(server: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(server)
    visitor.sign_in()
    visitor.visit("/jobs")
    page = visitor.page
    page.get_by_role("link", name="Submit a job").click()
    page.wait_for_url("**/jobs/new")
    page.get_by_label("Name by which").fill("hello")
    page.get_by_label("Command").fill("""python3 greet.py "two words" 'it'\\''s'""")
    code = archive(greet="import os, sys\nprint(sys.argv[1:], os.environ['WHO'])\n")
    page.get_by_label("or your files").set_input_files(
        {"name": "code.tar.gz", "mimeType": "application/gzip", "buffer": code}
    )
    page.get_by_label("Environment variables").fill("WHO=ada=b\n")
    page.get_by_label("Hyperparameters").fill("lr=0.1\ndepth = 3")
    page.get_by_role("button", name="When would it run?").click()
    expect(page.get_by_text("It would start now")).to_be_visible()
    first = server.http.get(f"/api/v1/jobs/{submit(page)}").json()
    assert first["spec"]["command"] == ["python3", "greet.py", "two words", "it's"]
    assert first["spec"]["hyperparameters"] == {"lr": "0.1", "depth": "3"}
    expect(page.get_by_role("log")).to_contain_text("""['two words', "it's"] ada=b""")
    page.get_by_role("link", name="Change and submit").click()
    page.wait_for_url("**/jobs/new?from=*")
    page.get_by_label("Priority").select_option("high")
    again = server.http.get(f"/api/v1/jobs/{submit(page)}").json()
    assert again["spec"]["priority"] == "high"
    for same in ("command", "snapshot", "env", "hyperparameters", "name"):
        assert again["spec"][same] == first["spec"][same]


def test_what_is_wrong_is_said_at_its_field(server: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(server)
    visitor.sign_in()
    visitor.visit("/jobs/new")
    page = visitor.page

    def refused(label: str, words: str) -> None:
        page.get_by_role("button", name="Submit", exact=True).press("Enter")
        field = page.get_by_label(label)
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_be_focused()
        expect(field.locator("xpath=..").get_by_text(words)).to_be_visible()
        expect(page.locator("[aria-invalid]")).to_have_count(1)

    page.get_by_label("Command").fill('echo "open')
    refused("Command", "is not closed")
    page.get_by_label("Command").fill("true")
    page.get_by_label("Environment variables").fill("no value")
    refused("Environment variables", "is not NAME=VALUE")
    page.get_by_label("Environment variables").fill("")
    page.get_by_label("CPUs").fill("100000")
    refused("CPUs", "CPU")
    page.get_by_label("CPUs").fill("")
    page.get_by_label("Datasets").fill("none@v1")
    refused("Datasets", "none")
    visitor.complaints = [one for one in visitor.complaints if "400" not in one and "404" not in one]


def test_a_cron_is_written_changed_and_removed(server: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(server, timezone_id="Asia/Tokyo", locale="en-GB")
    visitor.sign_in()
    visitor.visit("/crons")
    page = visitor.page
    page.get_by_role("link", name="Add a cron").click()
    page.wait_for_url("**/crons/new")
    expect(page.get_by_label("Time zone")).to_have_value("Asia/Tokyo")
    page.get_by_label("Name", exact=True).fill("nightly")
    page.get_by_label("Schedule").fill("61 * * * *")
    expect(page.get_by_role("status").filter(has_text="61")).to_be_visible()
    page.get_by_label("Schedule").fill("30 2 * * *")
    page.get_by_label("Time zone").fill("UTC")
    times = page.locator("[data-times] > li")
    expect(times).to_have_count(5)
    expect(times.first).to_contain_text("11:30")  # half past two in Tokyo's clock
    page.get_by_label("Command").fill("true")
    page.get_by_role("button", name="Add it").click()
    page.wait_for_url(re.compile(r"/crons/[0-9a-f]{32}$"))
    expect(page.get_by_role("heading", name="nightly")).to_be_visible()
    page.get_by_role("link", name="Change").click()
    page.get_by_label("Schedule").fill("0 5 * * MON")
    page.get_by_role("button", name="Change it").click()
    page.wait_for_url(re.compile(r"/crons/[0-9a-f]{32}$"))
    expect(page.get_by_text("0 5 * * MON")).to_be_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Remove nightly").click()
    page.wait_for_url("**/crons")
    expect(page.get_by_text("No cron yet")).to_be_visible()
    visitor.complaints = [one for one in visitor.complaints if "400" not in one]
