"""First guesses of gappy fields."""

import torch
from torch import nn

from etesian.nn.smoothing import DailyRefinement, Guess, SuccessiveCorrections


def test_each_pass_adds_the_smoothed_difference_of_the_observations_from_the_guess() -> None:
    torch.manual_seed(0)
    values, valid = torch.randn(1, 4, 1, 5, 6), torch.rand(1, 4, 1, 5, 6) < 0.4
    analysis = SuccessiveCorrections([(1.3, 2.0, 0.3), (0.7, 1.0, 0.1)])
    days = [0.0, 1.0, 2.5, 6.0]
    for periodic in (False, True):
        guess = torch.zeros(4, 5, 6)
        for space, time, prior in ((1.3, 2.0, 0.3), (0.7, 1.0, 0.1)):
            correction = torch.zeros(4, 5, 6)
            for t, i, j in torch.ones(4, 5, 6).nonzero().tolist():
                total = count = 0.0
                for s, k, m in valid[0, :, 0].nonzero().tolist():
                    east = min(abs(m - j), 6 - abs(m - j)) if periodic else abs(m - j)
                    distance = ((k - i) ** 2 + east**2) / (2 * space**2) + (days[s] - days[t]) ** 2 / (2 * time**2)
                    weight = float(torch.exp(torch.tensor(-distance)))
                    total += weight * float(values[0, s, 0, k, m] - guess[s, k, m])
                    count += weight
                correction[t, i, j] = total / (count + prior)
            guess = guess + correction
        found = analysis(values.masked_fill(~valid, 0), valid, torch.tensor([days]), periodic=periodic)
        torch.testing.assert_close(found.values[0, :, 0], guess, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.known[:, :, 0:1], found.values)


def test_iterations_draw_the_guess_to_what_is_observed_everywhere() -> None:
    torch.manual_seed(0)
    values = torch.randn(1, 1, 1, 8, 8)
    seen = torch.ones_like(values, dtype=torch.bool)
    errors = []
    for passes in (1, 4, 16):
        analysis = SuccessiveCorrections([(0.6, 1.0, 0.2)] * passes)
        errors.append(
            float((analysis(values, seen, torch.zeros(1, 1), periodic=False).values - values).square().mean())
        )
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_a_refinement_adds_nothing_at_first_and_goes_round_the_globe_without_a_seam() -> None:
    torch.manual_seed(0)
    refine = DailyRefinement(1, 3, 4)
    values, known, valid = torch.randn(2, 5, 1, 7, 12), torch.randn(2, 5, 3, 7, 12), torch.rand(2, 5, 1, 7, 12) < 0.5
    guess = Guess(known[:, :, :1], known)
    assert torch.equal(refine(guess, values, valid, periodic=True), torch.zeros_like(values))
    nn.init.normal_(refine.leave.weight)
    answer = refine(guess, values, valid, periodic=True)
    turned = Guess(*(x.roll(4, -1) for x in guess))
    moved = refine(turned, values.roll(4, -1), valid.roll(4, -1), periodic=True)
    assert answer.std() > 1e-3
    torch.testing.assert_close(moved, answer.roll(4, -1))
    assert not torch.allclose(refine(guess, values, valid, periodic=False)[..., 0], answer[..., 0])


def test_times_without_observation_enter_a_refinement_as_if_there_were_none() -> None:
    torch.manual_seed(0)
    refine = DailyRefinement(1, 3, 4)
    nn.init.normal_(refine.leave.weight)
    values, known, valid = torch.randn(1, 5, 1, 8, 8), torch.randn(1, 5, 3, 8, 8), torch.rand(1, 5, 1, 8, 8) < 0.5
    valid[:, 3:] = False
    whole = refine(Guess(known[:, :, :1], known), values, valid, periodic=False)[:, :3]
    cut = [x[:, :3] for x in (known, values, valid)]
    torch.testing.assert_close(refine(Guess(cut[0][:, :, :1], cut[0]), *cut[1:], periodic=False), whole)
