"""Data begins in the browser: a source and its rows, features, labels, datasets, each with what is wrong said at its field."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import FilePayload, expect

from tests.browser.visitor import Visitor
from tests.conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]
VIEW = """[[views]]
name = "spend"
join_keys = [{ name = "who", dtype = "STRING" }]
features = [{ name = "amount", dtype = "FP64", unit = "€" }]
sources = ["sales"]
ttl = "7d"
sql = "SELECT who, amount, bought AS event_time FROM sales"
"""


def csv(name: str, text: str) -> FilePayload:
    return {"name": name, "mimeType": "text/csv", "buffer": text.encode()}


def test_from_a_source_to_a_dataset(server: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(server)
    visitor.sign_in()
    page = visitor.page
    visitor.visit("/new/source")
    page.get_by_label("Name", exact=True).fill("sales")
    page.get_by_label("Columns").fill("who STRING")
    page.get_by_label("Event time").fill("bought")
    page.get_by_role("button", name="Declare").click()
    expect(page.get_by_label("Columns")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#refused")).to_contain_text("is not NAME:TYPE")
    page.get_by_label("Columns").fill("who:STRING\nbought:TIMESTAMP\namount:FP64:€")
    page.get_by_role("button", name="Declare").click()
    page.wait_for_url("**/sources/sales")
    rows = "who,bought,amount\nann,2020-01-01T10:00Z,1.5\nbob,2020-01-02T10:00Z,2\n"
    page.get_by_label("File").set_input_files(csv("sales.csv", rows))
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_text("2 rows added, 0 held back.")).to_be_visible()
    page.get_by_label("Least of amount").fill("0")
    page.get_by_label("Values of who, one a line").fill("ann\nbob, jr.\ncy")
    page.get_by_label("Share of nulls of amount").fill("0.5")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Set the expectations").click()
    expect(page.get_by_role("group", name="Expectations")).to_contain_text("bob, jr.")
    expected = {one["column"]: one for one in server.http.get("/api/v1/sources/sales/quality").json()["expectations"]}
    assert expected["who"]["values"] == ["ann", "bob, jr.", "cy"]
    assert (expected["amount"]["min"], expected["amount"]["max"], expected["amount"]["max_nulls"]) == (0, None, 0.5)
    one = page.get_by_role("region", name="Add one row")
    one.get_by_label("who").fill("cy")
    one.get_by_label("bought").fill("2020-01-03T10:00Z")
    one.get_by_label("amount").fill("-3")
    one.get_by_role("button", name="Send the row").click()
    expect(one.get_by_text("0 taken, 0 online at once, 1 held back.")).to_be_visible()
    visitor.keep("source-with-rows")

    visitor.visit("/new/features")
    text = page.get_by_role("textbox", name="Definitions")
    text.fill(VIEW.replace('"FP64"', '"FLOAT"'))
    page.get_by_role("button", name="See what it changes").click()
    expect(page.locator("#said")).to_contain_text("Line 4:")
    visitor.complaints.clear()  # the browser itself complains about each 400
    text.fill(VIEW)
    page.get_by_role("button", name="See what it changes").click()
    expect(page.get_by_role("region", name="The plan")).to_contain_text("+ view spend@v1")
    visitor.keep("features-planned")
    page.get_by_role("button", name="Apply").click()
    page.wait_for_url(re.compile(r"(?<!new)/features$"))
    visitor.visit("/features/spend@v1")
    page.get_by_role("button", name="Materialize").click()
    expect(page.get_by_text("2 rows are new online.")).to_be_visible()

    visitor.visit("/new/labels")
    page.get_by_label("Name", exact=True).fill("left")
    page.get_by_label("Keys").fill("who:STRING")
    page.get_by_label("Value").fill("left")
    page.locator("select[name='value.dtype']").select_option("INT64")
    page.get_by_label("Classes").fill("0\n1")
    page.get_by_label("Sources").fill("crm\nstaff:annotation:2")
    page.get_by_role("button", name="Declare").click()
    page.wait_for_url("**/labels/left")
    labels = "who,event_time,left\nann,2020-01-03T10:00Z,1\nbob,2020-01-03T10:00Z,7\n"
    page.get_by_label("File .parquet").set_input_files(csv("labels.csv", labels))
    page.get_by_role("button", name="Upload").first.click()
    expect(page.get_by_text("1 labels added, 0 were there already, 1 held back.")).to_be_visible()
    one = page.get_by_role("region", name="Add one label")
    one.get_by_label("who").fill("bob")
    one.get_by_label("event_time").fill("2020-01-03T10:00Z")
    one.get_by_label("left").select_option("0")
    one.get_by_role("button", name="Add").click()
    expect(page.get_by_text("1 added, 0 there already, 0 held back.")).to_be_visible()
    visitor.keep("labels-added")

    visitor.visit("/new/dataset")
    built = page.get_by_role("region", name="From features and labels")
    built.get_by_label("Name of").fill("churn")
    built.get_by_label("Features").fill("spend:amount")
    built.get_by_label("Labels").select_option("left")
    built.get_by_role("button", name="Build").click()
    page.wait_for_url("**/datasets/churn@v1")
    expect(page.get_by_role("heading", level=1)).to_have_text("churn@v1")


def test_a_file_as_a_dataset_and_what_is_wrong_with_it(server: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(server)
    visitor.sign_in()
    visitor.visit("/new/dataset")
    page = visitor.page
    form = page.get_by_role("region", name="From a file")
    form.get_by_label("Name of").fill("prices")
    form.get_by_role("button", name="Upload").click()
    expect(form.locator("#refused")).to_contain_text("No file is chosen.")
    form.get_by_label("File .parquet").set_input_files(csv("prices.txt", "a\n1\n"))
    form.get_by_role("button", name="Upload").click()
    expect(form.locator("#refused")).to_contain_text("does not say its format")
    shops = "".join(f"s{number},{number}\n" for number in range(200))
    form.get_by_label("File .parquet").set_input_files(csv("prices.csv", "shop,price\n" + shops))
    form.get_by_text("Split, parents, description, tags").click()
    form.get_by_label("Split NAME").fill("train=0.8\ntest=0.2")
    form.get_by_role("button", name="Upload").click()
    expect(form.locator("#refused")).to_contain_text("a share for each part, and the entity's keys")
    form.get_by_label("Split by the").fill("shop")
    form.get_by_label("Tags NAME").fill("tier=gold")
    form.get_by_role("button", name="Upload").click()
    page.wait_for_url(re.compile(r"/datasets/prices(@|%40)v1$"))
    made = server.http.get("/api/v1/datasets/prices@v1").json()
    assert (made["rows"], made["tags"], made["split"]["keys"]) == (200, {"tier": "gold"}, ["shop"])
    page.get_by_label("Tags to set").fill("tier=, seen=yes")
    page.get_by_role("button", name="Change the tags").click()
    expect(page.get_by_text("seen: yes")).to_be_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    page.wait_for_url("**/datasets")
    expect(page.get_by_text("No dataset yet")).to_be_visible()


def test_alerts_are_silenced_and_told_of_again(server: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(server)
    visitor.sign_in()
    page = visitor.page
    page.goto("/alerts")
    page.get_by_label("Tell nobody of").select_option(label="feature drift, whatever it is about")
    page.get_by_role("combobox", name="For").select_option("8 h")
    page.get_by_label("Because").fill("<b>the feed</b> is down")
    page.get_by_role("button", name="Silence").click()
    row = page.get_by_role("row").filter(has_text="<b>the feed</b> is down")
    expect(row).to_contain_text("alertname = feature_drift")
    visitor.keep("alert-silenced")
    (made,) = server.http.get("/api/v1/silences").json()
    assert made["labels"] == {"alertname": "feature_drift"}
    page.once("dialog", lambda dialog: dialog.accept())
    row.get_by_role("button", name="End the silence").click()
    expect(row.get_by_role("button")).to_have_count(0)
    (ended,) = server.http.get("/api/v1/silences").json()
    assert ended["expires_at"] < made["expires_at"]
