"""Which replica gets a request: the home of its session unless it is busy, else the one with least to do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trimode.integrations.ray_serve.hints import Hints
from trimode.integrations.ray_serve.routing import Load, routed
from trimode.integrations.ray_serve.work import Sent

names = st.lists(st.text("abcdef0123456789", min_size=8, max_size=8), min_size=1, max_size=6, unique=True)
sessions = st.text(min_size=1, max_size=12)


@st.composite
def loads(draw: st.DrawFn) -> list[Load]:
    numbers = st.integers(0, 50)
    return [Load(replica=name, ongoing=draw(numbers), expected=draw(numbers)) for name in draw(names)]


def idle(known: list[str]) -> list[Load]:
    return [Load(replica=name) for name in known]


@given(loads(), sessions, st.integers(0, 1), st.integers(1, 40), st.lists(st.integers(0, 5), max_size=3))
def test_every_replica_is_asked_once_and_lost_ones_last(
    known: list[Load], session: str, priority: int, busy: int, gone: list[int]
) -> None:
    lost = tuple({known[at % len(known)].replica for at in gone})
    found = routed(Hints(session=session, priority=priority, avoid=lost), known, busy)
    assert sorted(found.order) == sorted(load.replica for load in known)
    assert len(lost) == len(known) or set(found.order[len(known) - len(lost) :]) == set(lost)


@given(names, sessions)
def test_a_session_has_one_home_whatever_the_order(known: list[str], session: str) -> None:
    homes = {routed(Hints(session=session), idle(order), 4).order[0] for order in (known, known[::-1])}
    assert len(homes) == 1


@given(names, sessions, st.integers(0, 5))
def test_a_replica_that_goes_moves_only_its_own_sessions(known: list[str], session: str, at: int) -> None:
    gone = known[at % len(known)]
    left = [name for name in known if name != gone]
    home = routed(Hints(session=session), idle(known), 4).home
    if home != gone:
        assert routed(Hints(session=session), idle(left), 4).home == home
    assert not left or routed(Hints(session=session, avoid=(gone,)), idle(known), 4).home != gone


@given(loads(), sessions, st.integers(0, 1), st.integers(1, 40))
def test_a_session_leaves_home_only_where_home_is_busy_and_another_is_not_busier(
    known: list[Load], session: str, priority: int, busy: int
) -> None:
    found = routed(Hints(session=session, priority=priority), known, busy)
    ongoing = {load.replica: load.ongoing for load in known}
    first = found.order[0]
    if first != found.home:
        assert ongoing[found.home] >= max(1, busy >> priority)
        assert ongoing[first] < ongoing[found.home]
        assert found.why.startswith(f"spilled: the home {found.home} has {ongoing[found.home]} requests")


def test_a_request_with_a_deadline_leaves_a_home_that_others_wait_for() -> None:
    home = routed(Hints(session="s"), idle(["a", "b"]), 8).home
    known = [Load(replica=name, ongoing=5 if name == home else 0) for name in ("a", "b")]
    assert routed(Hints(session="s"), known, 8).order[0] == home
    assert routed(Hints(session="s", priority=1), known, 8).order[0] != home


def test_without_a_session_the_replica_with_the_fewest_expected_tokens_is_first() -> None:
    known = [Load(replica="a", ongoing=1, expected=900), Load(replica="b", ongoing=3, expected=30)]
    found = routed(Hints(), known, 8)
    assert (found.order, found.why) == (("b", "a"), "no session; least to do of 2")


def test_the_receipt_names_a_replica_that_took_no_more() -> None:
    found = routed(Hints(), idle(["a", "b"]), 8)
    assert found.reason("b") == "a took no more requests (no session; least to do of 2)"


def test_the_receipt_of_a_later_attempt_names_the_lost_replica_where_it_is_known() -> None:
    found = routed(Hints(session="s", avoid=("a",)), idle(["a", "b"]), 8)
    named = Sent(request="x", hints=Hints(session="s", avoid=("a",)), attempt=2, route=found)
    assert named.served("b").why == "decoded again, a was lost; home of the session"
    assert Sent(request="x", hints=Hints(), attempt=2).served("b").why == (
        "decoded again, a replica was lost; chosen by a router of Ray's"
    )
    assert routed(Hints(), [], 8).order == ()
