"""A media thread for each test, which must leave nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.media import MediaWorker


@pytest.fixture
async def worker() -> AsyncIterator[MediaWorker]:
    worker = MediaWorker(asyncio.get_running_loop())
    yield worker
    await worker.aclose()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, "tasks outlive the test"
