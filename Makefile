# make demo   environment, weights, sample world, features, heads, and a table of scores
# make test   environment and all tests
# make lint   ruff and mypy
# make docs   the documentation as a site, in site/; a broken link fails
# Each line that `make demo` runs is a public command; docs/quickstart.md explains them.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python -m
WORLD ?= data/kitchen
STORE ?= data/features
DEMO ?= data/demo
RUNS ?= runs
RECIPES := heads/recipes/kitchen
# Keep freed memory for the next training step: getting it from the system again costs a tenth of a step (glibc).
export MALLOC_MMAP_THRESHOLD_ := 4294967296
export MALLOC_TRIM_THRESHOLD_ := 8589934592
WEIGHTS := smollm2-135m-instruct mpnet-base efficientnet-lite0
STEPDIFF := $(RUNS)/stepdiff/best.json
ALIGN := $(RUNS)/align/best.json

.PHONY: demo env weights world features neighbours heads scores test lint docs
.DELETE_ON_ERROR:

demo: scores

env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@echo "== environment: $(VENV) (torch and other packages are large: the first installation takes minutes)"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --progress-bar on --editable '.[dev]'
	@touch $@

weights: env
	$(RUN) weights fetch $(WEIGHTS)

# Your own world, a folder with the same files as the sample world, is not changed.
OWN := $(if $(wildcard $(WORLD)/world.json),,$(wildcard $(WORLD)/clips.csv))

world: env
	$(if $(OWN),@echo "== world: $(WORLD) as it is",$(RUN) kitchen --out $(WORLD))

# Training data, validation sets and held-out test sets, if the world is not the sample world.
OTHER_WORLD = $(filter-out data/kitchen,$(WORLD))
HOLD_OUT = --hold-out $(foreach task,diffcap diffmcq diffrank,$(1)/$(task)_test.jsonl)
HELD_OUT = $(if $(OTHER_WORLD), $(call HOLD_OUT,$(WORLD)))
ASKED = $(HELD_OUT)$(if $(OTHER_WORLD), --video_lm.pairqa $(WORLD)/pairqa_train.jsonl \
    --video_lm.validation.diffmcq $(WORLD)/diffmcq_val.jsonl --video_lm.validation.diffrank $(WORLD)/diffrank_val.jsonl)

# $(1) world, $(2) store
define CLIP_FEATURES
	$(RUN) featurize --manifest $(1)/clips.csv --store $(2) --encoder efficientnet-lite0
	$(RUN) featurize --manifest $(1)/images.csv --store $(2) --encoder efficientnet-lite0
endef
define TEXT_FEATURES
	$(RUN) featurize --manifest $(1)/texts.csv --store $(2) --encoder mpnet-base
endef

features: world weights
	$(call CLIP_FEATURES,$(WORLD),$(STORE))
	$(call TEXT_FEATURES,$(WORLD),$(STORE))
	$(RUN) store info $(STORE)

neighbours: features
	$(RUN) retrieval build --store $(STORE) --view efficientnet-lite0
	$(RUN) retrieval negatives --store $(STORE) --view efficientnet-lite0 --text-view mpnet-base \
	    --test-set $(WORLD)/diffcap_test.jsonl --variant V1 --out $(dir $(STORE))diffmcq_V1.jsonl

heads: features
	$(RUN) heads.train --config $(RECIPES)/align.yaml --store $(STORE) --out $(RUNS)/align$(HELD_OUT)
	$(RUN) heads.embed --head $(RUNS)/align --store $(STORE) --view aligned
	$(RUN) heads.train --config $(RECIPES)/stepdiff.yaml --store $(STORE) --out $(RUNS)/stepdiff$(ASKED)

EVALUATE = $(RUN) heads.evaluate --store $(STORE)
ROWS_diffmcq := 150
ROWS_diffrank := 100
ROWS_diffcap := 50
RECORDS := $(addprefix $(DEMO)/,diffmcq_stepdiff diffrank_stepdiff diffcap_stepdiff diffmcq_blind diffrank_blind \
    diffmcq_shuffled diffrank_shuffled diffmcq_aligned diffrank_aligned diffrank_cosine diffrank_step)
SCORES := $(RECORDS:=.scores.json)
TASK = $(firstword $(subst _, ,$(notdir $*)))
SET = --task $(TASK) --test-set $(WORLD)/$(TASK)_test.jsonl --rows $(ROWS_$(TASK)) --out $(DEMO)/$*
$(DEMO)/%_shuffled.scores.json: ROWS_diffmcq := 75
$(DEMO)/%_shuffled.scores.json: ROWS_diffrank := 50

# A head that was trained again is scored again.
$(STEPDIFF) $(ALIGN): | heads ;

$(DEMO)/%_stepdiff.scores.json: $(STEPDIFF)
	$(EVALUATE) $(SET)_stepdiff.jsonl --method stepdiff --head $(RUNS)/stepdiff
$(DEMO)/%_blind.scores.json: $(STEPDIFF)
	$(EVALUATE) $(SET)_blind.jsonl --method stepdiff --head $(RUNS)/stepdiff --control blind
$(DEMO)/%_shuffled.scores.json: $(STEPDIFF)
	$(EVALUATE) $(SET)_shuffled.jsonl --method stepdiff --head $(RUNS)/stepdiff --control shuffled
$(DEMO)/%_aligned.scores.json: $(ALIGN)
	$(EVALUATE) $(SET)_aligned.jsonl --method vlemb --view aligned
$(DEMO)/%_cosine.scores.json: | features
	$(EVALUATE) $(SET)_cosine.jsonl --method vlemb --view efficientnet-lite0
$(DEMO)/%_step.scores.json: | features
	$(EVALUATE) $(SET)_step.jsonl --method step-oracle

scores: neighbours heads $(SCORES)
	$(RUN) heads.table $(SCORES) --out $(DEMO)/scores.json

# The tests of a file run in one process and share its fixtures; test_readme.py, the longest, runs first.
# One thread of OpenMP each: processes that all use all cores slow each other down many times.
test: weights
	OMP_NUM_THREADS=1 $(RUN) pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: env
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

docs: env
	$(VENV)/bin/zensical build --clean --strict

include reproduce.mk
