# docker build -t latentmix .
# docker run --gpus all -v "$PWD:/work" -v "$HOME/.cache/huggingface:/cache/huggingface" latentmix sweep model=sd15 ...
#
# The image's torch has the CUDA of requirements.lock, which the driver of the host must support; `latentmix doctor` says so.
FROM python:3.12-slim

RUN pip install --no-cache-dir uv
WORKDIR /opt/latentmix

# The dependencies first: they change less often than the code.
COPY requirements.lock ./
RUN uv pip install --system --no-cache --require-hashes -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY latentmix latentmix
RUN uv pip install --system --no-cache --no-deps .

ENV HF_HOME=/cache/huggingface \
    LATENTMIX_CACHE=/cache/latentmix
WORKDIR /work
ENTRYPOINT ["latentmix"]
CMD ["--help"]
