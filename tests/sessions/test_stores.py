"""What holds for every store of sessions."""

from __future__ import annotations

import dataclasses

import anyio
import httpx
import pytest

import alloy
from alloy.errors import InvalidOptionError, SessionConflictError
from alloy.messages import Message, TextBlock
from alloy.sessions import FileStore, MemoryStore, Session, SessionStore

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "files"])
def store(request, tmp_path) -> SessionStore:
    return MemoryStore() if request.param == "memory" else FileStore(tmp_path / "sessions")


def grown(session: Session, text: str = "More.") -> Session:
    """The session after another turn."""
    turn = (Message("user", (TextBlock(text),)), Message("assistant", (TextBlock("Yes."),)))
    return dataclasses.replace(session, messages=(*session.messages, *turn), seq=session.seq + 10)


async def test_it_is_a_store(store):
    assert isinstance(store, SessionStore)
    assert "desk" not in repr(store)


async def test_what_was_saved_is_loaded(store):
    new = grown(Session(id="desk", metadata={"a": [1]}))

    saved = await store.save(new)

    assert saved == dataclasses.replace(new, revision=1, updated_ms=saved.updated_ms)
    assert saved.updated_ms >= new.created_ms
    assert await store.load("desk") == saved


async def test_nothing_is_loaded_where_nothing_was_saved(store):
    assert await store.load("desk") is None
    assert await store.ids() == ()


async def test_each_save_is_a_revision(store):
    session = Session(id="desk")
    for revision in range(1, 5):
        session = await store.save(grown(session))
        assert session.revision == revision

    assert await store.load("desk") == session


async def test_sessions_are_listed_by_their_ids(store):
    for name in ("b", "A", "a", "ü"):
        await store.save(Session(id=name))

    assert await store.ids() == ("A", "a", "b", "ü")


async def test_a_deleted_session_is_gone_and_its_id_is_free(store):
    await store.save(Session(id="desk"))
    await store.save(Session(id="other"))

    await store.delete("desk")
    await store.delete("desk")

    assert await store.load("desk") is None
    assert await store.ids() == ("other",)
    assert (await store.save(Session(id="desk"))).revision == 1


async def test_p3_who_did_not_load_the_newest_session_saves_nothing(store):
    old = await store.save(Session(id="desk"))
    new = await store.save(grown(old))

    with pytest.raises(SessionConflictError, match="revision 2, and this was made of revision 1") as caught:
        await store.save(grown(old, "Else."))

    assert caught.value.session_id == "desk"
    assert await store.load("desk") == new


async def test_p3_a_session_that_was_never_saved_replaces_none(store):
    first = await store.save(Session(id="desk", created_ms=1))

    with pytest.raises(SessionConflictError, match="another session is saved under this id"):
        await store.save(Session(id="desk", created_ms=2))
    with pytest.raises(SessionConflictError):
        await store.save(Session(id="desk", created_ms=1))

    assert await store.load("desk") == first


async def test_p3_a_session_of_the_same_revision_but_another_beginning_replaces_none(store):
    old = await store.save(Session(id="desk", created_ms=1))
    await store.delete("desk")
    new = await store.save(Session(id="desk", created_ms=2))

    assert old.revision == new.revision
    with pytest.raises(SessionConflictError):
        await store.save(grown(old))
    assert await store.load("desk") == new


async def test_p3_a_deleted_session_does_not_come_back(store):
    old = await store.save(Session(id="desk"))
    await store.delete("desk")

    with pytest.raises(SessionConflictError, match="deleted"):
        await store.save(grown(old))

    assert await store.load("desk") is None


async def test_p3_of_many_who_save_at_once_one_does(store):
    session = await store.save(Session(id="desk"))
    outcomes = []

    async def save(number: int) -> None:
        try:
            outcomes.append(await store.save(grown(session, f"I am {number}.")))
        except SessionConflictError:
            outcomes.append(None)

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(save, number)

    winners = [outcome for outcome in outcomes if outcome is not None]
    assert len(outcomes) == 8
    assert [await store.load("desk")] == winners


async def test_sessions_are_saved_side_by_side(store):
    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(store.save, Session(id=f"desk {number}"))

    assert len(await store.ids()) == 20


@pytest.mark.parametrize("bad", ["", "a\nb", "x" * 129])
async def test_an_impossible_id_is_refused(store, bad):
    with pytest.raises(InvalidOptionError):
        await store.load(bad)
    with pytest.raises(InvalidOptionError):
        await store.delete(bad)


async def test_a_cancelled_save_saves_the_whole_session_or_nothing_and_the_owner_goes_on(store):
    session = await store.save(Session(id="desk"))
    for _ in range(10):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await store.save(grown(session))
        session = await store.save(grown(session))

        assert scope.cancelled_caught
        assert await store.load("desk") == session


async def test_p8_a_conversation_with_a_key_is_saved_without_it(store):
    key = "sk-CANARY-0123456789"

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["x-api-key"] == key
        return httpx.Response(
            200, json={"content": [{"type": "text", "text": "Hello."}], "stop_reason": "end_turn", "model": "m"}
        )

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        provider = alloy.providers.Anthropic("m", key, "https://x.test/v1", client=client)
        result = await alloy.run("Hi.", provider=provider)

    saved = await store.save(Session(id="desk", messages=result.messages, usage=result.usage))

    assert saved.messages[-1].origin == provider.origin
    assert b"CANARY" not in saved.to_json()
    assert "CANARY" not in repr(saved)
