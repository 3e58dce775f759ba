"""Who is told of a promotion: when a person is awaited, once again while nobody decides, and of its end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mlbox.errors import InvalidInput
from mlbox.records import Promotion, PromotionPolicy
from mlbox.store.outbox import Outbox
from mlbox.store.registry.promotion_notices import subject_of
from tests.store.road import Store

POLICY = PromotionPolicy(notify=("mailto:bea@example.org", "https://chat.example.org/hook/secret"), approval_days=10)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    store.register()
    yield store
    store.db.close()


def waiting(store: Store, policy: PromotionPolicy = POLICY) -> Promotion:
    store.registry.policies.set("delay", policy, actor="admin")
    return store.gates(store.promotions.propose(store.register(), actor="ann").id)


def told(store: Store, promotion: Promotion) -> list[str]:
    """What one of the two addresses was told, oldest first."""
    found = Outbox(store.db).of(subject_of(promotion.id))
    assert {one.address for one in found} <= {"mailto:bea@example.org", "https://chat.example.org"}
    return [one.text for one in reversed(found) if one.address.startswith("mailto:")]


def later(store: Store, days: float) -> None:
    """The time, and what the server does again and again."""
    store.clock.advance(store.clock.now() + timedelta(days=days))
    for _ in range(2):
        store.promotions.expire(store.clock.now())


def test_a_request_is_told_reminded_of_twice_and_told_to_have_expired(store: Store) -> None:
    promotion = waiting(store)
    (asked,) = told(store, promotion)
    assert asked.startswith("delay/2, proposed by ann, waits for an approval: all gates passed. Decide on the page")
    assert f"/approvals/{promotion.id}, or with `mlbox approvals delay/2`" in asked
    later(store, 4.9)
    assert len(told(store, promotion)) == 1
    later(store, 0.1)
    assert "still waits for an approval: it expires on 2026-01-11 00:00 UTC" in told(store, promotion)[1]
    later(store, 3.9)
    assert len(told(store, promotion)) == 2
    store.crash()
    later(store, 0.1)
    assert len(told(store, promotion)) == 3
    later(store, 1)
    assert "expired: nobody decided about it in time" in told(store, promotion)[3]
    assert len(told(store, promotion)) == 4
    assert len(store.db.events(type="promotion.reminder")) == 2


def test_the_end_is_told_and_a_policy_without_addresses_tells_nobody(store: Store) -> None:
    promotion = waiting(store)
    store.promotions.decide(promotion.id, approver="bea", decision="approve", comment="good")
    assert told(store, promotion)[-1] == "delay/2, proposed by ann, is in Production: first version of the model."
    quiet = waiting(store, PromotionPolicy())
    store.promotions.withdraw(quiet.id, actor="ann")
    assert told(store, quiet) == []


def test_where_people_reach_the_server_is_said_the_messages_link_to_its_page(store: Store) -> None:
    promotion = waiting(store)
    store.promotions.decide(promotion.id, approver="bea", decision="approve", comment="good")
    outbox, page = Outbox(store.db, url="https://mlbox.example.org/"), f"/approvals/{promotion.id}"
    asked, ended = (m.body for m in outbox.due(2**62) if m.address.startswith("mailto:"))
    assert {asked["url"], ended["url"]} == {f"https://mlbox.example.org{page}"}
    assert f"on the page https://mlbox.example.org{page}, or with" in asked["text"]
    assert ended["text"].splitlines()[1] == ended["url"]
    assert {m.text for m in outbox.of(subject_of(promotion.id))} == {asked["text"], ended["text"]}
    assert all("url" not in m.body and m.body["place"] == page for m in Outbox(store.db).due(2**62))


def test_an_address_that_nothing_can_be_sent_to_is_refused(store: Store) -> None:
    with pytest.raises(InvalidInput) as refused:
        store.registry.policies.set("delay", PromotionPolicy(notify=("bea",)), actor="admin")
    assert refused.value.field == "notify"
