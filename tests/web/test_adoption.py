"""How a box is taken up: weeks begin on Mondays, people are counted once, and a first time is the first one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.store.access.adoption import WEEK
from mlbox.web.box import Box
from mlbox.web.pages.adoption import weeks_until
from tests.web.site import Page, Site, fill, open_box


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    opened = open_box(tmp_path_factory.mktemp("adoption") / "data")
    fill(opened)
    yield opened
    opened.close()


@given(st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)), st.integers(1, 60))
def test_weeks_begin_on_mondays_and_follow_each_other_up_to_now(moment: datetime, count: int) -> None:
    now = moment.replace(tzinfo=UTC)
    weeks = weeks_until(now, count)
    assert len(weeks) == count
    assert all(week.weekday() == 0 and week.time() == datetime.min.time() for week in weeks)
    assert all(after - before == WEEK for before, after in pairwise(weeks))
    assert timedelta(0) <= now - weeks[-1] < WEEK


def test_who_changed_something_was_active_that_week(box: Box) -> None:
    now = box.clock.real()
    *earlier, last = box.adoption.active(weeks_until(now + timedelta(hours=1), 3))
    assert {"ada", "grace"} <= set().union(last, *earlier)  # the tests may run around midnight on a Sunday
    assert box.adoption.active([now - 3 * WEEK, now - 2 * WEEK]) == [set(), set()]


def test_the_first_job_and_the_first_deployment_are_found(box: Box) -> None:
    job = box.adoption.first_jobs()["ada"]
    assert job == min(job.created_at for job in box.scheduler.jobs(user="ada"))
    assert list(box.adoption.first_deployments()) == ["ada"]


def test_an_admin_sees_it_and_nobody_else(box: Box) -> None:
    page = Site(box).get("/admin/adoption")
    assert page.status_code == 200
    assert len(Page(page).all("mlbox-chart")) == 2
    assert "/admin/adoption" in Page(Site(box).get("/admin")).links
    assert Site(box, "grace").get("/admin/adoption").status_code == 403
    assert "/admin/adoption" not in Page(Site(box, "grace").get("/admin")).links
