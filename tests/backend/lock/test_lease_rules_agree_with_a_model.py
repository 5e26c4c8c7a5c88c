"""The file manager against a model of a dozen lines, over random histories of runs, hosts, time and deaths."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pipedag_airflow.backend.lock import FileLockManager, LockState, Owner
from pipedag_airflow.errors import StageBusyError, StaleRunError
from pipedag_airflow.testing.lock_suite import Clock

LEASES = [Owner.of_run(f"lease{number}") for number in range(2)]
SESSIONS = [Owner(f"session{number}", "elsewhere.invalid", 7, 1.0) for number in range(2)]
STAGES = ["a", "b/c"]
TICKET = 10.0

owners = st.sampled_from(LEASES + SESSIONS)
stages = st.sampled_from(STAGES)


class LeaseRules(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.clock = Clock()
        self.managers = [FileLockManager(Path(self.folder), clock=self.clock) for _ in range(2)]
        # The model: holder and expiry, who waits and when they asked last, the last token; per stage.
        self.held: dict[str, tuple[Owner, float] | None] = dict.fromkeys(STAGES)
        self.waiting: dict[str, dict[str, float]] = {stage: {} for stage in STAGES}
        self.tokens = dict.fromkeys(STAGES, 0)
        self.over: set[str] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def manager(self, number: int) -> FileLockManager:
        return self.managers[number]

    def living(self, stage: str) -> list[str]:
        return [run for run, asked in self.waiting[stage].items() if self.clock.now - asked <= TICKET]

    def may_have(self, stage: str, owner: Owner) -> bool:
        held = self.held[stage]
        if held is not None and held[0].run_id == owner.run_id:
            return True
        free = held is None or held[0].run_id in self.over or (held[0].pid is not None and self.clock.now > held[1])
        return free and self.living(stage)[:1] in ([], [owner.run_id])

    @rule(stage=stages, owner=owners, seconds=st.sampled_from([1.0, 20.0]), number=st.integers(0, 1))
    def acquire(self, stage: str, owner: Owner, seconds: float, number: int) -> None:
        manager = self.manager(number)
        if not self.may_have(stage, owner):
            with pytest.raises(StageBusyError):
                manager.acquire(stage, owner, seconds=seconds, is_over=lambda lease: lease.owner.run_id in self.over)
            living = self.living(stage)
            self.waiting[stage] = {run: asked for run, asked in self.waiting[stage].items() if run in living}
            self.waiting[stage][owner.run_id] = self.clock.now
            return
        lease = manager.acquire(stage, owner, seconds=seconds, is_over=lambda lease: lease.owner.run_id in self.over)
        held = self.held[stage]
        if held is not None and held[0].run_id == owner.run_id:
            assert lease.token == self.tokens[stage]
        else:
            assert lease.token > self.tokens[stage]
        self.tokens[stage] = lease.token
        self.held[stage] = (owner, self.clock.now + seconds)
        self.waiting[stage].pop(owner.run_id, None)
        self.over.discard(owner.run_id)

    @rule(stage=stages, owner=owners, number=st.integers(0, 1))
    def renew(self, stage: str, owner: Owner, number: int) -> None:
        held = self.held[stage]
        # A fresh manager: that one which saw a run lose a stage never lets it renew again is for the suite.
        del number
        manager = FileLockManager(Path(self.folder), clock=self.clock)
        if held is not None and held[0].run_id == owner.run_id:
            manager.renew(stage, owner, seconds=5)
            self.held[stage] = (held[0], self.clock.now + 5)
        else:
            with pytest.raises(StaleRunError):
                manager.renew(stage, owner, seconds=5)

    @rule(stage=stages, owner=owners, number=st.integers(0, 1))
    def release(self, stage: str, owner: Owner, number: int) -> None:
        held = self.held[stage]
        ours = held is not None and held[0].run_id == owner.run_id
        assert self.manager(number).release(stage, owner) is ours
        if ours:
            self.held[stage] = None

    @rule(owner=owners, number=st.integers(0, 1))
    def release_run(self, owner: Owner, number: int) -> None:
        mine = [stage for stage in STAGES if (held := self.held[stage]) and held[0].run_id == owner.run_id]
        assert self.manager(number).release_run(owner.run_id) == sorted(mine)
        for stage in STAGES:
            self.waiting[stage].pop(owner.run_id, None)
        for stage in mine:
            self.held[stage] = None

    @rule(stage=stages, owner=owners, number=st.integers(0, 1))
    def withdraw(self, stage: str, owner: Owner, number: int) -> None:
        self.manager(number).withdraw(stage, owner)
        self.waiting[stage].pop(owner.run_id, None)

    @rule(seconds=st.sampled_from([1.0, 4.0, 11.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(owner=owners)
    def run_ends(self, owner: Owner) -> None:
        self.over.add(owner.run_id)

    @invariant()
    def the_holder_is_as_in_the_model(self) -> None:
        fresh = FileLockManager(Path(self.folder), clock=self.clock)
        for stage in STAGES:
            lease, held = fresh.holder(stage), self.held[stage]
            assert (lease and (lease.owner, lease.expires)) == held
            for owner in LEASES + SESSIONS:
                state = fresh.state(stage, owner)
                if held is None:
                    assert state is LockState.UNLOCKED
                elif held[0] != owner:
                    assert state is LockState.INVALID
                else:
                    assert state is (LockState.UNCERTAIN if self.clock.now > held[1] else LockState.LOCKED)


TestLeaseRules = LeaseRules.TestCase
TestLeaseRules.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
