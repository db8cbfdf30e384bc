"""What a session is, its JSON, and what a store of sessions does."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence  # pydantic reads the annotations
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

from alloy.errors import HistoryError, InvalidOptionError, SessionConflictError, SessionError
from alloy.history import check_history, repair_history
from alloy.messages import Message
from alloy.usage import Usage

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

__all__ = ["Session", "SessionStore", "check_id", "check_owner", "saved"]

VERSION = 1
LONGEST_ID = 128  # in characters
DEEPEST = 100  # nested lists and objects in metadata
_UNKNOWN = "(unknown)"


def _now_ms() -> int:
    return int(time.time() * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What survives of an agent's conversation.

    Attributes:
        id: the agent's name; 1 to 128 printable characters.
        revision: 0 if it was never saved; each save makes it one more.
        created_ms: when it began, in milliseconds since the epoch; now, if left out.
        updated_ms: when it was saved last, in milliseconds since the epoch; 0 if never.
        seq: the newest envelope's number, so that numbering goes on.
        usage: tokens of all its requests so far.
        metadata: what extensions keep here, JSON; copied.
        messages: the history.
        archive: what compaction has taken out of the history, oldest first.

    Raises:
        InvalidOptionError: an attribute has a value that it can't have.
    """

    id: str
    revision: int = 0
    created_ms: int = field(default_factory=_now_ms)
    updated_ms: int = 0
    seq: int = 0
    usage: Usage = Usage()  # noqa: RUF009  frozen
    metadata: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    archive: tuple[Message, ...] = ()

    def __post_init__(self) -> None:
        check_id(self.id)
        for name in ("revision", "created_ms", "updated_ms", "seq"):
            number = getattr(self, name)
            if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                raise InvalidOptionError(name, "a whole number, 0 or more", number)
        if not isinstance(self.metadata, Mapping):
            raise InvalidOptionError("metadata", "a mapping", self.metadata)
        object.__setattr__(self, "metadata", _json_copy(self.metadata, "metadata"))
        object.__setattr__(self, "messages", tuple(self.messages))
        object.__setattr__(self, "archive", tuple(self.archive))

    def to_json(self) -> bytes:
        """The session as a JSON document, with its version.

        Raises:
            SessionError: the history isn't valid, or something in it is no JSON; such a document couldn't be read again.
        """
        from pydantic_core import from_json  # noqa: PLC0415  only JSON needs it

        document = _Document(VERSION, *(getattr(self, name) for name in _FIELDS))
        try:
            written = _documents().dump_json(document, warnings="error")
            from_json(written, cache_strings="none")  # what is nested too deeply can be written, but not read
        except ValueError:  # its text may quote the message
            raise SessionError(self.id, self._unwritable()) from None
        try:
            check_history(self.messages)
        except HistoryError as error:
            raise SessionError(self.id, f"{_invalid(error)}; alloy.repair_history(messages) mends it") from None
        return written

    def _unwritable(self) -> str:
        """Which message can't be written."""
        from pydantic_core import from_json  # noqa: PLC0415  only JSON needs it

        for where, messages in (("message", self.messages), ("archived message", self.archive)):
            for index, message in enumerate(messages):
                try:
                    from_json(_message().dump_json(message, warnings="error"))
                except ValueError:
                    return f"{where} {index} can't be written as JSON: {_UNWRITABLE}"
        return f"it can't be written as JSON: {_UNWRITABLE}"

    @classmethod
    def from_json(cls, data: bytes | str, *, id: str | None = None, repair: bool = False) -> Self:  # noqa: A002  the attribute's name
        """Reads what `to_json` wrote.

        Args:
            data: the document.
            id: which session it must be; any, if left out.
            repair: mend an invalid history with `alloy.repair_history`, instead of refusing it.

        Raises:
            SessionError: it is no such document, of another version or another session's, or its history isn't valid.
        """
        from pydantic import ValidationError  # noqa: PLC0415  64 ms that only JSON needs

        name = _UNKNOWN if id is None else id
        try:
            document = _documents().validate_json(data, strict=True)
        except ValidationError as error:
            raise SessionError(name, _unreadable(data, error)) from None
        if document.v != VERSION:
            raise SessionError(name, _other_version(document.v))
        if id is not None and document.id != id:
            raise SessionError(id, "it is another session's, by the id in it")
        try:
            session = cls(**{name: getattr(document, name) for name in _FIELDS})
            if repair:
                session = dataclasses.replace(session, messages=repair_history(session.messages))
            check_history(session.messages)
        except HistoryError as error:
            cure = "Session.from_json(data, repair=True) mends it with alloy.repair_history"
            raise SessionError(document.id, f"{_invalid(error)}; {cure}") from None
        except InvalidOptionError as error:
            raise SessionError(name, f"it isn't a session: wrong value at {error.option.partition('.')[0]}") from None
        return session


@runtime_checkable
class SessionStore(Protocol):
    """Keeps sessions.

    A session has one owner at a time: who saves must have what is stored. A save that is cancelled leaves either the old or the
    new session, and the owner can save again.
    """

    async def load(self, session_id: str) -> Session | None:
        """The session with this id, or None if there is none.

        Raises:
            SessionError: it can't be read.
        """

    async def save(self, session: Session) -> Session:
        """Saves a session.

        Returns:
            The session as it is stored, with its new revision; save that one, or what is made of it, the next time.

        Raises:
            SessionConflictError: what is stored isn't what this session was made of; somebody else saved it.
            SessionError: it can't be written, or what is stored can't be read; that is left as it is.
        """

    async def delete(self, session_id: str) -> None:
        """Deletes the session with this id; nothing happens if there is none.

        Raises:
            SessionError: it can't be deleted.
        """

    async def ids(self) -> Sequence[str]:
        """The ids of all sessions, sorted.

        Raises:
            SessionError: they can't be listed.
        """


# --- What every store does -------------------------------------------------------------------------------------------


def check_id(session_id: object) -> None:
    """Checks that a session can have this id.

    Raises:
        InvalidOptionError: it isn't 1 to 128 printable characters.
    """
    if not isinstance(session_id, str) or not 0 < len(session_id) <= LONGEST_ID or not session_id.isprintable():
        raise InvalidOptionError("id", f"1 to {LONGEST_ID} printable characters", session_id)


def check_owner(session: Session, revision: int | None, created_ms: int) -> None:
    """Checks that what is stored is what a session was made of.

    Args:
        session: what is to be saved.
        revision: the revision that is stored, or None if there is none.
        created_ms: when the stored session began.

    Raises:
        SessionConflictError: it isn't.
    """
    if revision is None:
        if session.revision:
            raise SessionConflictError(session.id, "it was deleted since it was loaded; nothing was saved")
    elif session.created_ms != created_ms:
        raise SessionConflictError(session.id, "another session is saved under this id; load that one, or use a new id")
    elif session.revision != revision:
        raise SessionConflictError(
            session.id,
            f"what is saved is revision {revision}, and this was made of revision {session.revision}: somebody else saved it "
            "in the meantime; load it again",
        )


def saved(session: Session, revision: int) -> Session:
    """The session as it is saved now, with its new revision."""
    return dataclasses.replace(session, revision=revision, updated_ms=_now_ms())


# --- JSON ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Document:
    """What is written: every field has to be there, and no other."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    v: int
    id: str
    revision: int
    created_ms: int
    updated_ms: int
    seq: int
    usage: Usage
    metadata: Mapping[str, Any]
    messages: tuple[Message, ...]
    archive: tuple[Message, ...]


_FIELDS = tuple(field.name for field in dataclasses.fields(Session))
_UNWRITABLE = "a wrong type, text that isn't Unicode, or nested too deeply"


@cache
def _documents() -> TypeAdapter[_Document]:
    from pydantic import TypeAdapter  # noqa: PLC0415  64 ms that only JSON needs

    return TypeAdapter(_Document)


@cache
def _message() -> TypeAdapter[Message]:
    from pydantic import TypeAdapter  # noqa: PLC0415  64 ms that only JSON needs

    return TypeAdapter(Message)


def _unreadable(data: bytes | str, error: ValidationError) -> str:
    """Why a document was refused, in words that hold nothing of it."""
    from pydantic_core import from_json  # noqa: PLC0415  only JSON needs it

    try:
        document = from_json(data)
    except ValueError as reason:
        text = str(reason)
        return f"it is cut short ({text})" if text.startswith("EOF") else f"it isn't JSON ({text})"
    match document:
        case {"v": int() as version} if version != VERSION:
            return _other_version(version)
        case {"v": _}:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = first["loc"][:-1] if first["type"] == "unexpected_keyword_argument" else first["loc"]
            return f"it isn't a session: {first['type'].replace('_', ' ')} at {'.'.join(map(str, place)) or 'the top'}"
        case _:
            return "it isn't a session: it has no version"


def _other_version(version: int) -> str:
    if version > VERSION:
        return f"a newer Alloy saved it, in version {version}; this one reads version {VERSION}"
    return f"it is of version {version}, and this Alloy reads version {VERSION}"


def _invalid(error: HistoryError) -> str:
    """What is wrong with a history, without its words."""
    shown = ", ".join(f"message {problem.index}: {problem.rule}" for problem in error.problems[:3])
    more = f" and {len(error.problems) - 3} more" if len(error.problems) > 3 else ""
    return f"its history isn't one that every API accepts ({shown}{more})"


def _json_copy(value: Any, at: str, depth: int = 0) -> Any:
    """A copy of a JSON value, in which nothing is shared.

    Raises:
        InvalidOptionError: it is no JSON.
    """
    match value:
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
        case str() if _is_unicode(value):
            return value
        case Mapping() if depth < DEEPEST and all(isinstance(key, str) and _is_unicode(key) for key in value):
            return {key: _json_copy(item, f"{at}.{key}", depth + 1) for key, item in value.items()}
        case list() | tuple() if depth < DEEPEST:
            return [_json_copy(item, f"{at}.{index}", depth + 1) for index, item in enumerate(value)]
        case _:
            pass
    raise InvalidOptionError(at, f"JSON, with text as keys and at most {DEEPEST} deep", value)


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
