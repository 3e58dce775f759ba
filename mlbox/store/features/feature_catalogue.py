"""The feature catalogue: features found by words, and what each comes from and goes into among the definitions.

A word counts most in a feature's own name, then in its view's, then in unit, tags and owner, and least in descriptions. A word
that is found nowhere is taken for a typing mistake of the words that differ from it by a letter, or by two if it is long.
Only the latest version of a view or a transform is found; those before it are reached from it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from mlbox.errors import InvalidInput
from mlbox.records import DType, FeatureHit, FeatureView, LineageNode, Transform, TransformSpec, ViewSpec
from mlbox.store.db import Database
from mlbox.store.features.ondemand import Transforms

_LATEST = "SELECT name, max(version) AS version, spec FROM {0} WHERE visible('view', name) GROUP BY name"  # spec of that version
_TOKEN = re.compile(r"[^\W_]+")
_WEIGHTS = {"name": 1000, "view": 400, "label": 150, "text": 40}
_EXACT, _PREFIX, _INSIDE, _TYPO = 1.0, 0.7, 0.5, 0.3
MAX_WORDS = 20


class Filters(NamedTuple):
    """What a found feature must be, beside matching the words. An empty one lets all through."""

    entity: str = ""
    """Names of join keys with commas between them: those that it is asked with, in any order."""
    team: str = ""
    tag: str = ""
    """A key, a value, or `key=value`."""
    owner: str = ""
    dtype: str = ""


class Entry(NamedTuple):
    """One feature with the words it is found by."""

    ref: str
    kind: Literal["view", "transform"]
    feature: str
    dtype: DType
    unit: str
    description: str
    about: str
    entity: tuple[str, ...]
    owner: str
    tags: dict[str, str]
    words: dict[str, str]
    """Each word with the field in which it counts most."""

    @property
    def view(self) -> str:
        """The reference of its view or transform."""
        return self.ref.partition(":")[0]


class Found(NamedTuple):
    """A view or a transform with those of its features that were searched for."""

    ref: str
    kind: Literal["view", "transform"]
    features: tuple[Entry, ...]
    cursor: str

    @property
    def first(self) -> Entry:
        """The feature that matches best; what is of the view is the same in all."""
        return self.features[0]


class FeatureCatalogue:
    """What is known of all features. `team_of` says which team owns a name."""

    def __init__(self, db: Database, features: Transforms, team_of: Callable[[str], str]) -> None:
        self._db = db
        self._features = features
        self._team_of = team_of

    # -- search -------------------------------------------------------------------------------------------------------

    def search(
        self, words: str = "", filters: Filters | None = None, *, limit: int = 100, after: str | None = None
    ) -> list[FeatureHit]:
        """The latest features that match all words, best first, from the one after the cursor `after`."""
        ranked = [(-score, entry.ref, entry) for score, entry in self._matching(words, filters or Filters())]
        page = sorted(item for item in ranked if item[:2] > _position(after))[:limit]
        return [self._hit(entry, _cursor(score, ref)) for score, ref, entry in page]

    def search_views(
        self, words: str = "", filters: Filters | None = None, *, limit: int = 100, after: str | None = None
    ) -> list[Found]:
        """The views and transforms whose features match, each once, likewise."""
        best: dict[str, int] = {}
        features: dict[str, list[tuple[int, Entry]]] = {}
        for score, entry in self._matching(words, filters or Filters()):
            best[entry.view] = max(best.get(entry.view, 0), score)
            features.setdefault(entry.view, []).append((score, entry))
        page = sorted(item for item in ((-score, ref) for ref, score in best.items()) if item > _position(after))
        return [
            Found(ref, found[0].kind, tuple(found), _cursor(score, ref))
            for score, ref in page[:limit]
            for found in [[entry for _, entry in sorted(features[ref], key=lambda pair: -pair[0])]]
        ]

    def entities(self) -> list[str]:
        """The entities that there are features of, as `Filters.entity` takes them."""
        return sorted({",".join(entry.entity) for entry in self._entries() if entry.entity})

    def _matching(self, text: str, filters: Filters) -> list[tuple[int, Entry]]:
        wanted = [word.casefold() for word in _TOKEN.findall(text)]
        if len(wanted) > MAX_WORDS:
            raise InvalidInput(f"{len(wanted)} words are too many.", hint=f"Give {MAX_WORDS} at most.", field="q")
        entries = [entry for entry in self._entries() if self._passes(entry, filters)]
        vocabulary = {word for entry in entries for word in entry.words} if wanted else set()
        meant = [_meanings(word, vocabulary) for word in wanted]
        scored = ((_score(entry, meant), entry) for entry in entries)
        return [(score, entry) for score, entry in scored if score or not wanted]

    def _passes(self, entry: Entry, filters: Filters) -> bool:
        keys = {key.strip().casefold() for key in filters.entity.split(",") if key.strip()}
        return (
            (not keys or keys == {key.casefold() for key in entry.entity})
            and (not filters.team or self._team_of(entry.view) == filters.team)
            and (not filters.owner or entry.owner.casefold() == filters.owner.casefold())
            and (not filters.dtype or entry.dtype == filters.dtype)
            and (not filters.tag or _is_tagged(entry.tags, filters.tag))
        )

    def _entries(self) -> Iterator[Entry]:
        views = {row["name"]: row for row in self._db.all(_LATEST.format("view"))}
        for name, row in views.items():
            yield from _of_view(name, row["version"], row["spec"])
        for row in self._db.all(_LATEST.format("transform")):
            spec = _transform_spec(row["spec"])
            used = {one.feature.partition("@")[0] for one in spec.inputs if one.feature}
            keys = (key for name in sorted(used & views.keys()) for key in _view_spec(views[name]["spec"]).join_keys)
            entity = tuple(dict.fromkeys(key.name for key in keys))
            yield from _of_transform(row["name"], row["version"], row["spec"], entity)

    def _hit(self, entry: Entry, cursor: str) -> FeatureHit:
        return FeatureHit(
            ref=entry.ref,
            kind=entry.kind,
            dtype=entry.dtype,
            entity=entry.entity,
            team=self._team_of(entry.view),
            owner=entry.owner,
            unit=entry.unit,
            description=entry.description,
            about=entry.about,
            tags=entry.tags,
            cursor=cursor,
        )

    # -- lineage ------------------------------------------------------------------------------------------------------

    def definitions(self, ref: str) -> Definitions:
        """Sources and views that a view or transform comes from; views, transforms and services that it goes into."""
        is_transform = self._features.is_transform(ref)
        here: FeatureView | Transform = self._features.transform(ref) if is_transform else self._features.view(ref)
        walk = Definitions(here.ref)
        views, transforms = self._features.views(), self._features.transforms()
        reads = {view.ref: list(view.sources) for view in views}
        reads |= {
            one.ref: list(dict.fromkeys(i.feature.partition(":")[0] for i in one.inputs if i.feature))
            for one in transforms
        }
        takes = {one.ref: [i.feature for i in one.inputs if i.feature] for one in transforms}
        kinds = {view.ref: "view" for view in views} | {one.ref: "transform" for one in transforms}
        walk.up(here.ref, reads, kinds | {source.name: "source" for source in self._features.declarations()})
        walk.down(here.ref, reads, kinds, takes)
        for service in self._features.services():
            for user in dict.fromkeys(full.partition(":")[0] for full in service.features):
                if user in walk.downstream:
                    walk.add("service", service.ref, taken(here.ref, service.features))
                    walk.edges.setdefault((f"{kinds[user]}:{user}", f"service:{service.ref}"))
        return walk


class Definitions:
    """A walk over definitions, from one view or transform."""

    def __init__(self, ref: str) -> None:
        self.ref = ref
        self.nodes: dict[str, LineageNode] = {}
        self.edges: dict[tuple[str, str], None] = {}
        self.downstream: dict[str, str] = {}
        """References of the view itself and what is computed from it, with their kinds."""

    def add(self, kind: str, name: str, features: Sequence[str] = ()) -> str:
        """A node, once; its id."""
        node = msgspec.convert(
            {"id": f"{kind}:{name}", "kind": kind, "name": name, "features": tuple(features)}, LineageNode
        )
        self.nodes.setdefault(node.id, node)
        return node.id

    def up(self, ref: str, reads: dict[str, list[str]], kinds: dict[str, str]) -> None:
        """What a view reads, and what that reads; what may not be seen is left out."""
        waiting, seen = [ref], {ref}
        while waiting:
            user = waiting.pop()
            to = self.add(kinds[user], user)
            for name in reads.get(user, ()):
                if name not in kinds:
                    continue
                self.edges.setdefault((self.add(kinds[name], name), to))
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)

    def down(self, ref: str, reads: dict[str, list[str]], kinds: dict[str, str], takes: dict[str, list[str]]) -> None:
        """What is computed from a view, and from that."""
        users: dict[str, list[str]] = {}
        for user, names in reads.items():
            for name in names:
                users.setdefault(name, []).append(user)
        waiting = [ref]
        while waiting:
            name = waiting.pop()
            if name in self.downstream:
                continue
            self.downstream[name] = kinds[name]
            for user in users.get(name, ()):
                to = self.add(kinds[user], user, taken(ref, takes.get(user, ())))
                self.edges.setdefault((f"{kinds[name]}:{name}", to))
                waiting.append(user)


def taken(ref: str, features: Iterable[str]) -> tuple[str, ...]:
    """The names of those features, of full references, that are of one view."""
    return tuple(full.partition(":")[2] for full in features if full.partition(":")[0] == ref)


# -- entries ----------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=10_000)
def _view_spec(text: str) -> ViewSpec:
    return msgspec.json.decode(text, type=ViewSpec)


@functools.lru_cache(maxsize=2_000)
def _transform_spec(text: str) -> TransformSpec:
    return msgspec.json.decode(text, type=TransformSpec)


@functools.lru_cache(maxsize=10_000)
def _of_view(name: str, version: int, text: str) -> tuple[Entry, ...]:
    spec = _view_spec(text)
    return _entries_of("view", f"{name}@v{version}", spec, tuple(key.name for key in spec.join_keys))


@functools.lru_cache(maxsize=2_000)
def _of_transform(name: str, version: int, text: str, entity: tuple[str, ...]) -> tuple[Entry, ...]:
    return _entries_of("transform", f"{name}@v{version}", _transform_spec(text), entity)


def _entries_of(
    kind: Literal["view", "transform"], ref: str, spec: ViewSpec | TransformSpec, entity: tuple[str, ...]
) -> tuple[Entry, ...]:
    columns = spec.features if isinstance(spec, ViewSpec) else spec.outputs
    tags = " ".join(f"{key} {value}" for key, value in spec.tags.items())
    return tuple(
        Entry(
            f"{ref}:{column.name}",
            kind,
            column.name,
            column.dtype,
            column.unit,
            column.description,
            spec.description,
            entity,
            spec.owner,
            spec.tags,
            _words(
                name=column.name,
                view=spec.name,
                label=f"{column.unit} {tags} {spec.owner} {' '.join(entity)}",
                text=f"{column.description} {spec.description}",
            ),
        )
        for column in columns
    )


def _words(**fields: str) -> dict[str, str]:
    """Each word with the first of the fields that has it; a name counts as one word, too."""
    found: dict[str, str] = {}
    for field, text in fields.items():
        folded = text.casefold()
        for word in (*_TOKEN.findall(folded), *([folded] if field in ("name", "view") else [])):
            found.setdefault(word, field)
    return found


def _is_tagged(tags: dict[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return tags.get(key) == value if equals else wanted in tags or wanted in tags.values()


# -- ranks ------------------------------------------------------------------------------------------------------------------


def _meanings(word: str, vocabulary: Iterable[str]) -> dict[str, float]:
    """The words of the catalogue that a word may stand for, each with how well it fits."""
    words = list(vocabulary)
    found = {known: _fit(word, known) for known in words if word in known}
    if not found:
        most = 0 if len(word) < 4 else 1 if len(word) < 8 else 2
        found = {known: _TYPO for known in words if most and is_close(word, known, most)}
    return found


def _fit(word: str, known: str) -> float:
    return _EXACT if known == word else _PREFIX if known.startswith(word) else _INSIDE


def _score(entry: Entry, meant: Sequence[dict[str, float]]) -> int:
    """How well a feature matches: 0 where it lacks a word."""
    total = 0
    for meanings in meant:
        best = max(
            (_WEIGHTS[entry.words[word]] * fit for word, fit in meanings.items() if word in entry.words), default=0
        )
        if not best:
            return 0
        total += int(best)
    return total


def is_close(a: str, b: str, most: int) -> bool:
    """Whether two words differ by at most so many letters that are wrong, missing, too many, or swapped with the next."""
    if abs(len(a) - len(b)) > most:
        return False
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        older, before, row = before, row, [i]
        for j, other in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return False
    return row[-1] <= most


def _cursor(score: int, ref: str) -> str:
    return f"{-score}~{ref}"


def _position(after: str | None) -> tuple[int, str]:
    """Where a page begins."""
    if after is None:
        return (-(2**62), "")
    score, tilde, ref = after.partition("~")
    if not (tilde and score.isascii() and score.isdigit() and len(score) < 10):
        raise InvalidInput(f"{after[:200]!r} is no cursor.", hint="Give the cursor of the last row.", field="after")
    return (-int(score), ref)
