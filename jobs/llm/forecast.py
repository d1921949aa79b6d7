"""How many items a night would embed, and how many tokens that is: no weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.home import Home
from jobs.llm.backbone import BackboneFiles, chosen_device, chosen_dtype, hidden_size, resolve
from jobs.llm.carry_over import known_keys
from jobs.llm.distil import DistilConfig, adapter_files, content_key
from jobs.llm.embedding import tokenize

_NAMED = 5


@dataclass(frozen=True)
class EmbeddingForecast:
    """What `distil` would find to do.

    Attributes:
        n_items: of the catalogue.
        n_new: items to embed that the version before does not hold.
        n_changed: items to embed that it holds with another text or under another model.
        n_tokens: of all items to embed.
        named: some of the items to embed, each with its text.
    """

    n_items: int
    n_new: int
    n_changed: int
    n_tokens: int
    named: tuple[tuple[Any, str], ...]

    @property
    def n_to_embed(self) -> int:
        """New and changed."""
        return self.n_new + self.n_changed


def forecast(
    config: DistilConfig,
    home: Home,
    item_ids: Sequence[Any],
    texts: Sequence[str],
    *,
    has_new_adapter: bool,
    standing: Mapping[Any, str],
) -> EmbeddingForecast:
    """Compare the texts with the version before by the content key that `distil` itself uses.

    Args:
        config: of `distil`.
        home: holds the store and the backbone's files.
        item_ids: of the catalogue.
        texts: of each item.
        has_new_adapter: whether the adapter is yet to be trained, so that nothing is carried over.
        standing: content keys of what the night has embedded before; with the same texts it stands.

    Raises:
        NotAvailable: the version before is damaged.
        BackboneError: the backbone is not there.
    """
    files = resolve(config.model, home.cache)
    dtype = str(chosen_dtype(config.dtype, chosen_device(config.device))).removeprefix("torch.")
    space = {"fingerprint": files.fingerprint, "dtype": dtype, "dim": hidden_size(files)}
    held = known_keys(home, space, config.previous_version)
    if has_new_adapter:
        wanted = list(range(len(texts)))
    else:
        adapter = adapter_files(config, home)
        by = adapter.fingerprint if adapter else None
        known = set(held.values())
        keys = [content_key(text, files.fingerprint, config, dtype, by) for text in texts]
        stands = dict(zip(item_ids, keys, strict=True)) == standing
        wanted = [] if stands else [row for row, key in enumerate(keys) if key not in known]
    some = [texts[row] for row in wanted]
    n_changed = sum(item_ids[row] in held for row in wanted)
    return EmbeddingForecast(
        n_items=len(texts),
        n_new=len(wanted) - n_changed,
        n_changed=n_changed,
        n_tokens=_n_tokens(files, some, config.max_tokens),
        named=tuple((item_ids[row], texts[row]) for row in wanted[:_NAMED]),
    )


def _n_tokens(files: BackboneFiles, texts: list[str], max_tokens: int) -> int:
    if not texts:
        return 0
    from transformers import AutoTokenizer  # seconds that a night without new items need not pay

    from jobs.llm.quiet import quiet_transformers

    with quiet_transformers():
        tokenizer: Any = AutoTokenizer.from_pretrained(
            files.folder, truncation_side="right", local_files_only=True, trust_remote_code=False
        )
    return tokenize(texts, tokenizer, max_tokens).n_tokens
