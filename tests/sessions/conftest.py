"""What every test of sessions in files has."""

from __future__ import annotations

import pytest

from alloy.sessions import FileStore


@pytest.fixture
def store(tmp_path) -> FileStore:
    """A store in an empty directory."""
    return FileStore(tmp_path)
