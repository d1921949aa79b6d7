import numpy as np
import pytest
import torch

from jobs.collab.baselines.lightgcn import LightGcn, normalised_graph, propagated
from jobs.report.metrics import auc
from tests.collab.baselines.planted_bench import bench

# Two users, three items; user 0 likes items 0 and 1, user 1 likes item 1; nobody likes item 2.
USERS, ITEMS = np.array([0, 0, 1]), np.array([0, 1, 1])


def graph() -> torch.Tensor:
    return normalised_graph(USERS, ITEMS, n_users=2, n_items=3)


def test_an_edge_weighs_one_over_the_root_of_both_degrees():
    half, root = 0.5, 1 / np.sqrt(2)
    expected = torch.zeros(5, 5)
    expected[0, 2], expected[0, 3], expected[1, 3] = root, half, root
    torch.testing.assert_close(graph().to_dense(), expected + expected.T)


def test_a_pair_that_occurs_twice_is_one_edge():
    doubled = normalised_graph(np.append(USERS, 0), np.append(ITEMS, 1), 2, 3)
    torch.testing.assert_close(doubled.to_dense(), graph().to_dense())


def test_layers_are_averaged_the_first_one_among_them():
    weights = torch.arange(10, dtype=torch.float32).reshape(5, 2)
    dense = graph().to_dense()
    by_hand = (weights + dense @ weights + dense @ dense @ weights) / 3
    torch.testing.assert_close(propagated(graph(), weights, 2), by_hand)
    torch.testing.assert_close(propagated(graph(), weights, 0), weights)


def test_a_node_without_edges_keeps_its_row_over_the_number_of_layers():
    weights = torch.ones(5, 1)
    assert propagated(graph(), weights, 2)[4].item() == pytest.approx(1 / 3)


def test_the_gradient_of_the_table_is_the_propagated_gradient():
    weights = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    wanted = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    (propagated(graph(), weights, 2) * wanted).sum().backward()
    torch.testing.assert_close(weights.grad, propagated(graph(), wanted, 2))


def test_strangers_and_new_items_score_zero_and_with_biases_the_global_bias():
    given = bench(n_train=300, n_later=50)
    evidence = given.evidence
    train = evidence.train.requests
    strange = ~np.isin(given.test.requests.users, train.users)
    new = ~np.isin(given.test.requests.items, train.items)
    for biases in (False, True):
        system = LightGcn(n_factors=4, biases=biases)
        logits = system.fit(evidence, seed=0, n_epochs=2).score(
            given.test.requests, evidence.histories
        )
        assert len(np.unique(logits[strange & new])) == 1
        assert (logits[strange & new] == 0).all() == (not biases)
        assert (logits[strange] == 0).all() == (not biases)


def test_negatives_are_no_edges_but_do_count_in_the_loss():
    given = bench(n_train=400, n_later=50)
    labels = given.evidence.train.labels
    found = LightGcn(n_factors=8).fit(given.evidence, seed=0, n_epochs=30)
    of_train = found.score(given.evidence.train.requests, given.evidence.histories)
    assert auc(labels, of_train) > 0.9
    assert of_train[labels == 0].mean() < 0 < of_train[labels == 1].mean()
