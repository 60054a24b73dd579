"""The bond graph: rings, parts, symmetry and stereocentres of small molecules, and of random graphs beside networkx."""

from __future__ import annotations

import itertools

import networkx
import numpy as np
import pytest

from molsampler.basis.graph import Graph

NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9, "Cl": 17}


def graph(symbols: list[str] | str, bonds: list[tuple[int, int]], names: dict[int, str] | None = None) -> Graph:
    own = [f"{symbol}{k}" for k, symbol in enumerate(symbols)]
    for k, name in (names or {}).items():
        own[k] = name
    return Graph.of([NUMBERS[s] for s in symbols], bonds, own, ["MOL1"] * len(symbols))


def cycle(n: int, first: int = 0) -> list[tuple[int, int]]:
    return [(first + k, first + (k + 1) % n) for k in range(n)]


def saturated(carbons: int, bonds: list[tuple[int, int]]) -> Graph:
    """A skeleton of carbons with hydrogens up to four neighbours each."""
    degree = np.bincount(np.array(bonds).ravel(), minlength=carbons)
    owners = np.repeat(np.arange(carbons), 4 - degree)
    hydrogens = [(int(owner), carbons + k) for k, owner in enumerate(owners)]
    return graph("C" * carbons + "H" * len(owners), [*bonds, *hydrogens])


def random_graphs() -> list[Graph]:
    rng = np.random.default_rng(0)
    found = []
    for n in range(1, 21):
        pairs = np.array(list(itertools.combinations(range(n), 2)), dtype=int).reshape(-1, 2)
        chosen = pairs[rng.random(len(pairs)) < 1.4 / n]
        numbers = rng.choice([1, 6, 7], n)
        found.append(Graph.of(numbers, map(tuple, chosen.tolist()), ["X"] * n, ["MOL1"] * n))
    return found


def as_networkx(found: Graph) -> networkx.Graph:
    known = networkx.Graph()
    known.add_nodes_from((i, {"number": number}) for i, number in enumerate(found.atomic_numbers))
    known.add_edges_from(found.bonds)
    return known


BENZENE = graph("CCCCCCHHHHHH", [*cycle(6), *((k, 6 + k) for k in range(6))])
CYCLOHEXANE = saturated(6, cycle(6))
NORBORNANE = saturated(7, [*cycle(6), (0, 6), (6, 3)])
BICYCLOOCTANE = saturated(8, [*cycle(6), (0, 6), (6, 7), (7, 3)])
DECALIN = saturated(10, [*cycle(6), (0, 6), (6, 7), (7, 8), (8, 9), (9, 1)])
SPIRO = saturated(11, [*cycle(6), (0, 6), (6, 7), (7, 8), (8, 9), (9, 10), (10, 0)])
BIPHENYL = graph("C" * 12, [*cycle(6), *cycle(6, 6), (0, 6)])


def test_bonds_are_sorted_pairs_whatever_their_order() -> None:
    found = Graph.of([1, 8, 1], [(2, 1), (1, 0), (0, 1)], ["H1", "O", "H2"], ["HOH4"] * 3)
    assert found.bonds == ((0, 1), (1, 2)) and found.neighbours == ((1,), (0, 2), (1,))
    assert found.labels == ("HOH4-H1", "HOH4-O", "HOH4-H2")


@pytest.mark.parametrize("found", random_graphs(), ids=lambda found: str(found.n_atoms))
def test_random_graphs_agree_with_networkx(found: Graph) -> None:
    known = as_networkx(found)
    assert [list(near) for near in found.neighbours] == [sorted(known[i]) for i in range(found.n_atoms)]
    assert found.parts == sorted(sorted(part) for part in networkx.connected_components(known))
    apart = dict(networkx.all_pairs_shortest_path_length(known))
    truth = [[apart[i].get(j, np.inf) for j in range(found.n_atoms)] for i in range(found.n_atoms)]
    assert (found.bonds_apart() == truth).all()
    for i, j in found.bonds:
        cut = known.copy()
        cut.remove_edge(i, j)
        assert ((i, j) in found.ring_bonds) == networkx.has_path(cut, i, j)
        if (i, j) not in found.ring_bonds:
            assert found.beyond(i, j) == sorted(networkx.node_connected_component(cut, j))
    independent = len(found.bonds) - found.n_atoms + len(found.parts)
    assert len(found.rings) == independent and sum(map(len, found.rings)) == sum(
        map(len, networkx.minimum_cycle_basis(known))
    )


@pytest.mark.parametrize("found", random_graphs()[:7], ids=lambda found: str(found.n_atoms))
def test_atoms_that_a_symmetry_exchanges_are_of_one_class(found: Graph) -> None:
    """Up to seven atoms the classes are the orbits of the automorphisms: nothing is too alike for refinement."""
    known = as_networkx(found)
    matcher = networkx.isomorphism.GraphMatcher(known, known, lambda a, b: a["number"] == b["number"])
    maps = list(matcher.isomorphisms_iter())
    orbits = {frozenset(each[i] for each in maps) for i in range(found.n_atoms)}
    classes = found.symmetry_classes
    assert orbits == {frozenset(i for i in range(found.n_atoms) if classes[i] == k) for k in set(classes)}


@pytest.mark.parametrize(
    ("found", "ring_bonds", "sizes", "flexible"),
    [
        (BENZENE, 6, [6], []),
        (CYCLOHEXANE, 6, [6], [6]),
        (NORBORNANE, 8, [5, 5], [5, 5]),
        (BICYCLOOCTANE, 9, [6, 6], [6, 6]),
        (DECALIN, 11, [6, 6], [6, 6]),
        (SPIRO, 12, [6, 6], [6, 6]),
        (BIPHENYL, 12, [6, 6], []),
        (saturated(4, [(0, 1), (1, 2), (2, 3)]), 0, [], []),
        (graph("CC", []), 0, [], []),
    ],
    ids=["benzene", "cyclohexane", "norbornane", "bicyclooctane", "decalin", "spiro", "biphenyl", "butane", "apart"],
)
def test_rings(found: Graph, ring_bonds: int, sizes: list[int], flexible: list[int]) -> None:
    assert len(found.ring_bonds) == ring_bonds
    assert sorted(map(len, found.rings)) == sizes
    assert [len(ring) for ring in found.flexible_rings] == flexible


def test_parts_begin_with_the_first_atom() -> None:
    assert graph("C" * 6, [(4, 1), (1, 0), (3, 5)]).parts == [[0, 1, 4], [2], [3, 5]]
    assert graph("CC", []).parts == [[0], [1]] and graph("", []).parts == []


def test_what_lies_beyond_a_bond() -> None:
    butane = saturated(4, [(0, 1), (1, 2), (2, 3)])
    assert len(butane.beyond(1, 2)) == 7 and set(butane.beyond(1, 2)) | set(butane.beyond(2, 1)) == set(range(14))
    assert BIPHENYL.beyond(0, 6) == [6, 7, 8, 9, 10, 11]


def test_symmetric_neighbours_are_of_one_class() -> None:
    assert len(set(BENZENE.symmetry_classes)) == 2
    assert len(set(NORBORNANE.symmetry_classes)) == 6  # bridgeheads, bridge, the four others, and hydrogens on each
    pentane = saturated(5, [(0, 1), (1, 2), (2, 3), (3, 4)])
    classes = pentane.symmetry_classes
    assert classes[0] == classes[4] != classes[1] == classes[3] != classes[2] and pentane.stereocentres == {}


def test_a_stereocentre_has_four_different_neighbours() -> None:
    methane = graph(["C", "H", "F", "Cl", "O"], [(0, 1), (0, 2), (0, 3), (0, 4)])
    assert methane.stereocentres == methane.tetrahedral == {0: (1, 2, 3, 4)}
    assert graph(["C", "H", "F", "Cl", "Cl"], [(0, 1), (0, 2), (0, 3), (0, 4)]).stereocentres == {}
    assert graph(["N", "H", "F", "Cl"], [(0, 1), (0, 2), (0, 3)]).stereocentres == {}


#                0    1    2    3    4    5    6    7    8    9
#                CH3  C    O    N    CA   C    CB   CG   CD   HA
PROLINE_BONDS = [(0, 1), (1, 2), (1, 3), (3, 4), (4, 5), (4, 6), (6, 7), (7, 8), (8, 3), (4, 9)]
PROLINE_NAMES = ["CH3", "C", "O", "N", "CA", "C", "CB", "CG", "CD", "HA"]


@pytest.mark.parametrize("order", [list(range(10)), [0, 1, 2, 3, 8, 7, 6, 4, 9, 5]], ids=["PDB", "Amber"])
def test_proline_in_any_order_of_its_atoms(order: list[int]) -> None:
    """Its omega ends in CA, though CD is as heavy and may come first; (N, C, CB, CA) tells its hand."""
    place = {atom: k for k, atom in enumerate(order)}
    symbols = [("C", "C", "O", "N", "C", "C", "C", "C", "C", "H")[atom] for atom in order]
    names = {k: PROLINE_NAMES[atom] for k, atom in enumerate(order)}
    found = graph(symbols, [(place[i], place[j]) for i, j in PROLINE_BONDS], names)
    (amide,) = found.amides
    assert [names[k] for k in amide] == ["CH3", "C", "N", "CA"] and found.isomeric_amides == found.amides
    ((centre, alpha),) = found.alphas.items()
    assert names[centre] == "CA" and [names[k] for k in alpha] == ["N", "C", "CB", "CA"]
    assert list(found.stereocentres) == [centre]
    assert graph(symbols, found.bonds, names | {centre: "CX"}).alphas == {}
    assert [len(ring) for ring in found.rings] == [5] and found.flexible_rings == found.rings


def test_an_amide_is_a_carbonyl_beside_a_nitrogen_and_isomeric_where_that_carries_more_than_hydrogens() -> None:
    formamide = [(0, 1), (1, 2), (1, 3), (3, 4), (3, 5)]
    assert graph("HCONHH", formamide).amides == ((0, 1, 3, 4),) and graph("HCONHH", formamide).isomeric_amides == ()
    assert graph("HCONHC", formamide).isomeric_amides == ((0, 1, 3, 5),)
    assert graph("HCOOHC", formamide).amides == ()  # an ester has no nitrogen
    assert graph("HCONHCH", [*formamide, (2, 6)]).amides == ()  # its oxygen carries a hydrogen
    urea = graph("NCONHHHH", [(0, 1), (1, 2), (1, 3), (0, 4), (0, 5), (3, 6), (3, 7)])
    assert urea.amides == ((3, 1, 0, 4), (0, 1, 3, 6))
