"""Systems that are a network on histories: how they are fitted and restored."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import torch
from pydantic import Field

from jobs.collab.baselines.kept import N_EPOCHS, expect
from jobs.collab.baselines.network_learner import LearnerConfig, NetworkLearner, own_randomness
from jobs.collab.baselines.networks import SIZES, Biased, FittedNetwork, Network
from jobs.collab.baselines.training import Schedule, check, train
from jobs.collab.systems import Evidence, System, Tensors
from jobs.llm.backbone import chosen_device
from jobs.tokens.threads import torch_threads


class NetworkSystem(LearnerConfig, Schedule, System):
    """A system that is a network on histories."""

    n_positives: int = Field(default=25, gt=0, description="last visible positives that are read")
    biases: Biased = Field(default="none", description="added to the logit, beside a global one")
    max_epochs: int = Field(default=30, gt=0, description="passes over the train rows at most")
    patience: int = Field(
        default=5, gt=0, description="epochs without a better valid AUC before the end"
    )
    epochs_without_valid: int = Field(default=10, gt=0, description="epochs when valid has no AUC")
    n_threads: int = Field(default=1, gt=0, description="torch threads; the last bits depend on it")
    device: str = Field(default="auto", description="auto (CUDA if there is one), cpu, cuda")

    @abstractmethod
    def network(self, n_users: int, n_items: int) -> Network:
        """The network for so many ids; its weights are not set."""

    def fit(self, evidence: Evidence, seed: int, n_epochs: int | None = None) -> FittedNetwork:
        """See `System.fit`."""
        check(evidence)
        catalogue, device = evidence.catalogue, chosen_device(self.device)
        with torch_threads(self.n_threads), own_randomness(seed, device):
            network = self.network(catalogue.n_users, catalogue.n_items)
            fitted = FittedNetwork(network, self.n_positives, device, 0)
            learner = NetworkLearner(fitted, evidence, self, seed)
            course = train(learner, evidence.valid.labels, self, n_epochs)
        return replace(fitted, n_epochs=course.n_epochs)

    def restore(self, tensors: Tensors) -> FittedNetwork:
        """See `System.restore`."""
        expect({name: tensors[name] for name in (SIZES, N_EPOCHS) if name in tensors}, _BESIDE)
        n_users, n_items = tensors[SIZES].tolist()
        device = chosen_device(self.device)
        with torch.device("meta"):  # shapes alone; the weights are those of `tensors`
            network = self.network(n_users, n_items)
        shapes = {name: tuple(each.shape) for name, each in network.state_dict().items()}
        expect(tensors, shapes | _BESIDE)
        weights = {name: torch.tensor(tensors[name], device=device) for name in shapes}
        network.load_state_dict(weights, assign=True)
        n_epochs = int(tensors[N_EPOCHS][0])
        return FittedNetwork(network, self.n_positives, device, n_epochs)


_BESIDE = {SIZES: (2,), N_EPOCHS: (1,)}
