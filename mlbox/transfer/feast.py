"""A Feast registry as mlbox's definitions; what cannot be carried over is said, with what to do, and nothing of it is ever run.

A feature view without code of its own becomes one SELECT over its source. A view that computes, an on-demand view and a view
without an entity are handed back as drafts, which a person completes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from mlbox.records import Column, Definitions, Entity, ServiceSpec, ViewSpec
from mlbox.transfer import feast_registry as feast
from mlbox.transfer.feast_drafts import Draft, by_hand, keyless, of_transform
from mlbox.transfer.feast_repo import Repository
from mlbox.transfer.feast_sources import TYPES, Gathered, Raw, Sources, is_name, listed, type_name
from mlbox.transfer.feast_sql import select

MAX_TTL_SECONDS = 100 * 366 * 86_400
"""What a view takes at most."""
_DUMMY = "__dummy"
"""The entity that Feast gives to views without one."""
_RESERVED = ("event_time", "arrival_time")
_STRING = 2
_DO = "keep it as text, or as a column for each of its parts"
_Spec = TypeVar("_Spec", bound=feast.AnyViewSpec | feast.FeatureServiceSpec | feast.OnDemandFeatureViewSpec)


class Imported(NamedTuple):
    """What came over, and for a person: what is lost, what is another way here, drafts, how to load."""

    definitions: Definitions
    left: tuple[str, ...]
    notes: tuple[str, ...]
    drafts: tuple[Draft, ...]
    loads: tuple[str, ...]


class _View(NamedTuple):
    """A view that came over, as services refer to it."""

    spec: ViewSpec
    raw: Raw


def convert(repository: Repository) -> Imported:
    """The definitions of a repository's project, in the order of the registry."""
    return _Import(repository).run()


class _Import:
    def __init__(self, repository: Repository) -> None:
        self._registry, self._project, folder = repository
        self._sources = Sources(self._registry, self._project, folder)
        self._feast_entities = {
            one.spec.name: one.spec
            for one in self._registry.entities
            if one.spec.project == self._project and one.spec.name != _DUMMY
        }
        self._entities: dict[str, Entity] = {}
        self._views: dict[str, _View] = {}
        self._services: dict[str, ServiceSpec] = {}
        self._names: dict[str, str] = {}
        """Names of views, by what they are without capitals."""
        self._drafts: list[Draft] = []
        self._left: list[str] = []
        self._notes: list[str] = []

    def run(self) -> Imported:
        for view in self._mine(self._all_views()):
            self._take_view(view)
        for entity in self._feast_entities.values():
            self._take_entity(entity, ())
        services = [one.spec for one in self._registry.feature_services]
        for service in self._mine(services):
            self._take_service(service)
        for on_demand in self._mine([one.spec for one in self._registry.on_demand_feature_views]):
            self._drafts.append(of_transform(on_demand, {name: one.spec for name, one in self._views.items()}))
            self._say(
                f"on-demand view {on_demand.name}",
                "its function is Python of any kind",
                "write it as a transform; a draft with the function's text is in the file",
            )
        self._sources.unread()
        self._say_rest()
        return Imported(
            Definitions(
                sources=tuple(self._sources.specs()),
                entities=tuple(self._entities.values()),
                views=tuple(one.spec for one in self._views.values()),
                services=tuple(self._services.values()),
            ),
            (*self._left, *self._sources.left),
            (*self._notes, *self._sources.notes),
            tuple(self._drafts),
            tuple(self._sources.loads()),
        )

    def _say(self, what: str, why: str, do: str) -> None:
        self._left.append(f"{what}: {why}; {do}")

    def _note(self, line: str) -> None:
        self._notes.append(line)

    # -- views ------------------------------------------------------------------------------------------------------------

    def _take_view(self, view: feast.AnyViewSpec) -> None:
        what = f"view {view.name}"
        if self._is_strange(what, view):
            return
        source = self._sources.of_view(view.name, view.batch_source, view.stream_source)
        if source is None:
            if view.batch_source is None and view.stream_source is None:
                self._say(what, "it has no source of its own", "write it as SQL over other views")
            return
        has_no_key = _DUMMY in view.entities or not view.entities
        keys = () if has_no_key else self._keys(what, view, source)
        if keys is None:
            return
        features = tuple(self._features(what, view, source, keys))
        if not features:
            self._say(what, "none of its features can be kept", "define it by hand")
            return
        raw = self._sources.ask(source, view.name, (*keys, *features))
        if raw is None:
            return
        entity = "" if has_no_key else self._entity_of(what, view, keys)
        spec = ViewSpec(
            name=view.name,
            join_keys=keys,
            features=features,
            sql=select(raw, keys, features),
            sources=(raw.source,),
            ttl_seconds=self._ttl(what, view),
            owner=view.owner,
            description=view.description,
            tags=dict(sorted(view.tags.items())),
            entity=entity,
        )
        self._say_small(what, view)
        if has_no_key:
            self._drafts.append(keyless(spec))
            self._say(what, "it has no entity", "give it a constant key; a draft of that is in the file")
        else:
            self._views[view.name] = _View(spec, raw)
            self._names[view.name.lower()] = view.name

    def _is_strange(self, what: str, view: feast.AnyViewSpec) -> bool:
        """Whether a view cannot come over for what it is; that is said."""
        if not is_name(view.name):
            self._say(f"view {view.name[:200]!r}", "that is no name here", "give it another and run `feast apply`")
        elif view.name.lower() in self._names:
            self._say(what, "another differs in capitals only", "give one of them another name")
        elif view.disabled:
            self._say(what, "it is disabled", "enable it, and import again")
        elif view.feature_transformation is not None or view.user_defined_function is not None or view.aggregations:
            self._drafts.append(by_hand(view))
            self._say(what, "it computes", "write it as SQL, or as a job that pushes; what it does is in the file")
        elif view.source_views:
            self._say(what, "it reads other views", "write it as SQL over them")
        else:
            return False
        return True

    def _keys(self, what: str, view: feast.AnyViewSpec, source: Gathered) -> tuple[Column, ...] | None:
        """A view's join keys in the order of its entities; None, and said, where one cannot be kept."""
        kinds = {column.name: column.value_type for column in view.entity_columns}
        keys = []
        for name in view.entities:
            entity = self._entity(name)
            key = entity.join_key or name
            number = kinds.get(key) or entity.value_type or _STRING
            if not kinds.get(key) and not entity.value_type:
                self._note(f"{what}: the type of its key {key[:200]} is not said, and STRING is taken")
            if number not in TYPES or key.lower() in _RESERVED or not is_name(key) or not is_name(source.raw(key)):
                problem = f"is {type_name(number)}" if number not in TYPES else "is no name here"
                self._say(
                    what, f"its key {key[:200]} {problem}", "make it text or a whole number, and define it by hand"
                )
                return None
            keys.append(Column(name=key, dtype=TYPES[number]))
        if len({key.name.lower() for key in keys}) < len(keys):
            self._say(what, "two of its entities have one join key", "define it by hand")
            return None
        return tuple(keys)

    def _entity(self, name: str) -> feast.EntitySpecV2:
        return self._feast_entities.get(name) or feast.EntitySpecV2(name=name, join_key=name)

    def _features(
        self, what: str, view: feast.AnyViewSpec, source: Gathered, keys: Sequence[Column]
    ) -> Iterator[Column]:
        """The features that can be kept; it is said of each other one why not."""
        taken = {key.name.lower() for key in keys} | set(_RESERVED)
        columns = {column.name for column in view.entity_columns} | {key.name for key in keys}
        tagged = []
        for feature in view.features:
            if feature.name in columns:
                continue
            dtype = TYPES.get(feature.value_type)
            named = is_name(feature.name) and is_name(source.raw(feature.name))
            if dtype is None:
                self._say(
                    f"{what}: feature {feature.name[:200]}",
                    f"there is no type {type_name(feature.value_type)} here",
                    _DO,
                )
                source.dropped.add(source.raw(feature.name))
            elif not named or feature.name.lower() in taken:
                self._say(f"{what}: feature {feature.name[:200]!r}", "the name is taken or none here", "rename it")
                source.dropped.add(source.raw(feature.name))
            else:
                taken.add(feature.name.lower())
                tagged += [feature.name] if set(feature.tags) - {"unit"} else []
                yield Column(
                    name=feature.name, dtype=dtype, unit=feature.tags.get("unit", ""), description=feature.description
                )
        if tagged:
            self._say(what, f"the tags of {listed(tagged)} have no place in a feature", "say it in the description")

    def _ttl(self, what: str, view: feast.AnyViewSpec) -> int | None:
        """Whole seconds, rounded up; none where Feast's is zero, which is for ever."""
        if view.ttl is None or (view.ttl.seconds, view.ttl.nanos) == (0, 0):
            return None
        seconds = view.ttl.seconds + (view.ttl.nanos > 0)
        if 0 < seconds <= MAX_TTL_SECONDS:
            return seconds
        self._say(what, f"its TTL of {seconds} s is not between 1 s and 100 years", "its values hold for ever")
        return None

    def _say_small(self, what: str, view: feast.AnyViewSpec) -> None:
        if not view.online:
            self._note(f"{what}: it is not for online reads there; here every view is")
        if view.org:
            self._say(what, f"its organisation {view.org[:200]} has no place", "begin its name with a team's and a dot")

    # -- entities -----------------------------------------------------------------------------------------------------------

    def _entity_of(self, what: str, view: feast.AnyViewSpec, keys: Sequence[Column]) -> str:
        """The entity of a view, one of several keys where Feast has several; none, and said, where its keys are others."""
        if len(view.entities) == 1:
            wanted = self._take_entity(self._entity(view.entities[0]), keys)
        else:
            name = "_".join(view.entities)
            both = Entity(name=name, join_keys=tuple(keys), description=f"{listed(view.entities)}.")
            if name in self._feast_entities or not is_name(name):
                return ""
            wanted = self._entities.setdefault(name, both)
        if wanted is not None and _kinds(wanted.join_keys) == _kinds(keys):
            return wanted.name
        self._say(what, "its keys are not those of its entity", "it has keys and no entity here")
        return ""

    def _take_entity(self, entity: feast.EntitySpecV2, keys: Sequence[Column]) -> Entity | None:
        """An entity with the type that it says, else that of the first view of it."""
        key = entity.join_key or entity.name
        if entity.name in self._entities:
            return self._entities[entity.name]
        if not is_name(entity.name) or not is_name(key):
            self._say(f"entity {entity.name[:200]!r}", "that is no name here", "name the keys in the views")
            return None
        dtype = TYPES.get(entity.value_type) or (keys[0].dtype if keys else None)
        if dtype is None:
            self._say(f"entity {entity.name}", f"its type is {type_name(entity.value_type)}", "define it by hand")
            return None
        self._entities[entity.name] = Entity(
            name=entity.name,
            join_keys=(Column(name=key, dtype=dtype),),
            owner=entity.owner,
            description=entity.description,
            tags=dict(sorted(entity.tags.items())),
        )
        return self._entities[entity.name]

    # -- services -----------------------------------------------------------------------------------------------------------

    def _take_service(self, service: feast.FeatureServiceSpec) -> None:
        what = f"service {service.name}"
        if not is_name(service.name):
            self._say(
                f"service {service.name[:200]!r}", "that is no name here", "give it another and run `feast apply`"
            )
            return
        refs = [ref for projection in service.features for ref in self._refs(what, projection)]
        words = [word for word in ("description", "owner", "tags") if getattr(service, word)]
        if words:
            self._say(what, f"it has no place for its {listed(words)}", "say it with the model that uses it")
        if service.logging_config:
            self._say(what, "how it logs is not carried over", "see `mlbox feature skew` for what is sampled here")
        if refs:
            self._services[service.name] = ServiceSpec(name=service.name, features=tuple(dict.fromkeys(refs)))
        else:
            self._say(what, "none of its features came over", "define it when they are here")

    def _refs(self, what: str, projection: feast.FeatureViewProjection) -> Iterator[str]:
        name, wanted = projection.feature_view_name, [column.name for column in projection.feature_columns]
        view = self._views.get(name)
        if view is None:
            self._say(what, f"{name[:200]}: {listed(wanted or ['its features'])} did not come over", "add them by hand")
            return
        alias = projection.feature_view_name_alias
        if projection.join_key_map:
            view = self._renamed(what, view, projection)
            if view is None:
                return
        elif alias and alias != name:
            self._note(f"{what}: it calls {name} {alias[:200]}; here its features are {name}:FEATURE")
        if projection.version_tag:
            self._note(f"{what}: it names version {projection.version_tag} of {name}; here it has the latest")
        known = {column.name for column in view.spec.features}
        missing = [one for one in wanted if one not in known]
        if missing:
            self._say(what, f"{name}: {listed(missing)} did not come over", "add them when they are here")
        yield from (f"{view.spec.name}:{one}" for one in wanted if one in known)

    def _renamed(self, what: str, view: _View, projection: feast.FeatureViewProjection) -> _View | None:
        """The same view with other join keys, as a view of its own."""
        names = dict(sorted(projection.join_key_map.items()))
        made = "_".join((view.spec.name, "by", *names.values()))
        name = projection.feature_view_name_alias or made
        keys = tuple(msgspec.structs.replace(key, name=names.get(key.name, key.name)) for key in view.spec.join_keys)
        every = [column.name.lower() for column in (*keys, *view.spec.features)]
        if not all(map(is_name, (name, *every))) or len(set(every)) < len(every) or set(every) & set(_RESERVED):
            self._say(what, f"{view.spec.name} with the keys {listed(list(names.values()))[:200]}", "define it by hand")
            return None
        raw = view.raw._replace(
            columns={
                **view.raw.columns,
                **{new.name: view.raw.columns[old.name] for old, new in zip(view.spec.join_keys, keys, strict=True)},
            }
        )
        sql = select(raw, keys, view.spec.features)
        spec = msgspec.structs.replace(view.spec, name=name, join_keys=keys, sql=sql, entity="")
        taken = self._names.setdefault(name.lower(), name)
        if taken in self._views and self._views[taken].spec != spec:
            self._say(what, f"there is another view {name}", f"define {view.spec.name} with other keys by hand")
            return None
        return self._views.setdefault(name, _View(spec, raw))

    # -- the rest -----------------------------------------------------------------------------------------------------------

    def _mine(self, specs: Iterable[_Spec]) -> list[_Spec]:
        """Those of the project, by name: Feast keeps them in any order."""
        return sorted((one for one in specs if one.project == self._project), key=lambda one: one.name)

    def _all_views(self) -> list[feast.AnyViewSpec]:
        registry = self._registry
        return [*(one.spec for one in registry.feature_views), *(one.spec for one in registry.stream_feature_views)]

    def _say_rest(self) -> None:
        """What there is no counterpart for, and what belongs to other projects."""
        registry = self._registry
        for noun, do, specs in (
            ("feature table", "make it a feature view", [one.spec for one in registry.feature_tables]),
            (
                "label view",
                "keep labels with `mlbox label`, or in a source",
                [one.spec for one in registry.label_views],
            ),
            ("saved dataset", "add its file with `mlbox dataset`", [one.spec for one in registry.saved_datasets]),
            ("validation reference", "write expectations with `mlbox quality`", registry.validation_references),
            ("permission", "give roles with `mlbox team`", [one.spec for one in registry.permissions]),
        ):
            for name in sorted(one.name for one in specs if one.project == self._project):
                self._say(f"{noun} {name[:200]}", "there is no counterpart", do)
        services = [one.spec.project for one in registry.feature_services]
        others = Counter(one.project for one in self._all_views()) + Counter(services)
        for project in sorted(set(others) - {self._project}):
            count = f"{others[project]} views and services are of another project"
            self._note(f"project {project[:200]}: {count}; import them with --project")
        history = registry.feature_view_version_history
        if history is not None and history.records > len(self._all_views()) + len(registry.on_demand_feature_views):
            self._note("views have had other versions; here each begins with its latest one")


def _kinds(columns: Sequence[Column]) -> list[tuple[str, str]]:
    return [(column.name, column.dtype) for column in columns]
