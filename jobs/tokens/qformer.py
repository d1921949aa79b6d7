"""A few learned queries that ask the vector of a user or an item (methods.md 7.4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class QFormer(nn.Module):
    """Layers of self-attention, cross-attention and FFN over the queries, then one Linear."""

    def __init__(
        self,
        d_in: int,
        n_tokens: int,
        d_llm: int,
        *,
        d_query: int,
        n_layers: int,
        n_heads: int,
        n_chunks: int,
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(n_tokens, d_query))
        self.whole = nn.Linear(d_in, d_query)
        # A map of its own for each chunk: attention alone could not tell one from another.
        self.chunks = _ChunkMaps(n_chunks, math.ceil(d_in / n_chunks), d_query)
        self.layers = nn.ModuleList(_Layer(d_query, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_query)
        self.output = nn.Linear(d_query, d_llm)

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, d_in) -> (n, n_tokens, d_llm)."""
        memory = torch.cat([self.whole(inputs)[:, None], self.chunks(inputs)], dim=1)
        state = self.queries.expand(len(inputs), -1, -1)
        for layer in self.layers:
            state = layer(state, memory)
        return self.output(self.norm(state))


class _ChunkMaps(nn.Module):
    """Each chunk of the input through a Linear of its own; the last chunk is filled with zeros."""

    def __init__(self, n_chunks: int, width: int, d_query: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_chunks, d_query, width) / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(n_chunks, d_query))

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, d_in) -> (n, n_chunks, d_query)."""
        n_chunks, _, width = self.weight.shape
        filled = functional.pad(inputs, (0, n_chunks * width - inputs.shape[1]))
        return torch.einsum("ncw,cqw->ncq", filled.view(-1, n_chunks, width), self.weight) + (
            self.bias
        )


class _Layer(nn.Module):
    """Self-attention, cross-attention and a GELU FFN, each on the normalised state and added."""

    def __init__(self, d_query: int, n_heads: int) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(d_query)
        self.self_attention = _Attention(d_query, n_heads)
        self.cross_norm = nn.LayerNorm(d_query)
        self.memory_norm = nn.LayerNorm(d_query)
        self.cross_attention = _Attention(d_query, n_heads)
        self.ffn_norm = nn.LayerNorm(d_query)
        self.up = nn.Linear(d_query, 4 * d_query)
        self.down = nn.Linear(4 * d_query, d_query)

    def forward(self, state: Tensor, memory: Tensor) -> Tensor:
        """(n, n_tokens, d_query), asking memory (n, n_chunks + 1, d_query)."""
        normed = self.self_norm(state)
        state = state + self.self_attention(normed, normed)
        state = state + self.cross_attention(self.cross_norm(state), self.memory_norm(memory))
        return state + self.down(functional.gelu(self.up(self.ffn_norm(state))))


class _Attention(nn.Module):
    """Multi-head attention, written out: a few keys a row, and the same bits on every backend."""

    def __init__(self, d_query: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(d_query, d_query)
        self.key = nn.Linear(d_query, d_query)
        self.value = nn.Linear(d_query, d_query)
        self.out = nn.Linear(d_query, d_query)

    def forward(self, state: Tensor, memory: Tensor) -> Tensor:
        """(n, n_queries, d_query) of values of memory (n, n_keys, d_query)."""
        query, key, value = (
            part.view(*part.shape[:2], self.n_heads, -1).transpose(1, 2)
            for part in (self.query(state), self.key(memory), self.value(memory))
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
        return self.out((scores.softmax(dim=3) @ value).transpose(1, 2).flatten(2))
