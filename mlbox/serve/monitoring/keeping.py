"""How long predictions are kept, what is held, and how they go: by their age, and when what is known of an entity must.

Invariants
- Nothing that a hold is about is removed; an erasure that would is refused, and says by which hold.
- Ages and the ends of holds go by a time that is sure: a clock that leapt ahead removes nothing that is young.
- An erasure is written down before anything goes. One that a crash broke off is made by the next start; to make it twice is
  to make it once.
- A file's rows go first, then the predictions that met labels: so no join can bring them back. Where a crash comes between,
  the next start removes from the joins what the log no longer has.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mlbox.clock import to_us
from mlbox.errors import Conflict, InvalidInput, MlboxError, Unavailable
from mlbox.loop import Loop
from mlbox.records import HoldSpec, PredictionHold, PredictionKeeping, PredictionRemoval, PredictionSampling
from mlbox.serve.monitoring.business import Business
from mlbox.serve.monitoring.outcomes import Outcomes
from mlbox.serve.monitoring.skew import Skew
from mlbox.serve.predictions.files import LogFile
from mlbox.serve.predictions.log import Going, PredictionLog, Removed
from mlbox.serve.predictions.selection import Selection, canonical, held_by
from mlbox.store.keyfile import KeyFile
from mlbox.store.monitoring.prediction_rows import PredictionRows, check_entity, check_reason
from mlbox.store.monitoring.sure_time import SureTime
from mlbox.store.registry.registry import Registry

if TYPE_CHECKING:
    import pyarrow as pa

SLACK = timedelta(days=1)
"""A file is written anew only for rows that are so much too old; whole files go at once."""
AGAIN_SECONDS = 600.0
_log = logging.getLogger(__name__)


class Keeping:
    """What becomes of one box's prediction log. `key_file` has the key of digests of erased keys; with None these are clear."""

    def __init__(
        self,
        log: PredictionLog,
        rows: PredictionRows,
        registry: Registry,
        outcomes: Outcomes,
        business: Business,
        skew: Skew,
        time: SureTime,
        *,
        days: float,
        key_file: KeyFile | None,
    ) -> None:
        self._log = log
        self.rows = rows
        self._registry = registry
        self._outcomes = outcomes
        self._business = business
        self._skew = skew
        self._time = time
        self.days = days
        self._key_file = key_file
        self._removing = threading.Lock()
        """Held while anything is removed or a hold is made: what is held is held from the answer on."""
        self.refresh()
        self._loop = Loop(self._resume, name="mlbox-keeping", failed="Predictions could not be removed")

    # -- by itself ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Make what a former server was broken off in."""
        self._loop.start()

    def close(self) -> None:
        """Stop."""
        self._loop.close()

    def refresh(self) -> None:
        """Have the log go by the samplings that are written down; everything is kept where they cannot be read."""
        try:
            self._log.sample(self.rows.samplings())
        except Unavailable as err:
            _log.warning("How predictions are sampled cannot be read: %s", err)

    @contextlib.contextmanager
    def standing_still(self, seconds: float) -> Iterator[None]:
        """Nothing is removed meanwhile; raises Unavailable where that takes longer than so many seconds to come about."""
        if not self._removing.acquire(timeout=seconds):
            raise Unavailable("Predictions are being removed.", hint="Try again once that is done.")
        try:
            yield
        finally:
            self._removing.release()

    def _resume(self) -> float:
        self._time.look()
        for removal, entity in self.rows.pending():
            try:
                with self._removing:
                    self._resume_one(removal, entity)
            except MlboxError as err:  # the others can go on
                _log.warning("The removal of predictions %s waits: %s", removal.id, err)
        return AGAIN_SECONDS

    def _resume_one(self, removal: PredictionRemoval, entity: Mapping[str, Any]) -> None:
        if all(removal.id != one.id for one, _ in self.rows.pending()):
            return  # it was only under way
        _log.info("The removal of predictions %s is made again.", removal.id)
        if removal.kind == "erasure":
            try:
                self._refuse_held(removal.model, entity)
            except Conflict as err:
                _log.warning("The erasure %s is refused: %s", removal.id, err)
                self.rows.end(removal, "refused", predictions=0)
                return
            self._erase(removal, entity, again=True)
        else:
            for model in self._models(removal.model):
                self._outcomes.prune(model)
            self.rows.end(removal, "done", predictions=0)

    # -- holds --------------------------------------------------------------------------------------------------------

    def hold(self, spec: HoldSpec, *, actor: str) -> PredictionHold:
        """Hold predictions, those too that are still to come; raises NotFound for the model, InvalidInput."""
        if spec.model is not None:
            self._registry.model(spec.model)
        with self._removing:
            return self.rows.hold(spec, actor=actor)

    # -- by an entity -------------------------------------------------------------------------------------------------

    def erase(self, entity: Mapping[str, Any], *, model: str | None, reason: str, actor: str) -> PredictionRemoval:
        """Remove for good every prediction about an entity, of a model or of all, and what is kept beside them of it.

        Raises Conflict where a hold is about one of them, InvalidInput, and Unavailable where a file cannot be read or written:
        then it goes on by itself.
        """
        check_entity(entity)
        if not entity:
            raise InvalidInput("No key is named.", hint="Such as customer=17.", field="entity")
        check_reason(reason, "An erasure")
        if model is not None:
            self._know(model)
        with self._removing:
            self._refuse_held(model, entity)
            begun = self.rows.begin_erasure(
                model=model, entity=entity, key=self._named(entity), reason=reason, actor=actor
            )
            return self._erase(begun, entity)

    def _erase(
        self, removal: PredictionRemoval, entity: Mapping[str, Any], *, again: bool = False
    ) -> PredictionRemoval:
        gone = {"predictions": 0, "outcomes": 0}

        def before(model: str, ids: list[str]) -> None:
            gone["outcomes"] += self._business.forget(ids)

        for model in self._models(removal.model):
            for removed in self._removed(model, self._going(model, Selection(entity)), before):
                gone["predictions"] += len(removed.ids)
            self._skew.forget(model, entity)
            if again:
                self._outcomes.prune(model)
        return self.rows.end(removal, "done", **gone)

    def _refuse_held(self, model: str | None, entity: Mapping[str, Any]) -> None:
        """Raise Conflict where a hold is about a prediction of an entity."""
        holds = self.rows.active(self._time.now())
        for one in self._models(model):
            mine = [hold for hold in holds if hold.model in (None, one)]
            if mine:
                self._refuse_held_of(one, mine, Selection(entity))

    def _refuse_held_of(self, model: str, holds: Sequence[PredictionHold], wanted: Selection) -> None:
        import pyarrow.compute as pc

        with self._log.reading(model) as files:
            for file in files:
                rows = file.read(_columns(wanted, holds), features=False)
                mask = wanted.mask(rows)
                for hold in holds:
                    found = pc.sum(pc.and_(mask, held_by(hold).mask(rows))).as_py() or 0
                    if found:
                        raise Conflict(
                            f"Predictions of {model} about this entity are under the hold {hold.id} of {hold.author}:"
                            f" {hold.reason}",
                            hint=f"Nothing was removed. `mlbox predictions release {hold.id}` ends the hold.",
                        )

    def _named(self, entity: Mapping[str, Any]) -> str:
        """What an erasure calls its entity in the audit log."""
        text = canonical(entity)
        if self._key_file is None:
            return text
        return "hmac-sha256:" + hmac.digest(self._key_file.current()[1], text.encode(), hashlib.sha256).hex()

    # -- by their age -------------------------------------------------------------------------------------------------

    def expire(self, *, dry_run: bool = False) -> tuple[int, int]:
        """Remove what is older than its model's predictions are kept for; how many, and the bytes that were freed."""
        self._time.look()
        rows = size = 0
        with self._removing:
            days, now = self.rows.days(), self._time.now()
            for model in self._log.models():
                cutoff = to_us(now - timedelta(days=days.get(model, self.days)))
                try:
                    found = self._count_old(model, cutoff) if dry_run else self._expire(model, cutoff)
                except Unavailable as err:  # a damaged file of one model keeps no other from its end
                    _log.warning("Predictions of %s that are too old stay: %s", model, err)
                    continue
                rows, size = rows + found[0], size + found[1]
        return rows, size

    def _expire(self, model: str, cutoff: int) -> tuple[int, int]:
        begun: list[PredictionRemoval] = []
        rows = size = 0

        def before(model: str, ids: list[str]) -> None:
            if not begun:
                begun.append(self.rows.begin_aging(model))

        for removed in self._removed(model, self._going(model, cutoff), before):
            rows, size = rows + len(removed.ids), size + removed.bytes
        if begun:
            self.rows.end(begun[0], "done", predictions=rows)
        return rows, size

    def _count_old(self, model: str, cutoff: int) -> tuple[int, int]:
        """What `expire` would remove; of a file that would go only in part, no bytes are promised."""
        import pyarrow.compute as pc

        going = self._going(model, cutoff)
        rows = size = 0
        with self._log.reading(model) as files:
            for file in files:
                mask = going(file)
                if mask is not None:
                    gone = pc.sum(mask).as_py() or 0
                    rows, size = rows + gone, size + (file.size if gone == len(mask) else 0)
        return rows, size

    def keep(self, model: str, days: float | None, *, actor: str) -> PredictionKeeping:
        """Keep a model's predictions for so many days, or as the setting says; raises NotFound."""
        self._registry.model(model)
        with self._removing:
            self.rows.keep(model, days, actor=actor)
        return self.of(model)

    def sample(self, model: str, sampling: PredictionSampling, *, actor: str) -> PredictionKeeping:
        """Keep of a model's predictions what a sampling says, from now on; raises NotFound."""
        self._registry.model(model)
        with self._removing:
            self.rows.sample(model, sampling, actor=actor)
        self.refresh()
        return self.of(model)

    def of(self, model: str) -> PredictionKeeping:
        """How long a model's predictions are kept, and what there is of them; raises NotFound."""
        self._know(model)
        days, (files, size, oldest) = self.rows.days(), self._log.kept(model)
        return PredictionKeeping(
            model=model,
            days=days.get(model, self.days),
            own=model in days,
            oldest=oldest,
            files=files,
            bytes=size,
            holds=sum(hold.model in (None, model) for hold in self.rows.active(self._time.now())),
            sampling=self._log.sampling(model),
            left_out=self._log.left_out().get(model, 0),
        )

    def every(self) -> list[PredictionKeeping]:
        """Of every model that there are predictions of and that whoever asks may see."""
        found = [self.of(model) for model in self._log.models() if self._registry.visible(model)]
        return [one for one in found if one.oldest is not None]

    # -- both ---------------------------------------------------------------------------------------------------------

    def _know(self, model: str) -> None:
        """Raise NotFound for a model that there is not, unless there are predictions of it from when it was."""
        self._registry.see(model)
        if model not in self._log.models():
            self._registry.model(model)

    def _models(self, model: str | None) -> list[str]:
        return self._log.models() if model is None else [model]

    def _removed(self, model: str, going: Going, before: Callable[[str, list[str]], None]) -> Iterator[Removed]:
        """Remove from the log and from the joins; what went, file by file."""
        try:
            for removed in self._log.removing(model, going, before):
                self._outcomes.forget(model, removed.ids)
                yield removed
        except OSError as err:
            raise Unavailable(
                f"The prediction log could not be written: {err}.", hint="Make room; it goes on by itself."
            ) from err

    def _going(self, model: str, what: Selection | int) -> Going:
        """Which rows of a file go: those of a selection, or those made before a moment, and no held ones."""
        holds = [hold for hold in self.rows.active(self._time.now()) if hold.model in (None, model)]

        def going(file: LogFile) -> pa.BooleanArray | None:
            if not isinstance(what, int):
                rows = file.read(_columns(what, holds), features=False)
                return _but_held(what.mask(rows), rows, holds)
            bounds = file.bounds("at_us")
            if bounds is not None and bounds[0] >= what - (0 if bounds[1] < what else _us(SLACK)):
                return None
            if any(not (hold.entity or hold.since or hold.until) for hold in holds):
                return None  # all of the model is held
            import pyarrow.compute as pc

            rows = file.read((*_columns(Selection(), holds), "at_us"), features=False)
            return _but_held(pc.less(rows.column("at_us").combine_chunks(), what), rows, holds)

        return going


def _us(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


def _columns(what: Selection, holds: Sequence[PredictionHold]) -> Sequence[str]:
    return tuple({*what.columns, *(name for hold in holds for name in held_by(hold).columns)})


def _but_held(mask: pa.BooleanArray, rows: pa.Table, holds: Sequence[PredictionHold]) -> pa.BooleanArray:
    import pyarrow.compute as pc

    for hold in holds:
        mask = pc.and_(mask, pc.invert(held_by(hold).mask(rows)))
    return mask
