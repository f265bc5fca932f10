"""Random numbers go on where a run stopped, and are each process's own."""

import pytest
import torch

from etesian.training import randomness
from etesian.training.randomness import draw_apart, random_states, restore

CPU = torch.device("cpu")


def be(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    monkeypatch.setattr(randomness, "rank_and_world", lambda: (rank, world))


def drawn_by(monkeypatch: pytest.MonkeyPatch, rank: int, world: int, states: list[randomness.RandomStates]) -> float:
    be(monkeypatch, rank, world)
    restore(states, CPU)
    return float(torch.rand(()))


def test_each_process_goes_on_with_its_own_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    states, expected = [], []
    for rank in range(2):
        torch.manual_seed(7)
        be(monkeypatch, rank, 2)
        draw_apart()
        torch.rand(3)
        be(monkeypatch, 0, 1)
        states += random_states(CPU)
        expected.append(float(torch.rand(())))
    assert expected[0] != expected[1]
    torch.manual_seed(0)
    assert [drawn_by(monkeypatch, rank, 2, states) for rank in range(2)] == expected


def test_more_processes_than_before_share_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(7)
    before = random_states(CPU)
    first = float(torch.rand(()))
    drawn = [drawn_by(monkeypatch, rank, 3, before) for rank in range(3)]
    assert drawn[0] == first
    assert len(set(drawn)) == 3
    assert drawn == [drawn_by(monkeypatch, rank, 3, before) for rank in range(3)]
