"""The molecule's OpenMM System as batched torch kernels: energies and forces of thousands of conformations a call."""

from __future__ import annotations

from collections.abc import Callable

import openmm
import torch
from torch import Tensor, nn

from molsampler.basis.compilation import CompiledOrEager
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.energy.forces.registry import translate_force
from molsampler.molecules.energy.forces.term import PairDistances, UnsupportedForce
from molsampler.molecules.energy.torch_check import check_against_openmm, energy_and_gradient
from molsampler.molecules.molecule import Molecule

__all__ = ["Potential", "TorchEnergy", "UnsupportedForce"]

SMALLEST_PIECE = 64


class Potential(nn.Module):
    """Sum of the translated forces of a System, a pure function of positions, for use inside any compiled graph.

    terms, force_indices : the translated forces and their places in the System
    forward: positions (3, N, B) nm, the batch last -> energies (B,) kJ/mol; differentiable, the same for all data
    """

    def __init__(self, system: openmm.System) -> None:
        super().__init__()
        n_atoms = system.getNumParticles()
        translated = [translate_force(force, n_atoms) for force in system.getForces()]
        self.terms = nn.ModuleList([term for term in translated if term is not None])
        self.force_indices = [k for k, term in enumerate(translated) if term is not None]
        self.pairwise = any(term.pairwise for term in self.terms)

    def forward(self, positions: Tensor) -> Tensor:
        pairs = PairDistances.of(positions) if self.pairwise else None
        total = positions.new_zeros(positions.shape[-1])
        for term in self.terms:
            total = total + term(positions, pairs)
        return total

    def energy_and_gradient(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(3, N, B) nm -> energies (B,) kJ/mol and dU/dx (3, N, B) kJ/mol/nm, without a graph."""

        return energy_and_gradient(self, positions)


class TorchEnergy(Energy):
    """`Energy` of a molecule by `Potential`, on any torch device, compiled if asked for and possible.

    potential : the module, in `dtype` on `device`, for those who differentiate through it in a graph of their own
    dtype : precision of the arithmetic; results come back in the dtype and on the device of the positions
    compile : fuse energy and forces by torch.compile. Batches are cut into pieces of `piece` conformations and the
        rest into pieces of `small_piece`, the last one padded, so that no other size is compiled. On a CPU the two are
        one: a padded piece takes a millisecond, to compile another size half a minute. Without a C++ compiler it runs
        eager, and `say` is told so once.

    Raises UnsupportedForce where a force is not covered or does not agree with OpenMM's Reference platform.
    """

    def __init__(
        self,
        molecule: Molecule,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        compile: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        super().__init__(molecule.n_atoms)
        self.dtype, self.device = dtype, torch.device(device)
        potential = Potential(molecule.system)
        check_against_openmm(potential, molecule)
        self.potential = potential.to(self.device, dtype)
        self.piece = best_piece(molecule.n_atoms, self.device)
        self.small_piece = self.piece if self.device.type == "cpu" else SMALLEST_PIECE
        self.compiled = compile
        kernel = self.potential.energy_and_gradient
        self._kernel = CompiledOrEager(kernel, say) if compile else kernel

    def _evaluate(self, positions: Tensor, forces: bool) -> tuple[Tensor, Tensor | None]:
        # One function serves both: without forces it would be cheaper, but need half a minute of compilation more.
        energies = positions.new_empty(len(positions))
        all_forces = torch.empty_like(positions, memory_format=torch.contiguous_format) if forces else None
        start = 0
        while start < len(positions):
            size = self._next_piece(len(positions) - start)
            piece = slice(start, min(start + size, len(positions)))
            # Transposed piece by piece, while it is in the cache.
            energy, gradient = self._padded(positions[piece].to(self.device, self.dtype).permute(2, 1, 0), size)
            energies[piece] = energy
            if all_forces is not None:
                all_forces[piece] = -gradient.permute(2, 1, 0)
            start += size
        return energies, all_forces

    def piece_energy_and_gradient(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions (3, N, B) nm -> energies (B,) kJ/mol and dU/dx (3, N, B), in their dtype and on their device, by
        the kernel alone: nothing is booked or padded; another B than `piece` and `small_piece` compiles once more."""
        energy, gradient = self._kernel(positions.to(self.device, self.dtype).contiguous())
        return energy.to(positions.device, positions.dtype), gradient.to(positions.device, positions.dtype)

    def _next_piece(self, left: int) -> int:
        """A full piece where at least half of it is needed, else a small one."""
        if not self.compiled:
            return min(left, self.piece)
        return self.piece if 2 * left > self.piece else self.small_piece

    def _padded(self, x: Tensor, size: int) -> tuple[Tensor, Tensor]:
        n = x.shape[-1]
        if n < size:
            x = torch.cat((x, x[..., -1:].expand(-1, -1, size - n)), dim=-1)
        energy, gradient = self._kernel(x.contiguous())
        return energy[:n], gradient[..., :n]


def best_piece(n_atoms: int, device: torch.device) -> int:
    """Conformations a kernel is best given at a time: a power of two from 64 to 8192.

    On a CPU the distance tables of a piece should stay in each core's second-level cache (alanine dipeptide: 256 a
    core, almost twice as fast as 2048); on a GPU they only have to fit into memory.
    """
    entries = 2**17 * torch.get_num_threads() if device.type == "cpu" else 2**26
    fits = max(SMALLEST_PIECE, entries // n_atoms**2)
    return min(8192, 1 << (fits.bit_length() - 1))
