import pytest
import torch

from jobs.collab.row_adam import DenseAdam, RowAdam


def test_a_table_whose_rows_all_move_follows_adam():
    first = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    by_rows = RowAdam(first.clone(), 0.01)
    weights = first.clone().requires_grad_()
    reference = torch.optim.Adam([weights], lr=0.01)
    for step in range(20):
        gradient = torch.randn(5, 3, generator=torch.Generator().manual_seed(step + 1))
        by_rows.step(torch.arange(5), gradient)
        weights.grad = gradient
        reference.step()
    torch.testing.assert_close(by_rows.weights, weights.detach(), rtol=1e-5, atol=1e-6)


def test_a_row_outside_the_batch_does_not_move_at_all():
    table = RowAdam(torch.ones(3, 2), 0.1)
    table.step(torch.tensor([0]), torch.ones(1, 2))
    assert table.weights[1:].eq(1).all()
    assert table.weights[0].tolist() == pytest.approx([0.9, 0.9])


def test_a_row_that_occurs_late_moves_by_one_learning_rate_first():
    table = RowAdam(torch.zeros(2, 1), 0.1)
    for _ in range(500):
        table.step(torch.tensor([0]), torch.ones(1, 1))
    table.step(torch.tensor([1]), torch.full((1, 1), 7.0))
    assert table.weights[1].item() == pytest.approx(-0.1, rel=1e-4)


def test_the_dense_form_drags_a_row_that_never_occurs_to_zero():
    table = DenseAdam(torch.ones(2, 1), 0.01, weight_decay=1e-4)
    for _ in range(200):
        table.step(torch.tensor([0]), torch.zeros(1, 1))
    assert abs(table.weights[1].item()) < 0.1
