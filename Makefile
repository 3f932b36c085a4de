# Needs Python 3.11 or newer and make; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
READY := $(VENV)/.ready
UNFINISHED := $(VENV)/.unfinished

# Otherwise glibc's malloc returns large blocks to the system at every step, which takes a third of the time on a CPU.
export MALLOC_TRIM_THRESHOLD_ := 4000000000
export MALLOC_MMAP_THRESHOLD_ := 4000000000
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# With MODEL, results go to a folder of their own.
NAMED = $(if $(MODEL),model=$(MODEL) name=$(or $(EXPERIMENT),demo)-$(MODEL))

# Stable Diffusion uses ImageNet from the hub, or from a folder with DATA=imagenet ARGS=data.path=DIR. Figure 2 reads no
# images; figures 3 and 5 use images that the model itself generates.
DATA ?= $(if $(filter sd%,$(MODEL)),imagenet-hub)
READ_NONE := fig2 fig3 fig5
FIGURES := $(addprefix fig,1 2 3 4 5 6 7 8 9 10 11 12)
# Figures of images need few real images, so the stream from the hub may end early.
FEW = $(if $(filter imagenet-hub,$(DATA)),$(if $(filter fig7,$@),,data.limit=128))
OF_FIGURE = $(if $(MODEL),model=$(MODEL)) $(if $(filter $(READ_NONE),$@),,$(if $(DATA),data=$(DATA) $(FEW)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.NOTPARALLEL:
.PHONY: help setup demo figures findings $(FIGURES) test test-quantize test-gpu test-slurm test-faults lint format \
  typecheck docs lock gpu-wheels gpu-check gpu-docs clean always

help: ## List the targets
	@echo 'Targets (ARGS="..." goes to the command; PYTHON=python3.12 picks the Python of the set-up):'
	@awk -F ':.*## ' '/^[a-z0-9%-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## Install the versions of requirements.lock into .venv (other targets do this when needed)

demo: $(READY) ## Run the demo experiment; MODEL=x uses another model
	$(BIN)/latentmix sweep experiment=demo $(NAMED) $(ARGS)

figures: $(FIGURES) ## Make all figures of the paper; MODEL=sd15 uses Stable Diffusion 1.5 and 3.5

$(FIGURES): $(READY) always
	$(BIN)/latentmix figure $@ $(if $(filter-out $@,$(EXPERIMENT)),experiment=$(EXPERIMENT) $(NAMED),$(OF_FIGURE)) \
	  $(if $(filter $(READ_NONE),$@),$(filter-out data.path=% data.hub=%,$(ARGS)),$(ARGS))

findings: $(READY) ## Make the runs and tables of docs/findings.md; MODEL=sd15 DRY_RUN=1 says what that would take
	$(BIN)/python scripts/findings.py --model $(or $(MODEL),tiny-128) $(if $(DRY_RUN),--dry-run) \
	  $(if $(DATA),data=$(DATA)) $(ARGS)

fig%: ## Make one figure, fig1 to fig12; EXPERIMENT=demo makes fig1, fig4 or fig7 of the demo
	@echo "there is no figure $@; there are $(FIGURES)" >&2; exit 2

test: $(READY) ## Run all tests except the one on Slurm, in two processes; WORKERS=0 uses one
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slurm' -n $(or $(WORKERS),2) --dist loadfile $(ARGS)

# torchao slows down every import of diffusers and writes to stderr, so .venv does not hold it. bitsandbytes needs a GPU.
test-quantize: $(READY) ## Run the tests of model.quantize that a CPU can run, with torchao in a folder of its own
	$(UV) pip install --python $(BIN)/python --target $(VENV)/torchao --no-deps --compile-bytecode --quiet 'torchao>=0.15'
	PYTHONPATH=$(VENV)/torchao OMP_NUM_THREADS=1 $(BIN)/pytest -k 'int8 or fp8 or quantiz' \
	  tests/test_families.py tests/test_model_files.py $(ARGS)

test-gpu: $(READY) ## Run the tests that need a GPU
	$(BIN)/pytest -m gpu $(ARGS)

test-slurm: $(READY) ## Run the test on Slurm, on this machine alone; needs root, installs Debian's slurm-wlm
	@[ "$$(id -u)" = 0 ] || { echo "make test-slurm starts Slurm's daemons, which needs root" >&2; exit 1; }
	@{ command -v slurmctld && command -v slurmd && command -v sbatch; } >/dev/null || { apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends slurm-wlm >/dev/null; } || { \
	  echo "make test-slurm could not install Slurm; install slurmctld, slurmd and sbatch, then run it again" >&2; exit 1; }
	$(BIN)/pytest -m slurm tests/test_slurm.py $(ARGS)

test-faults: $(READY) ## Kill 120 runs, fill disks, damage files; KILLS=x kills more, SEED=x repeats a failed test
	@seed=$${SEED:-$$(date +%s)}; echo "SEED=$$seed"; \
	  LATENTMIX_KILLS=$${KILLS:-120} LATENTMIX_SEED=$$seed $(BIN)/pytest tests/test_faults.py $(ARGS)

lint: $(READY) ## Check style
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(READY) ## Correct style where ruff can
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

typecheck: $(READY) ## Check types
	$(BIN)/mypy $(ARGS)

docs: $(READY) ## Build the documentation into site/; stops at a broken link
	$(BIN)/mkdocs build --quiet $(ARGS)

lock: $(UV) ## Update requirements.lock after a change of pyproject.toml; ARGS=--upgrade takes newer versions
	$(UV) pip compile pyproject.toml --extra dev --no-emit-package latentmix --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --quiet -o requirements.lock $(ARGS)

# diffusers' import asks for requests, which a machine with transformers 5 may lack.
WHEELS := diffusers==0.42.1 hydra-core==1.3.8 omegaconf==2.3.1 pydantic==2.14.3 pydantic_core==2.50.4 \
  annotated-types==0.8.0 typing-inspection==0.4.5 open_clip_torch==3.3.0 ftfy==6.3.1 wcwidth==0.9.4 beartype==0.23.1 \
  requests==2.34.2 urllib3==2.8.0 certifi==2026.10.18 idna==3.20 charset-normalizer==3.5.2

gpu-wheels: $(READY) ## Fetch what a bare machine with torch and a GPU lacks into .whl/, for its Python; GPU_PYTHON=3.12
	mkdir -p .whl
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --default-pip >/dev/null
	$(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: --python-version $(or $(GPU_PYTHON),3.12) \
	  --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --dest .whl $(WHEELS)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir .whl antlr4-python3-runtime==4.9.3 # published as source alone
	@du -sh .whl

gpu-check: ## Check everything on a GPU in nine minutes, without a network or .venv; ARGS="unet vae" runs some stages
	$(PYTHON) -m scripts.gpu_check $(ARGS)

gpu-docs: ## Fill the tables of docs/ from the check's results; FILE=results.jsonl
	$(PYTHON) -m scripts.gpu_check.tables $(FILE)

clean: ## Remove .venv and the caches of tools; outputs/ stays
	rm -rf $(VENV) dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find latentmix scripts tests -name __pycache__ -prune -exec rm -rf {} +

# uv takes a half-installed package for a complete one, so an interrupted set-up starts again from nothing.
ifneq ($(wildcard $(UNFINISHED)),)
.PHONY: $(UV)
endif

$(UV):
	@if kill -0 "$$(cat $(UNFINISHED) 2>&1)" 2>/dev/null; then \
	  echo "Another make is filling $(VENV); wait for it, or run make clean if there is none." >&2; exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "latentmix needs Python 3.11 or newer, and $(PYTHON) is not; try: make setup PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet uv

# uv compiles no Python by itself, and where PYTHONDONTWRITEBYTECODE is set, as in many containers, nothing else does:
# importing diffusers then takes 14 s longer in every process.
$(READY): requirements.lock pyproject.toml | $(UV)
	@rm -f $@; echo $$PPID > $(UNFINISHED)
	$(UV) pip sync --python $(BIN)/python --require-hashes --compile-bytecode --quiet requirements.lock
	$(UV) pip install --python $(BIN)/python --no-deps --quiet -e .
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q latentmix
	@mv $(UNFINISHED) $@; touch $@
