"""What the LLM reads of each item of the catalogue, those without events included."""

from __future__ import annotations

from jobs.datasets import DOMAINS, ITEM_TEXTS, ITEMS
from jobs.job import Config, Declared, Run, main
from jobs.query import query


class ItemTextsConfig(Config):
    """Item titles to item texts; the domain's noun is all there is to choose."""


def job(config: ItemTextsConfig, run: Run) -> None:
    """Write one text per item: the domain's noun and the title."""
    texts = query("prepare/item_texts", {"items": run.read(ITEMS), "domains": run.read(DOMAINS)})
    run.write(ITEM_TEXTS, texts)
    run.metric("items", texts.num_rows)


DECLARED = Declared("item_texts", ItemTextsConfig, job)

if __name__ == "__main__":
    main(DECLARED)
