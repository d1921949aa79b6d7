"""The same fit on the CPU and on a GPU."""

import numpy as np
import pytest
import torch

from jobs.collab.align import align
from tests.collab.planted import QUICK, histories_of, profiles_of, world


@pytest.mark.gpu
@pytest.mark.parametrize("negatives", ["batch", "catalogue", "sampled"])
def test_cpu_and_gpu_give_the_same_factors_within_tolerance(negatives):
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    planted = world()
    train, valid = planted.events(2_000, 0), planted.events(400, 1)
    made = {}
    for device in ("cpu", "cuda"):
        config = QUICK.model_copy(
            update={
                "max_epochs": 3,
                "patience": 3,
                "user_alignment_weight": 0.5,
                "cold_users": "profile",
                "semantics": "trainable",
                "negatives": negatives,
                "device": device,
            }
        )
        made[device] = align(
            train,
            valid,
            60,
            planted.embeddings,
            np.arange(120),
            config,
            profiles=profiles_of(planted, train),
            history=histories_of(planted, train, valid),
        )
    cpu, gpu = made["cpu"], made["cuda"]
    # Adam divides by the size of a gradient: where it is nearly zero, rounding decides its sign.
    for name in ("user_factors", "user_biases", "item_factors", "item_biases"):
        near = np.isclose(getattr(cpu.factors, name), getattr(gpu.factors, name), atol=2e-3)
        assert near.mean() > 0.99, name
    assert cpu.best.valid_auc == pytest.approx(gpu.best.valid_auc, abs=0.005)
    assert cpu.history_map == pytest.approx(gpu.history_map, abs=5e-3)
