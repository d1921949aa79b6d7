"""A pickle is offered to everything that loads a file; none is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from payloads import (
    has_gone_off,
    object_array,
    parquet_with_a_pickled_type,
    pickled,
    torch_archive,
)
from safetensors.numpy import save_file

from embedding_store.errors import Corrupted
from embedding_store.store import EmbeddingStore
from embedding_store.tables import TableSpec
from jobs.bench.config import load_bench
from jobs.collab.baselines.kept import load as load_fitted
from jobs.collab.baselines.registry import SYSTEMS
from jobs.errors import JobError
from jobs.home import Home
from jobs.llm.adapters import find_adapter
from jobs.llm.backbone import load, resolve
from jobs.llm.checkpoints import Checkpoints
from jobs.prepare.first_look.mapping_check import forecast
from tests.conftest import DAY
from tests.tiny_backbone import write_tiny_backbone

KINDS: dict[str, Callable[[Path], bytes]] = {
    "pickle": pickled,
    "npy": object_array,
    "torch": torch_archive,
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "the-payload-ran"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_backbone(tmp_path_factory.mktemp("model"))


def copied(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_the_payload_is_live(canary: Path) -> None:
    has_gone_off(pickled(canary))
    assert canary.exists()


# -- weights ---------------------------------------------------------------------------------------


@every_kind
def test_weights_that_are_a_pickle_by_another_name_are_refused(
    backbone: Path, tmp_path: Path, canary: Path, kind: str
) -> None:
    folder = copied(backbone, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(KINDS[kind](canary))
    with pytest.raises(JobError, match="cannot be loaded"):
        load(resolve(str(folder), tmp_path))
    assert not canary.exists()


@every_kind
def test_a_pickle_beside_sound_weights_is_not_opened(
    backbone: Path, tmp_path: Path, canary: Path, kind: str
) -> None:
    folder = copied(backbone, tmp_path / "model")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "tokenizer.pkl"):
        (folder / name).write_bytes(KINDS[kind](canary))
    assert load(resolve(str(folder), tmp_path)).model is not None
    assert not canary.exists()


def test_code_in_a_model_folder_is_not_run(backbone: Path, tmp_path: Path, canary: Path) -> None:
    folder = copied(backbone, tmp_path / "model")
    (folder / "modeling_mine.py").write_text(f"open({str(canary)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_mine.Mine"}
    (folder / "config.json").write_text(json.dumps(config))
    load(resolve(str(folder), tmp_path))  # the class that transformers itself has
    config |= {"model_type": "mine", "architectures": ["Mine"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(JobError, match="cannot be loaded"):
        load(resolve(str(folder), tmp_path))
    assert not canary.exists()


@every_kind
def test_a_gguf_file_that_is_a_pickle_is_refused(tmp_path: Path, canary: Path, kind: str) -> None:
    (tmp_path / "model.gguf").write_bytes(KINDS[kind](canary))
    with pytest.raises(JobError):
        resolve(str(tmp_path / "model.gguf"), tmp_path / "cache")
    assert not canary.exists()


@every_kind
def test_an_adapter_that_is_a_pickle_is_refused(tmp_path: Path, canary: Path, kind: str) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(KINDS[kind](canary))
    with pytest.raises(JobError, match="there is no adapter"):
        find_adapter(str(tmp_path), Home(tmp_path))
    (tmp_path / "adapter_model.safetensors").write_bytes(KINDS[kind](canary))
    with pytest.raises(JobError):
        find_adapter(str(tmp_path), Home(tmp_path)).tensors()
    assert not canary.exists()


@every_kind
def test_a_checkpoint_that_is_a_pickle_is_none(tmp_path: Path, canary: Path, kind: str) -> None:
    (tmp_path / "step-00000007.safetensors").write_bytes(KINDS[kind](canary))
    (tmp_path / "step-00000007.json").write_bytes(KINDS[kind](canary))
    assert Checkpoints(tmp_path).newest() is None
    assert not canary.exists()


@every_kind
def test_a_fitted_system_that_is_a_pickle_is_refused(
    tmp_path: Path, canary: Path, kind: str
) -> None:
    (tmp_path / "fitted.safetensors").write_bytes(KINDS[kind](canary))
    with pytest.raises(JobError, match="is not a safetensors file"):
        load_fitted(tmp_path / "fitted.safetensors")
    assert not canary.exists()


# -- tables ----------------------------------------------------------------------------------------

MAPPING = """\
domain: shop
events:
  files: ["events.{form}"]
  format: {form}{table}
  columns: {{user_id: user, item_id: item, at: at}}
  user_id: {{type: integer}}
  item_id: {{type: integer}}
  at: {{form: seconds}}
feedback: {{kind: implicit}}
items: {{from: events, title: title}}
quarantine: {{max_share: 1.0}}
"""


def mapped(folder: Path, form: str) -> Path:
    folder.mkdir(exist_ok=True)
    table = "\n  table: events" if form == "duckdb" else ""
    (folder / "tidemark.yaml").write_text(MAPPING.format(form=form, table=table))
    return folder / "tidemark.yaml"


@every_kind
@pytest.mark.parametrize("form", ["parquet", "csv", "duckdb"])
def test_a_source_that_is_a_pickle_is_refused_in_one_line(
    tmp_path: Path, canary: Path, kind: str, form: str
) -> None:
    mapping = mapped(tmp_path / "shop", form)
    (mapping.parent / f"events.{form}").write_bytes(KINDS[kind](canary))
    with pytest.raises(JobError) as refused:
        forecast(mapping, DAY)
    assert f"events.{form}" in str(refused.value)
    assert not canary.exists()


def events() -> pa.Table:
    start = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    return pa.table(
        {
            "user": pa.array([n % 7 for n in range(300)], pa.int64()),
            "item": pa.array([n % 11 for n in range(300)], pa.int64()),
            "at": pa.array([start + n * 14_400 for n in range(300)], pa.int64()),
            "title": [f"Item {n % 11}" for n in range(300)],
        }
    )


def test_a_parquet_column_of_a_pickled_type_is_read_as_what_it_stores(
    tmp_path: Path, canary: Path
) -> None:
    mapping = mapped(tmp_path / "shop", "parquet")
    path = mapping.parent / "events.parquet"
    parquet_with_a_pickled_type(path, canary, events())
    assert forecast(mapping, DAY).totals["n_events"] == 300
    assert pq.read_table(path).num_rows == 300
    assert not canary.exists()


def test_a_mapping_or_a_bench_file_cannot_name_python_objects(tmp_path: Path, canary: Path) -> None:
    said = f"name: !!python/object/apply:pathlib.Path.touch ['{canary}']\n"
    (tmp_path / "bench.yaml").write_text(said)
    with pytest.raises(JobError, match="tag"):
        load_bench(tmp_path / "bench.yaml", SYSTEMS)
    (tmp_path / "tidemark.yaml").write_text(said)
    with pytest.raises(JobError, match="tag"):
        forecast(tmp_path / "tidemark.yaml", DAY)
    assert not canary.exists()


# -- the store -------------------------------------------------------------------------------------


@every_kind
def test_a_published_file_replaced_by_a_pickle_is_refused(
    tmp_path: Path, canary: Path, kind: str
) -> None:
    table = pa.table({"item_id": pa.array([1, 2], pa.int64()), "title": ["a", "b"]})
    extra = tmp_path / "weights.safetensors"
    save_file({"w": pa.array([1.0, 2.0]).to_numpy()}, extra)
    store = EmbeddingStore(tmp_path / "store")
    version = store.publish(
        {"items": TableSpec(table, key="item_id")},
        run_key="one",
        day=str(DAY),
        space={"space_id": "none"},
        files={extra.name: extra},
    )
    data = [p for p in (tmp_path / "store" / "data").rglob("*") if p.name != "RUN.json"]
    files = [path for path in data if path.is_file()]
    assert len(files) >= 3
    for path in files:
        content = path.read_bytes()
        path.write_bytes(KINDS[kind](canary))
        with pytest.raises(Corrupted):
            store.open(version)
        path.write_bytes(content)
    assert not canary.exists()
