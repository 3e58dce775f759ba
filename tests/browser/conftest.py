"""What a browser shows is waited for as long as anything else in the tests is."""

from __future__ import annotations

from playwright.sync_api import expect

expect.set_options(timeout=60_000)
