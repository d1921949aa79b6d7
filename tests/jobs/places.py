"""Places files that the tests of where a job runs share."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

DOCKER = """
[places.gpu-box]
kind = "docker"
image = "tidemark-gpu:0.1.0"
gpus = 1
cpus = 8
memory_gib = 32
user = "10001:10001"
mounts = { TIDEMARK_MODELS = "ro" }
environment = ["HF_TOKEN"]

[jobs]
gpu = "gpu-box"
"""
KUBERNETES = """
[places.cluster]
kind = "kubernetes"
image = "registry.example.org/tidemark-gpu:0.1.0"
namespace = "tidemark"
gpus = 1
cpus = 8
memory_gib = 48
claims = { TIDEMARK_HOME = "tidemark-home", TIDEMARK_MODELS = "models:ro" }
secrets = { HF_TOKEN = "huggingface/token" }
environment = ["WANDB_MODE"]
node_selector = { "nvidia.com/gpu.product" = "NVIDIA-A100-SXM4-80GB" }
tolerations = [{ key = "nvidia.com/gpu", operator = "Exists", effect = "NoSchedule" }]
service_account = "tidemark-jobs"
image_pull_secrets = ["registry"]
priority_class = "nightly"

[jobs]
gpu = "cluster"
"""


class UsePlaces(Protocol):
    """Makes a text the places file of this test."""

    def __call__(self, text: str) -> Path: ...
