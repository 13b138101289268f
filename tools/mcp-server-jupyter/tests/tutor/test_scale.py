"""Many learners at once, whose servers are simulated: kernels in this process, the tests' processes real ones."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest

from learners import Learners, fake_tutor, tutor_settings

LEARNERS, ACTIVE, SECONDS = 10_000, 500, 60


@pytest.mark.long
async def test_of_ten_thousand_learners_nobodys_work_is_lost_and_nobody_starves(tmp_path: Path) -> None:
    """Five hundred hand in, fix what is wrong and hand in again, until a minute is over; figures are printed."""
    settings = tutor_settings(tmp_path, checks=20)
    learners = Learners(settings)
    end = time.monotonic() + SECONDS
    handed_in = 0
    async with fake_tutor(settings, learners) as tutor:
        for number in range(LEARNERS):
            await tutor.deploy_task(f"learner-{number}", "squares")

        async def works(name: str, number: int) -> None:
            nonlocal handed_in
            for attempt in range(1, 1000):
                is_right = attempt % 2 == 0
                learners[name].writes(f"def square(x): return x * x{'' if is_right else ' + 1'} # {attempt}")
                told = await tutor.check_task(name, "squares")
                handed_in += 1
                assert told["attempt"] == attempt
                assert told["state"] == ("passed" if is_right else "failed")
                if time.monotonic() > end:
                    return

        async with anyio.create_task_group() as tasks:
            for number in range(ACTIVE):
                tasks.start_soon(works, f"learner-{number * (LEARNERS // ACTIVE)}", number)
        rows = tutor.learner_progress(task="squares")
    assert len(rows) == ACTIVE
    assert sum(row["attempt"] for row in rows) == handed_in
    attempts = [row["attempt"] for row in rows]
    # In turns: nobody is more than a turn ahead of anybody.
    assert max(attempts) - min(attempts) <= 2
    print(f"{handed_in} checks in {SECONDS} s, {min(attempts)} to {max(attempts)} a learner")  # noqa: T201
