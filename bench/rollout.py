"""Canaries by simulation, with the real verdict on the real counts: how often a good one is stopped, how soon a bad one is.

A day of traffic at 2 requests a second with a canary of 5 %, looked at every 5 minutes. Of the champion 2 % of the runs fail, its
latency is lognormal, its scores are even. Then the same with a guard of labels that come up to a day late, and with all guards
in the three largest of six segments. The peer is what a z-test at 5 % on the errors does at each of the same looks.

What a shadow costs the caller is measured on a server that serves the same gradient boosting model under three names, one of them
with a shadow: each is asked in turn, at a steady pace over one connection. The peer is how far the two without one lie apart.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from bench.harness import Report, interleave, median, options
from bench.inference import Kind, boosted, load, script
from bench.startup import is_ready, serving, wait_until_loaded
from mlbox.records import Guard, LabelledLoss, Promotion, PromotionPolicy, RampStep, Samples, Segment, Side
from mlbox.serve.inference.background import Background
from mlbox.serve.predictions.batches import Batch
from mlbox.serve.promotion import compare
from mlbox.serve.rollout.evidence import Evidence
from mlbox.serve.rollout.rollout import choose
from mlbox.serve.rollout.segments import SCORES
from mlbox.serve.rollout.sequential import EPOCHS, GROWTH
from mlbox.serve.rollout.verdict import RECENT, verdict

START = datetime(2026, 1, 1, tzinfo=UTC)
LOOKS, MINUTES, RATE, SHARE = 288, 5, 2, 5
ALL = RATE * 60 * MINUTES
CANARY = ALL * SHARE // 100
ERRORS, INVALID = 0.02, 0.001
KEYS, CALLS = 100_000, 200_000
EQUAL, SHADOWED = ("plain", "equal"), "shadowed"
TREES, WIDTH, PAUSE_MS = 200, 30, 5
POLICY = PromotionPolicy()
WATCHED = PromotionPolicy(
    segments=("carrier",), guards=(*POLICY.guards, Guard(kind="labels", stop=1.0, metric="brier")), largest_segments=3
)
SHARES = (0.4, 0.25, 0.15, 0.1, 0.06, 0.04)
"""Of the traffic, by segment."""


class World(NamedTuple):
    """How a canary behaves; the champion is as the defaults."""

    errors: float = ERRORS
    slower: float = 1.0
    shift: float = 0.0
    """Of the scores: KS distance to the champion's, as that of a uniform moved by so much."""
    in_largest: float | None = None
    """Errors of the largest segment, where they are others there."""
    learned: float = 1.0
    """How much of what the scores say is true: a label is 1 as often as that much of the score, and else by chance."""


class Group:
    """One side's traffic of a whole day, counted look by look as `Evidence` does."""

    def __init__(self, rng: np.random.Generator, world: World, per_look: int) -> None:
        n = LOOKS * per_look
        self.per_look = per_look
        self.segment = rng.choice(len(SHARES), n, p=SHARES)
        often = np.full(n, world.errors)
        if world.in_largest is not None:
            often[self.segment == 0] = world.in_largest
        self.failed = rng.random(n) < often
        self.invalid = (rng.random(n) < INVALID) & ~self.failed
        latency = rng.lognormal(1.0, 0.5, n) * world.slower
        self.buckets = np.floor(np.log(latency) / math.log(GROWTH)).astype(int)
        self.scores = rng.random(n) + world.shift
        chance = world.learned * np.clip(self.scores, 0, 1) + (1 - world.learned) * 0.5
        self.losses = (self.scores - (rng.random(n) < chance)) ** 2
        self.arrives = np.arange(n) // per_look + rng.integers(1, LOOKS, n)
        self.latency: Counter[int] = Counter()
        self.seen = 0

    def side(self, look: int) -> Side:
        """The counts at a look, which must be asked for in order."""
        n = (look + 1) * self.per_look
        fresh = slice(self.seen, n)
        self.latency.update(self.buckets[fresh][~self.failed[fresh]].tolist())
        self.seen = n
        scored = ~self.failed[:n] & ~self.invalid[:n]
        return Side(
            runs=n,
            errors=int(self.failed[:n].sum()),
            rows=int((~self.failed[:n]).sum()),
            invalid=int(self.invalid[:n].sum()),
            latency=dict(self.latency),
            scores=self.scores[:n][scored][: EPOCHS[-1]].tobytes(),
            last="".join("x" if failed else "." for failed in self.failed[max(0, n - RECENT) : n]),
        )

    def segments(self, look: int) -> list[Side]:
        """The counts by segment at a look: those that the warm-up, one look, would choose."""
        n = (look + 1) * self.per_look
        found = []
        for number in range(WATCHED.largest_segments):
            mine = np.flatnonzero(self.segment[:n] == number)
            mine = mine[mine >= self.per_look]
            failed = self.failed[mine]
            well = mine[~failed]
            counted = np.unique(self.buckets[well], return_counts=True)
            scored = well[~self.invalid[well]]
            found.append(
                Side(
                    runs=len(mine),
                    errors=int(failed.sum()),
                    rows=len(well),
                    invalid=int(self.invalid[well].sum()),
                    latency=dict(zip(counted[0].tolist(), counted[1].tolist(), strict=True)),
                    scores=self.scores[scored][:SCORES].tobytes(),
                )
            )
        return found

    def labelled(self, look: int) -> tuple[int, float]:
        """Predictions whose labels are known at a look, and the sum of their losses."""
        n = (look + 1) * self.per_look
        known = (self.arrives[:n] <= look) & ~self.failed[:n] & ~self.invalid[:n]
        return int(known.sum()), float(np.clip(self.losses[:n][known], 0, 1).sum())


class Outcome(NamedTuple):
    """How a day went: the first look at which the canary was stopped, and at which the z-test would have; or none."""

    stopped: int | None
    by_z: int | None
    advanced: bool


def day(seed: int, world: World, policy: PromotionPolicy = POLICY) -> Outcome:
    """One canary's day."""
    rng = np.random.default_rng(seed)
    canary, control = Group(rng, world, CANARY), Group(rng, World(), CANARY)
    others = np.cumsum(rng.binomial(ALL - 2 * CANARY, ERRORS, LOOKS))
    by_z, found = None, None
    for look in range(LOOKS):
        ours, theirs = canary.side(look), control.side(look)
        rest = (look + 1) * (ALL - 2 * CANARY)
        champion = Side(runs=theirs.runs + rest, errors=theirs.errors + int(others[look]))
        if by_z is None and z_of(ours, champion) > 1.645:
            by_z = look
        samples = Samples(state="canary", step=0, since=START, candidate=ours, control=theirs, champion=champion)
        if policy is WATCHED:
            samples = watched(samples, look, canary, control)
        found = verdict(samples, policy, START + timedelta(minutes=MINUTES * (look + 1)))
        if found.action == "roll_back":
            return Outcome(look, by_z, False)
    return Outcome(None, by_z, found is not None and found.action == "advance")


def watched(samples: Samples, look: int, canary: Group, control: Group) -> Samples:
    """The same samples with labels and segments."""
    (ours, loss), (theirs, against) = canary.labelled(look), control.labelled(look)
    sums = LabelledLoss(candidate=ours, candidate_loss=loss, control=theirs, control_loss=against)
    sides = zip(canary.segments(look), control.segments(look), strict=True)
    segments = tuple(
        Segment(name=f"carrier={number}", candidate=one, control=other, champion=other)
        for number, (one, other) in enumerate(sides)
    )
    return msgspec.structs.replace(samples, labels={"labels brier": sums}, segments=segments)


def z_of(one: Side, other: Side) -> float:
    """The usual statistic of two proportions, one-sided."""
    pooled = (one.errors + other.errors) / (one.runs + other.runs)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / one.runs + 1 / other.runs))
    return (one.errors / one.runs - other.errors / other.runs) / spread if spread else 0.0


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return 0
    good, bad = (60, 21) if chosen.quick else (400, 51)
    report = Report("rollout", conditions={"good canaries": str(good), "bad ones of each kind": str(bad)})
    the_good(report, good)
    the_bad(report, bad)
    routing(report)
    comparing(report, chosen.quick)
    shadowing(report, *((7, 2.0) if chosen.quick else (25, 4.0)))
    return report.finish()


def the_good(report: Report, runs: int) -> None:
    """Canaries that are as the champion."""
    days = [day(seed, World()) for seed in range(runs)]
    report.at_most("good canaries stopped", 100 * sum(d.stopped is not None for d in days) / runs, 5, "%")
    report.tell("the same by a z-test on errors at each look", 100 * sum(d.by_z is not None for d in days) / runs, "%")
    report.tell("good canaries that go on right after 24 h", 100 * sum(d.advanced for d in days) / runs, "%")
    looked = [day(seed, World(), WATCHED) for seed in range(runs)]
    stopped = 100 * sum(d.stopped is not None for d in looked) / runs
    report.at_most("good canaries stopped, with labels and segments", stopped, 5, "%")


def the_bad(report: Report, runs: int) -> None:
    """Canaries that are worse in one thing."""
    minutes = after(runs, World(errors=0.04))
    report.at_most("errors of 4 % instead of 2 % caught, median", minutes / 60, 2.5, "h")
    report.at_most("errors of 10 % caught, median", after(runs, World(errors=0.1)), 30, "min")
    report.at_most("all runs fail: caught, median", after(runs, World(errors=1.0)), MINUTES, "min")
    report.at_most("gross failure caught", float(gross()), 20, "canary requests")
    moved = after(runs, World(shift=0.25)) / MINUTES * CANARY
    report.at_most("KS shift of 0.25 caught, median", moved, 1000, "canary requests")
    report.tell("p95 twice as long caught, median", after(runs, World(slower=2.0)) / 60, "h")
    few = max(5, runs // 5)
    hidden = after(few, World(in_largest=0.08), WATCHED) / 60
    report.tell("errors of 8 % in the largest of six segments caught, median", hidden, "h")
    report.tell(
        "scores that say nothing caught by labels or else, median", after(few, World(learned=0.0), WATCHED) / 60, "h"
    )


def after(runs: int, world: World, policy: PromotionPolicy = POLICY) -> float:
    """Minutes until the median canary of a kind was stopped; a day where it was not."""
    stopped = [day(seed, world, policy).stopped for seed in range(10_000, 10_000 + runs)]
    return statistics.median(MINUTES * (LOOKS if look is None else look + 1) for look in stopped)


def gross() -> int:
    """How many requests a canary that fails always gets, until the alarm makes the verdict look at once."""
    alarms: list[int] = []
    evidence = Evidence(lambda: alarms.append(1))
    promotion = running()
    evidence.watch({promotion.model: promotion}, lambda _: None)
    requests = 0
    while not alarms:
        requests += 1
        evidence.failed(promotion.model, promotion.version, "canary")
    assert verdict(evidence.samples(promotion), POLICY, START).action == "roll_back"
    return requests


def running() -> Promotion:
    """A canary in its first step."""
    return Promotion(
        id="01a2098aec3c7006877ae943298ca8fc",
        model="churn",
        version=2,
        champion=1,
        state="canary",
        requested_by="ada",
        created_at=START,
        state_since=START,
        policy=POLICY,
        step=0,
    )


def routing(report: Report) -> None:
    """What a request pays, and whom it meets."""
    promotion = running()
    keys = [f"customer-{n}" for n in range(KEYS)]
    bare, routed = (
        loop(keys, lambda key: hashlib.blake2b(key.encode(), digest_size=8)),
        loop(keys, lambda key: choose(key, 1, promotion)),
    )
    report.tell("one hash of the key", bare, "µs")
    report.at_most("routing a key", routed, 3, "µs")
    evidence = Evidence(lambda: None)
    evidence.watch({promotion.model: promotion}, lambda _: None)
    batch = Batch("churn", 2, "canary", START, START, "carl", 1.5, ["x"], [0.5])
    report.at_most("counting a canary's run", loop([batch] * KEYS, evidence.answered), 3, "µs")
    queue = Background("shadow", room=CALLS * 5)
    report.at_most("handing a request to the shadow", loop([batch] * KEYS, lambda one: queue.offer(int)), 3, "µs")
    queue.close()
    for step in POLICY.steps[:-1]:
        at = Promotion(
            **{name: getattr(promotion, name) for name in promotion.__struct_fields__} | {"policy": only(step)}
        )
        roles = Counter(choose(key, 1, at).role for key in keys)
        off = max(abs(100 * roles[role] / KEYS - step.percent) for role in ("canary", "control"))
        report.at_most(f"split at {step.percent:g} %, off by", off, 0.5, "points")


def comparing(report: Report, quick: bool) -> None:
    """Champion and candidate on the same rows, at the sizes that the goals are about; a fifth of the resamples where quick."""
    labels, first, second = compared(1_000_000)
    report.at_most("DeLong, 1,000,000 rows", seconds(lambda: compare.delong(labels, first, second)), 2, "s")
    labels, first, second = compared(100_000)
    part = 5 if quick else 1
    for metric in ("auc", "brier"):
        count = compare.RESAMPLES // part
        taken = seconds(lambda m=metric, n=count: compare.bootstrap(m, labels, first, second, resamples=n))
        report.at_most(f"paired bootstrap of {metric}, {count} x 100,000 rows", taken, 10 / part, "s")


def compared(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and two models' scores, the second a little better."""
    rng = np.random.default_rng(0)
    labels = (rng.random(rows) < 0.3).astype(float)
    first, second = (gain * labels + (1 - gain) * rng.random(rows) for gain in (0.2, 0.25))
    return labels, first, second


def shadowing(report: Report, rounds: int, length: float) -> None:
    """What the caller of a model notices of its shadow, against what two models without one differ in by chance."""
    if shutil.which("wrk") is None:
        report.skip("shadow on / off", "wrk is not installed")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        with serving(folder, "--log-file", str(folder / "log"), "--grpc-port", "0") as (process, url, _):
            while not is_ready(url):
                time.sleep(0.05)
            token = (folder / "data" / "admin-token").read_text().strip()
            wait_until_loaded(url, token, [*EQUAL, SHADOWED])
            kinds = [paced(folder, model, url, token, process.pid) for model in (*EQUAL, SHADOWED)]
            seen = interleave(rounds, *(lambda one=kind: load(one, 1, length, held=False) for kind in kinds))
            ran = shadow_rows(url, token)
    plain, equal, shadowed = seen
    report.tell("rows that the shadow ran", ran, "rows")
    more = [b.loop_us - a.loop_us for a, b in zip(plain, shadowed, strict=True)]
    report.tell("event loop, with a shadow less without", median(more), "µs")
    for part in ("p50_ms", "p99_ms"):
        without, twin, with_it = ([getattr(one, part) for one in side] for side in (plain, equal, shadowed))
        by_chance = sorted(max(a, b) / min(a, b) for a, b in zip(without, twin, strict=True))
        on = median([2 * b / (a + c) for a, b, c in zip(without, with_it, twin, strict=True)])
        what, most = part.removesuffix("_ms"), by_chance[math.ceil(0.9 * len(by_chance)) - 1]
        report.tell(f"{what} without a shadow", median(without), "ms")
        report.at_most(f"{what} with a shadow / without; the goal is nine of ten of two equal runs", on, most, "times")


def prepare(folder: Path) -> None:
    """A data directory with one model under three names in Production, of one of which a second version is in its shadow."""
    from mlbox.records import GateResult
    from mlbox.settings import Settings
    from mlbox.store.registry.registry import NewVersion
    from mlbox.web.box import Box

    box = Box(Settings(data_dir=str(folder / "data")), url="http://127.0.0.1:1")
    artifact, size = box.artifacts.put([boosted(WIDTH, TREES)])
    features = tuple(f"g@v1:x{n}" for n in range(WIDTH))
    passed = GateResult(gate="size", passed=True, required="", measured="", at=box.clock.real())
    for model in (*EQUAL, SHADOWED, SHADOWED):
        new = NewVersion(
            model=model, artifact=artifact, size=size, features=features, trained_by="admin", submitted_by="admin"
        )
        promotion = box.promotions.propose(box.registry.register(new), actor="admin")
        promotion = box.promotions.record_gates(promotion.id, [passed])
        if promotion.state == "waiting_approval":
            box.promotions.decide(promotion.id, approver="bea", decision="approve")
    assert promotion.state == "shadow"
    box.close()


def paced(folder: Path, model: str, url: str, token: str, pid: int) -> Kind:
    """Requests of a row each, with a pause before each."""
    rows = np.random.default_rng(2).normal(size=(64, WIDTH)).astype(np.float32)
    bodies = [
        msgspec.json.encode({"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, WIDTH], "data": row.tolist()}]})
        for row in rows
    ]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    path = script(folder, model, bodies, headers)
    path.write_text(f"{path.read_text()}\nfunction delay() return {PAUSE_MS} end\n")
    return Kind(model, f"{url}/v2/models/{model}/infer", pid, path)


def ask(url: str, token: str) -> Any:
    """What a GET answers."""
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(asked) as answer:
        return msgspec.json.decode(answer.read() or b"null")


def shadow_rows(url: str, token: str) -> float:
    """How many rows the shadow answered so far: none would mean that nothing was measured."""
    (found,) = [one for one in ask(f"{url}/api/v1/endpoints", token) if one["model"] == SHADOWED]
    assert found["shadow"], found
    return float(found["shadow"][0]["rows"])


def seconds(act: Callable[[], object]) -> float:
    """CPU seconds of one call: the machine may be busy with others."""
    began = time.process_time()
    act()
    return time.process_time() - began


def only(step: RampStep) -> PromotionPolicy:
    """The policy with this step as its first."""
    return PromotionPolicy(steps=(step, RampStep(percent=100, hold_seconds=0)))


def loop(items: list[object], act: Callable[[object], object]) -> float:
    """Microseconds of this thread's CPU for one call, the median of five rounds."""
    rounds = []
    for _ in range(5):
        began = time.thread_time()
        for item in items:
            act(item)
        rounds.append((time.thread_time() - began) / len(items) * 1e6)
    return median(rounds)


if __name__ == "__main__":
    sys.exit(main())
