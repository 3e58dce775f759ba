"""`make demo`: start a server on an empty data directory, walk the whole road on it, and stay up until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from examples.nyc_flights import road as roads
from examples.nyc_flights.flights import Flights
from examples.nyc_flights.road import MODEL, Road
from mlbox.errors import MlboxError, StartupError, Unavailable


class Steps:
    """Numbers the lines of progress and says how long each took."""

    def __init__(self) -> None:
        self._count = 0
        self._began = self._start = time.monotonic()

    def say(self, what: str) -> None:
        """One step is done."""
        self._count += 1
        now = time.monotonic()
        print(f"[{self._count:2}] {now - self._began:5.1f} s  {what}", flush=True)
        self._began = now

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._start


@contextlib.contextmanager
def running_server(data_dir: Path, port: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server of its own, in replay mode; yields it and its URL."""
    log_path = data_dir.with_suffix(".log")
    command = [Path(sys.executable).with_name("mlbox"), "serve", "--data-dir", data_dir, "--port", str(port)]
    with log_path.open("wb") as log:
        server = subprocess.Popen(
            [*map(str, command), "--replay-clock", roads.START.isoformat()], stdout=log, stderr=log
        )
    try:
        yield server, _address(server, log_path)
    finally:
        server.terminate()
        server.wait()


def _address(server: subprocess.Popen[bytes], log_path: Path) -> str:
    def found() -> str | None:
        text = log_path.read_text()
        if server.poll() is not None:
            raise StartupError(f"The server did not start: {text.strip().splitlines()[-1:] or 'no output'}.")
        url = re.search(r"listens on (\S+)", text)
        return url[1] if url else None

    return roads.wait_for(found, "the server to start")


def stay(server: subprocess.Popen[bytes]) -> None:
    """Wait for Ctrl-C; raises Unavailable when the server ends by itself, or is ended."""
    with contextlib.suppress(KeyboardInterrupt):
        status = server.wait()
        how = f"by the signal {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
        raise Unavailable(f"The server has ended, {how}.", hint="Run the demo again for another.")


def walk(road: Road, steps: Steps) -> None:
    """Every step of the road."""
    bad_canary(road, steps, to_an_approval(road, steps))
    watch(road, steps, "winter", roads.END)
    finish(road, steps)


def to_an_approval(road: Road, steps: Steps) -> roads.Promotion:
    """From nothing to where two models have been in Production, drift is seen, and a third waits for someone's word."""
    flights = road.flights
    steps.say(f"{flights.flights.num_rows:,} flights of 2013; accounts for ada, who trains, and grace, who approves")
    dataset = prepare(road, steps)
    train(road, steps, dataset)
    candidates = promote_first(road, steps)
    predict(road, steps)
    challenge(road, steps, candidates)
    careless = road.submit("train_mlp.py", dataset, 2, 4)
    watch(road, steps, "summer", roads.SUMMER_ENDS)
    return propose_careless(road, steps, careless)


def prepare(road: Road, steps: Steps) -> roads.DatasetVersion:
    """Features, rows, and a dataset of them."""
    features = road.define()
    steps.say(f"defined {len(features)} features in {len({f.split(':')[0] for f in features})} views, and a label")
    rows = road.load()
    steps.say(
        f"loaded {rows['flights']:,} landings and {rows['weather']:,} hours of weather, each with the time it became known"
    )
    road.advance(roads.TRAINED_UNTIL)
    steps.say(f"domain time is July 2013: {road.labels_known():,} of {rows['labels']:,} outcomes are known")
    steps.say(f"materialized {road.materialize():,} entities into the online store")
    dataset = road.build_dataset()
    steps.say(f"built {dataset.ref}: {dataset.rows:,} rows, point in time, sha256 {dataset.hash[:12]}")
    return dataset


def train(road: Road, steps: Steps, dataset: roads.DatasetVersion) -> None:
    """Two jobs."""
    road.set_policy()
    jobs = [road.submit("train_gbm.py", dataset, 6), road.submit("train_mlp.py", dataset, 5)]
    for job in jobs:
        ended = road.wait_for_job(job)
        if ended.state != "succeeded":
            raise MlboxError(f"The job {job.id} {ended.state}: {ended.reason}\n{road.log_of(job)}")
        steps.say(f"job {job.spec.name} succeeded: {road.log_of(job).strip().splitlines()[-1]}")


def promote_first(road: Road, steps: Steps) -> list[roads.ModelVersion]:
    """The better one goes to Production, and not by its trainer's word."""
    best, second = road.versions()
    promotion = road.propose(best)
    passed = sum(gate.passed for gate in promotion.gates)
    steps.say(f"{best.ref} (auc {best.metrics['auc']:.4f}) passed {passed} of {len(promotion.gates)} gates: Staging")
    steps.say(f"ada approves her own model: {road.approve_own(promotion)}")
    road.approve(promotion)
    steps.say(f"grace approves: {best.ref} is in Production")
    return [best, second]


def predict(road: Road, steps: Steps) -> None:
    """One flight by its ids, and again by its features."""
    flight = next(iter(road.flights.departing(road.now, road.now + timedelta(hours=12)).to_pylist()))
    by_ids, by_features = road.predict_by_ids(flight), road.predict_by_features(flight)
    name = f"{flight['carrier']} {flight['flight']} to {flight['dest']}"
    steps.say(f"{name}: late with probability {by_ids:.3f} by its ids, {by_features:.3f} by its features")
    steps.say(
        f"a station at {flight['origin']} pushes 71.5 °F: {road.push_weather(flight['origin'], 71.5)} °F is online"
    )


def challenge(road: Road, steps: Steps, candidates: list[roads.ModelVersion]) -> None:
    """The second model watches, then takes a growing share."""
    best, second = candidates
    promotion = road.propose(second)
    steps.say(f"{second.ref} (auc {second.metrics['auc']:.4f}) passed its gates and shadows {best.ref}")
    served = road.replay(road.now + timedelta(days=4))
    promotion = road.approve(road.reach(promotion, "waiting_approval"))
    steps.say(f"{served:,} predictions shadowed; grace approves: {second.ref} takes {promotion.percent:.0f} %")


def watch(road: Road, steps: Steps, season: str, until: datetime) -> None:
    """Summer and winter differ from what the models were trained on."""
    served = road.replay(until)
    worst = road.check_drift()[0]
    steps.say(
        f"to the end of {season}: {served:,} flights served; {worst.feature} drifts, D = {worst.statistic:.2f}:"
        f" {worst.verdict}, {len(road.alerts())} alerts fire, {road.labels_known():,} outcomes are known"
    )
    live = max(road.live_performance(every_seconds=28 * 86_400), key=lambda one: (one.start, one.labelled))
    expected = live.estimated.get("auc")
    steps.say(
        f"{live.coverage:.0%} of {live.predictions:,} flights since {live.start:%d %B} have an outcome: auc"
        f" {live.metrics['auc'] or 0:.3f}, {expected.value if expected else 0:.3f} expected by the scores of"
        f" {MODEL}/{live.version} alone, {live.training.get('auc', 0):.3f} in training"
    )


def propose_careless(road: Road, steps: Steps, job: roads.Job) -> roads.Promotion:
    """A model that orders flights as well as the others and scores each too high: no gate sees it."""
    road.set_policy(roads.WATCHFUL_POLICY)
    job = road.wait_for_job(job)
    if job.state != "succeeded":
        raise MlboxError(f"The job {job.id} {job.state}: {job.reason}\n{road.log_of(job)}")
    third = max(road.versions(), key=lambda version: version.version)
    promotion = road.propose(third)
    steps.say(f"{third.ref} weighs late flights 4 times (auc {third.metrics['auc']:.4f}) and passed its gates")
    road.replay(road.now + timedelta(days=4))
    return road.reach(promotion, "waiting_approval")


def bad_canary(road: Road, steps: Steps, promotion: roads.Promotion) -> None:
    """What no gate has seen its canary does."""
    promotion = road.approve(promotion)
    served = road.serve_until_compared()
    promotion = road.reach(promotion, "rolled_back")
    decision = road.last_decision(promotion)
    took = f"{promotion.model}/{promotion.version} took {decision.samples.candidate.rows:,} of {served:,} flights"
    steps.say(f"{took}, and was rolled back: {decision.reason}")


def finish(road: Road, steps: Steps) -> None:
    """What serves in the end, and whether it was served as its history has it."""
    least = road.check_skew()[0]
    steps.say(
        f"{least.equal:,} of {least.rows:,} served values of {least.feature}, the worst, are those of the history"
    )
    endpoint = road.endpoint()
    steps.say(f"{MODEL}/{endpoint.champion} is in Production; {road.served:,} flights served in all")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end when the road is through")
    parser.add_argument("--port", type=int, default=0, help="port of the server; a free one by default")
    parser.add_argument("--share", type=float, default=1.0, help="share of the flights to use")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the server ends with the demo
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started it in the background
    folder = Path(tempfile.mkdtemp(prefix="mlbox-demo-"))
    steps = Steps()
    try:
        flights = Flights.load(options.share)
        with running_server(folder / "data", options.port) as (server, url):
            print(f"mlbox runs at {url} on {folder / 'data'}", flush=True)
            road = Road(url, (folder / "data" / "admin-token").read_text().strip(), flights)
            with contextlib.closing(road):
                walk(road, steps)
                link = road.sign_in_link()
            print(f"\nThe road is through after {steps.seconds:.0f} s.", flush=True)
            if not options.once:
                print(f"Sign in once, within 30 minutes: {link}\nThe server stays up until Ctrl-C.", flush=True)
                stay(server)
    except MlboxError as err:
        sys.exit(f"demo: {err}\nThe server's log is {folder / 'data.log'}")
    except KeyboardInterrupt:
        sys.exit(130)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
