"""Fixtures for tests on real programs."""

from collections.abc import Iterator

import pytest

from tests.integration.programs import Start, programs


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program; all are killed at the test's end."""
    with programs() as function:
        yield function
