"""What ranks add up, gather and exchange, on three real processes, against the same by hand; and one process alone."""

from __future__ import annotations

import os
import time

import pytest
import torch
from torch import nn

from molsampler.basis import ranks
from molsampler.basis.counter import EvaluationCounter
from molsampler.basis.log_weights import LogWeights, UnionLogWeights
from tests.ranked import on_ranks
from tests.stochastic import seeded

N = 3
COUNTS = [[2, 0, 1], [0, 0, 3], [1, 4, 0]]  # rows that each rank sends to each


def shards() -> list[torch.Tensor]:
    """Log-weights of three ranks: many, none, and some of weight zero."""
    log_w = 3.0 * torch.randn(50, generator=seeded(0), dtype=torch.float64)
    log_w[45:] = -torch.inf
    return [log_w[:30], log_w[:0], log_w[30:]]


def states(rank: int, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """n rows of three tensors that go together, of two precisions, whose numbers say whose and which they are."""
    number = 100.0 * rank + torch.arange(n)
    return number[:, None].expand(n, 2).clone(), number.double() / 3.0, number[:, None, None].expand(n, 1, 2).long()


def everything() -> dict:
    """Called by every rank."""
    r = ranks.rank()
    linear, unused = nn.Linear(2, 2), nn.Parameter(torch.zeros(3))
    linear.weight.grad, linear.bias.grad = torch.full((2, 2), float(r)), torch.tensor([1.0, float(r * r)])
    ranks.average_gradients([*linear.parameters(), unused])
    counter = EvaluationCounter()
    with counter.purpose("smc"):
        counter.add(10 + r, non_finite=r)
    weights = UnionLogWeights(shards()[r])
    zero = UnionLogWeights(torch.full((r,), -torch.inf))
    return {
        "who": (r, ranks.size(), ranks.first(), ranks.share(7), list(ranks.portion(7)), list(ranks.portion(2))),
        "mean": ranks.mean(torch.tensor([1.0 + r, 2.0 * r])),
        "total": (ranks.total(r + 1), ranks.total(0.5 * r)),
        "any": ranks.any_of(r == 1, False, r == 3),
        "stacked": ranks.stacked(torch.arange(6).view(2, 3)[:, r]),
        "gathered": ranks.gathered(states(r, (2, 0, 3)[r])[0]),
        "exchanged": ranks.exchanged(states(r, sum(COUNTS[r])), COUNTS[r]),
        "nothing": ranks.exchanged(states(r, 0), [0, 0, 0]),
        "counts": ranks.received_counts(COUNTS[r]),
        "first": ranks.from_first({"rank": r}),
        "objects": ranks.objects(f"rank {r}"),
        "collected": ranks.collected(r),
        "written": ranks.first_only(lambda: "written")(),
        "gradients": (linear.weight.grad, linear.bias.grad, unused.grad),
        "random": torch.rand(4, generator=ranks.generator(5)),
        "again": torch.rand(4, generator=ranks.generator(5, after=9)),
        "claims": ranks.claim("a word"),
        "counted": counter.over_ranks().state_dict(),
        "weights": (len(weights), weights.n_positive, weights.ess, weights.log_mean, weights.tempering_exponent(0.5)),
        "normalised": (weights.normalised, weights.shares, weights.power(0.3).own_normalised),
        "zero": (len(zero), zero.collapsed, zero.ess, zero.tempering_exponent(0.5)),
    }


@pytest.fixture(scope="module")
def found() -> dict[str, list]:
    """By what was asked, the answers of the three ranks."""
    answers = on_ranks(N, everything)
    return {name: [answer[name] for answer in answers] for name in answers[0]}


def test_every_rank_knows_its_part(found):
    ranks_, sizes, firsts, shares, portions, few = zip(*found["who"], strict=True)
    assert ranks_ == (0, 1, 2) and sizes == (3, 3, 3) and firsts == (True, False, False) and shares == (3, 3, 3)
    assert [k for own in portions for k in own] == list(range(7)) and sorted(map(len, portions)) == [2, 2, 3]
    assert few == ([0], [1], [])
    assert found["written"] == ["written", None, None] and sorted(found["claims"]) == [False, False, True]


def test_sums_means_and_flags(found):
    assert all(torch.equal(mean, torch.tensor([2.0, 2.0])) for mean in found["mean"])
    assert found["total"] == [(6, 1.5)] * 3 and found["any"] == [[True, False, False]] * 3
    for weight, bias, unused in found["gradients"]:
        assert torch.equal(weight, torch.ones(2, 2)) and unused is None
        torch.testing.assert_close(bias, torch.tensor([1.0, 5.0 / 3.0]))


def test_gathering(found):
    union = torch.cat([states(r, n)[0] for r, n in enumerate((2, 0, 3))])
    assert all(torch.equal(gathered, union) for gathered in found["gathered"])
    assert all(torch.equal(stacked, torch.arange(6).view(2, 3).T) for stacked in found["stacked"])
    assert found["first"] == [{"rank": 0}] * 3 and found["objects"] == [["rank 0", "rank 1", "rank 2"]] * 3
    assert found["collected"] == [[0, 1, 2], [], []]
    assert found["counted"] == [{"by_purpose": {"smc": 33}, "non_finite": 3, "guide": 0}] * 3


def test_rows_go_where_they_are_sent(found):
    """Every rank gets, from each in order, the rows meant for it, of every tensor the same ones, to the last bit."""
    for receiver in range(N):
        assert found["counts"][receiver] == [COUNTS[sender][receiver] for sender in range(N)]
        for part, got in enumerate(found["exchanged"][receiver]):
            sent = [states(s, sum(COUNTS[s]))[part].split(COUNTS[s])[receiver] for s in range(N)]
            assert torch.equal(got, torch.cat(sent)) and got.dtype == sent[0].dtype
        assert [tuple(part.shape) for part in found["nothing"][receiver]] == [(0, 2), (0,), (0, 1, 2)]


def test_a_generator_a_rank_from_the_one_seed(found):
    """The first rank's is that of a process alone; the others' are their own, as are those of ranks that join later."""
    assert torch.equal(found["random"][0], torch.rand(4, generator=seeded(5)))
    drawn = [tuple(x.tolist()) for x in (*found["random"], *found["again"])]
    assert len(set(drawn)) == 2 * N


def test_the_union_of_weights_is_weighed_as_one(found):
    """One rank has no weights, another some that are zero: all get what one process gets on the union."""
    union = LogWeights(torch.cat(shards()))
    expected = (50, 45, union.ess, union.log_mean, union.tempering_exponent(0.5))
    for got in found["weights"]:
        assert got[:2] == expected[:2] and got[2:] == pytest.approx(expected[2:], rel=1e-12)
        assert got == found["weights"][0]
    assert 0.0 < expected[-1] < 1.0
    own, shares, within = zip(*found["normalised"], strict=True)
    torch.testing.assert_close(torch.cat(own), union.normalised, rtol=1e-12, atol=0.0)
    for k, weights in enumerate(own):
        assert float(shares[0][k]) == pytest.approx(float(weights.sum())) and torch.equal(shares[0], shares[k])
    assert [float(w.sum()) for w in within] == pytest.approx([1.0, 0.0, 1.0])
    assert found["zero"] == [(3, True, 0.0, 0.0)] * 3


def test_one_process_alone_gets_back_what_it_gave():
    """The very objects, to the last bit, and no random number is spent."""
    x = torch.randn(3, 2, generator=seeded(0))
    assert ranks.mean(x) is x and ranks.gathered(x) is x and ranks.exchanged((x,), [3])[0] is x
    assert torch.equal(ranks.stacked(x)[0], x) and ranks.from_first(x) is x and ranks.objects(x)[0] is x
    assert (ranks.rank(), ranks.size(), ranks.share(7), list(ranks.portion(3))) == (0, 1, 7, [0, 1, 2])
    assert ranks.total(3) == 3 and ranks.any_of(True, False) == [True, False] and ranks.claim("x")
    log_w = 3.0 * torch.randn(100, generator=seeded(1), dtype=torch.float64)
    one, union = LogWeights(log_w), UnionLogWeights(log_w)
    assert torch.equal(one.normalised, union.normalised) and (one.ess, one.log_mean) == (union.ess, union.log_mean)
    assert one.tempering_exponent(0.6) == union.tempering_exponent(0.6) and union.shares.tolist() == [1.0]


def left_alone() -> None:
    """The last rank goes without a word; the other waits for it in vain, for less than five seconds."""
    ranks.total(1)
    if ranks.rank() == ranks.size() - 1:
        time.sleep(0.5)
        os._exit(0)
    begun = time.monotonic()
    with pytest.raises(ranks.Lost, match="another process of this run is gone"):
        ranks.mean(torch.ones(1000))
    assert time.monotonic() - begun < 5.0


def test_the_state_of_another_devices_generator_is_not_taken():
    """A GPU's is 16 bytes long: the CPU's goes on with numbers that are neither its own nor those of the beginning."""
    own, again = ranks.generator(5), torch.Generator()
    torch.rand(3, generator=own)
    ranks.restore(again, own.get_state(), 5, after=3)
    assert torch.equal(again.get_state(), own.get_state())
    ranks.restore(again, torch.zeros(16, dtype=torch.uint8), 5, after=3)
    assert torch.equal(again.get_state(), ranks.generator(5, after=3).get_state())
    assert not torch.equal(again.get_state(), ranks.generator(5).get_state())


def test_a_rank_that_is_gone_is_noticed():
    with pytest.raises(FileNotFoundError, match="1.pt"):  # all ended well, but the last one left nothing
        on_ranks(2, left_alone)
