"""Rows of a (..., N, B) tensor picked by atom index, with a gradient that is a sum over a fixed table.

PyTorch's own gradient of an indexing is an atomic scatter: slow on a CPU, and with several threads its order is not
determined. Which interactions an atom takes part in never changes, so the gradient can gather them instead.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, index: Tensor, table: Tensor, mask: Tensor) -> Tensor:
        return x.index_select(-2, index)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, _, table, mask = inputs
        ctx.save_for_backward(table, mask)

    @staticmethod
    def backward(ctx, grad: Tensor):
        table, mask = ctx.saved_tensors
        picked = grad.index_select(-2, table.reshape(-1))
        picked = picked.reshape(*grad.shape[:-2], *table.shape, grad.shape[-1])  # (..., N, S, B)
        return (picked * mask).sum(-2), None, None, None


class AtomTuples(nn.Module):
    """The positions of M tuples of k atoms.

    tuples : M tuples of k atom indices; n_atoms : N
    forward: x (3, N, B) -> (3, k, M, B)
    """

    def __init__(self, tuples: list[tuple[int, ...]], n_atoms: int) -> None:
        super().__init__()
        index = torch.tensor(tuples, dtype=torch.long).T.contiguous()  # (k, M)
        self.shape = tuple(index.shape)
        slots: list[list[int]] = [[] for _ in range(n_atoms)]
        for row, atom in enumerate(index.reshape(-1).tolist()):
            slots[atom].append(row)
        width = max(map(len, slots))
        self.register_buffer("index", index.reshape(-1))
        self.register_buffer("table", torch.tensor([s + [0] * (width - len(s)) for s in slots], dtype=torch.long))
        mask = torch.tensor([[1.0] * len(s) + [0.0] * (width - len(s)) for s in slots], dtype=torch.float64)
        self.register_buffer("mask", mask[..., None])  # (N, S, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = _GatherRows.apply(x, self.index, self.table, self.mask)
        return rows.reshape(x.shape[0], *self.shape, x.shape[-1])
