# Images of Airflow. From the project's folder:
#   docker build -f docker/airflow.Dockerfile --target airflow -t tidemark-airflow:0.1.0 .
#   docker build -f docker/airflow.Dockerfile --target worker  -t tidemark-worker:0.1.0  .
# airflow: API server, dag processor, triggerer; scheduler where all jobs run in pods.
# worker: the same, and beside it the environment of tidemark-jobs (build that image first): the
# scheduler with its LocalExecutor, which runs the jobs. Airflow's pins and torch never meet.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
ARG JOBS_IMAGE=tidemark-jobs:0.1.0

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY jobs jobs
COPY embedding_store embedding_store
COPY sql sql
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${PYTHON_IMAGE} AS env
WORKDIR /build
RUN python -m venv /opt/airflow
# Airflow alone decides what is in here; of ours, only what DAG files import, without dependencies.
COPY docker/airflow-requirements.txt constraints.txt ./
RUN /opt/airflow/bin/python -m pip install --no-cache-dir --only-binary :all: --constraint constraints.txt --requirement airflow-requirements.txt
COPY --from=wheel /wheels /wheels
RUN /opt/airflow/bin/python -m pip install --no-cache-dir --no-index --no-deps --find-links /wheels tidemark

FROM ${PYTHON_IMAGE} AS airflow
RUN groupadd --gid 10001 tidemark \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin tidemark \
 && mkdir -p /srv/tidemark /srv/airflow-logs \
 && chown 10001:10001 /srv/tidemark /srv/airflow-logs
COPY --from=env /opt/airflow /opt/airflow
COPY docker/health.py /opt/tidemark/health.py
COPY dags /opt/tidemark/dags
ENV PATH=/opt/airflow/bin:$PATH \
    HOME=/tmp \
    AIRFLOW_HOME=/tmp/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/tidemark/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 10001:10001
HEALTHCHECK --interval=30s --timeout=10s --retries=5 --start-period=120s CMD ["python", "/opt/tidemark/health.py", "metadatabase"]
CMD ["airflow", "version"]

FROM ${JOBS_IMAGE} AS jobs

FROM airflow AS worker
USER root
# LightGBM's wheel links against the system's OpenMP. Debian keeps one version a release.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=jobs /opt/jobs /opt/jobs
ENV JOBS_PYTHON=/opt/jobs/bin/python \
    OMP_WAIT_POLICY=PASSIVE \
    TOKENIZERS_PARALLELISM=false \
    HF_HUB_OFFLINE=1 \
    TIDEMARK_HOME=/srv/tidemark
USER 10001:10001
