# distill on a machine with NVIDIA GPUs (driver for CUDA 13, NVIDIA Container Toolkit):
#
#   docker build -t distill .
#   docker run --rm --gpus all --ipc=host -v "$PWD:/work" --user "$(id -u):$(id -g)" distill train s4
#
# Another base: --build-arg BASE=pytorch/pytorch:TAG, with the torch that constraints.txt pins.
ARG BASE=pytorch/pytorch:2.11.0-cuda13.0-cudnn9-runtime
FROM ${BASE}

ARG EXTRAS=demo,s3prl,onnx

RUN apt-get update \
    && apt-get install --yes --no-install-recommends libsndfile1 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# A virtual environment that sees the image's torch: pip replaces nothing that the image needs itself.
RUN python3 -m venv --system-site-packages /opt/distill
ENV PATH=/opt/distill/bin:$PATH

COPY . /src
RUN pip install --no-cache-dir --constraint /src/constraints.txt "/src[${EXTRAS}]" \
    && rm -rf /src

# Caches of torch.hub, Hugging Face and matplotlib, writable whichever user docker is told to run as.
RUN useradd --create-home distill && mkdir --mode=777 /work /cache
ENV HOME=/cache
USER distill
WORKDIR /work
ENTRYPOINT ["distill"]
CMD ["--help"]
