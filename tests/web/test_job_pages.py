"""The pages of jobs: who is next, what a job runs, and what happened without its echo."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from mlbox.records import Job, JobSpec
from mlbox.web.pages.jobs import NEXT
from tests.conftest import wait_for
from tests.web.site import Page, Site, open_box

WAITING = NEXT + 3
TRICKY = ("sh", "-c", "echo 'a  b' > /dev/null; sleep 600")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A box with one GPU, a job that holds it, and more jobs that wait than a page shows beside others."""
    box = open_box(tmp_path_factory.mktemp("jobs") / "data", gpus="virtual:A100=80")
    box.access.create_user("ada", "member", actor="admin")
    held = box.scheduler.submit(JobSpec(command=TRICKY, name="holder", gpus=1), user="admin")
    wait_for(lambda: box.scheduler.job(held.id).state == "running", what="the holder")
    for number in range(WAITING):
        spec = JobSpec(command=("true",), name=f"waits-{number}", gpus=1)
        box.scheduler.submit(spec, user="ada" if number % 2 else "admin")
    wait_for(lambda: len(box.scheduler.line()) == WAITING, what="all to be looked at")
    yield Site(box)
    for job in reversed(box.scheduler.jobs(open_only=True)):
        box.scheduler.stop(job.id, actor="admin")
    wait_for(lambda: not box.scheduler.jobs(open_only=True), what="the jobs to end")
    box.close()


def queue(site: Site, path: str) -> list[tuple[str, str]]:
    """Place and name of each job in the queue that a page shows."""
    found = re.search(r'aria-label="Queue">(.*?)</tbody>', site.get(path).text, re.S)
    return re.findall(r'<td class="num">(\d+)</td>.*?>(waits-\d+)<', found[1], re.S) if found else []


def test_the_first_of_the_queue_stand_beside_all_jobs_and_lead_to_the_rest(site: Site) -> None:
    in_order = [(str(place), f"waits-{place - 1}") for place in range(1, WAITING + 1)]
    assert queue(site, "/jobs") == in_order[:NEXT]
    assert f"The whole queue: {WAITING} wait" in site.get("/jobs").text
    assert "/jobs?state=queued" in Page(site.get("/jobs")).links
    assert queue(site, "/jobs?state=queued") == in_order
    assert queue(site, "/jobs?state=queued&user=ada") == in_order[1::2], "places are those among everyone"
    assert queue(site, "/jobs?state=running") == queue(site, "/jobs?user=ada") == []
    assert f"queued ({WAITING})" in site.get("/jobs?state=running").text


def by_name(site: Site, name: str) -> Job:
    return next(job for job in site.box.scheduler.jobs() if job.spec.name == name)


def test_a_job_shows_a_command_that_a_shell_takes_and_says_once_what_it_waits_for(site: Site) -> None:
    running = site.get(f"/jobs/{by_name(site, 'holder').id}").text
    assert (
        "sh -c &#39;echo &#39;&#34;&#39;&#34;&#39;a  b&#39;&#34;&#39;&#34;&#39; &gt; /dev/null; sleep 600&#39;"
        in running
    )
    assert "<dt>OS</dt>" in running
    assert "<dt>Team</dt><dd>everyone</dd>" in running
    assert "/rerun" not in running
    assert running.index('id="output"') < running.index('id="used"'), "the log comes before what it used"
    waiting = site.get(f"/jobs/{by_name(site, 'waits-1').id}").text
    assert "<b>Waits:</b>" in waiting
    assert '<p class="lead">waits</p>' not in waiting


def test_an_ended_job_is_run_again_or_as_a_new_one_by_who_may(site: Site) -> None:
    box = site.box
    last = by_name(site, f"waits-{WAITING - 1}")
    box.scheduler.stop(last.id, actor="admin")
    wait_for(lambda: box.scheduler.job(last.id).ended_at, what="it to stop")
    actions = {f"/api/v1/jobs/{last.id}/{verb}" for verb in ("retry", "rerun")}
    assert actions <= {form["action"] for form in Page(site.get(f"/jobs/{last.id}")).all("form")}
    box.access.create_user("vera", "viewer", actor="admin")
    seen = Page(Site(box, user="vera").get(f"/jobs/{last.id}"))
    assert not actions & {form.get("action") for form in seen.all("form")}


def test_the_overview_names_who_holds_a_gpu(site: Site) -> None:
    assert f'held by <a href="/jobs/{by_name(site, "holder").id}">holder</a>' in site.get("/").text


def test_what_happened_leaves_out_what_a_job_says_itself(site: Site) -> None:
    text = site.get("/").text
    assert "submitted waits-" in text
    for echo in ("began the run", "starts holder", "made a token for admin"):
        assert echo not in text, echo
    own = site.box.tracker.start_run(experiment="by-hand", user="ada", name="by hand")
    site.box.tracker.end_run(own.id, "FINISHED")
    assert "began the run" in site.get("/").text, "a run of no job speaks for itself"
