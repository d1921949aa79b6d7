"""Trees of tokens: which tokens are read once, and that every text finds its own path."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jobs.llm.token_tree import TokenTree, n_nodes, token_trees

TEXTS = st.sets(
    st.lists(st.integers(0, 3), min_size=1, max_size=9).map(tuple), min_size=1, max_size=40
).map(sorted)


def paths(tree: TokenTree) -> dict[int, list[int]]:
    """The nodes of each text."""
    found = {}
    for group in tree.groups:
        for row, nodes, length in zip(group.rows, group.nodes, group.lengths, strict=True):
            found[int(tree.rows[row])] = nodes[:length].tolist()
    return found


def test_a_beginning_in_common_is_one_path() -> None:
    (tree,) = token_trees([(1, 2), (1, 2, 3), (1, 4), (5,)], 100)
    assert tree.tokens.tolist() == [1, 2, 3, 4, 5]
    assert tree.depths.tolist() == [0, 1, 2, 1, 0]
    assert paths(tree) == {0: [0, 1], 1: [0, 1, 2], 2: [0, 3], 3: [4]}


def test_a_tree_ends_where_the_budget_ends_and_the_next_reads_its_beginning_again() -> None:
    trees = list(token_trees([(1, 2, 3), (1, 2, 4), (1, 2, 5), (7,) * 9], 4))
    assert [tree.rows.tolist() for tree in trees] == [[0, 1], [2], [3]]
    assert [len(tree.tokens) for tree in trees] == [4, 3, 9]
    assert n_nodes([(1, 2, 3), (1, 2, 4), (1, 2, 5), (7,) * 9], 4) == 16


def test_nothing_makes_no_tree() -> None:
    assert list(token_trees([], 4)) == []


@given(TEXTS, st.integers(1, 60))
def test_every_text_is_spelled_by_its_path_and_no_prefix_is_there_twice(
    texts: list[tuple[int, ...]], budget: int
) -> None:
    seen: list[int] = []
    for tree in token_trees(texts, budget):
        seen += tree.rows.tolist()
        assert len(tree.tokens) <= budget or len(tree.rows) == 1
        spelled = {row: tuple(tree.tokens[nodes].tolist()) for row, nodes in paths(tree).items()}
        assert spelled == {row: texts[row] for row in tree.rows.tolist()}
        for nodes in paths(tree).values():
            assert tree.depths[nodes].tolist() == list(range(len(nodes)))
        prefixes = {text[:n] for text in spelled.values() for n in range(1, len(text) + 1)}
        assert len(tree.tokens) == len(prefixes)
        flat = np.concatenate([group.nodes.reshape(-1) for group in tree.groups])
        assert flat[tree.found_at].tolist() == list(range(len(tree.tokens)))
    assert seen == list(range(len(texts)))
