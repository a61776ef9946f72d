# adastate in a container, for processors or for NVIDIA GPUs:
#   docker build --target cpu -t adastate:cpu .
#   docker build --target cuda -t adastate:cuda .
# docs/guide/container.md says how they are run.

# ---- processors
FROM python:3.11-slim-bookworm AS cpu
WORKDIR /opt/adastate
COPY constraints.txt ./
# torch goes first and alone, so that nothing drags in another build of it
# hadolint ignore=DL3013
RUN pip install --no-cache-dir -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch
COPY pyproject.toml README.md LICENSE ./
COPY adastate adastate
COPY callbacks callbacks
COPY datamodules datamodules
COPY conf conf
RUN pip install --no-cache-dir -c constraints.txt '.[wan,lora,hub]' \
    && useradd --create-home --uid 1000 adastate && install -d -o 1000 /work
USER 1000
WORKDIR /work
EXPOSE 7860
ENTRYPOINT ["adastate"]
CMD ["--help"]

# ---- NVIDIA GPUs: DeepSpeed compiles its operations on first use, so nvcc and a compiler stay in the image
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04 AS cuda
# the distribution's own security updates are wanted: no versions
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ git ninja-build python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* && python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH DS_BUILD_OPS=0
WORKDIR /opt/adastate
COPY constraints.txt ./
# hadolint ignore=DL3013
RUN pip install --no-cache-dir -c constraints.txt torch setuptools wheel
COPY pyproject.toml README.md LICENSE ./
COPY adastate adastate
COPY callbacks callbacks
COPY datamodules datamodules
COPY conf conf
# the image has a user 1000
RUN pip install --no-cache-dir -c constraints.txt '.[wan,lora,gpu,lmdb,hub]' && install -d -o 1000 /work
USER 1000
WORKDIR /work
EXPOSE 7860
ENTRYPOINT ["adastate"]
CMD ["--help"]
