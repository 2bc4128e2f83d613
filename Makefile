# make demo             environment, weights, a small sample world, features, a head, and a table of scores with controls
# make demo FULL=1      the same with more frames, training and rows, in an empty folder: the figures of docs/reproduce.md
# make demo SEED=7      the same on a sample world of another seed, in an empty folder
# make app              pages in a browser, on the demo's data: explore clips, ask about pairs, compare methods
# make test             environment and the quick tests, in about seven minutes on two cores
# make test-all         all tests: browsers, clusters, kills at every step, hostile files, oracles at full size
# make test SIMD=oldest the tests with the vector instructions of an old x86-64 processor; SIMD=avx2: those before AVX-512
# make lint             ruff and mypy
# make docs             the documentation as a site, in site/; a broken link fails
# Each line that `make demo` runs is a public command; docs/quickstart.md explains them.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV ?= .venv
WORLD ?= data/kitchen
STORE ?= data/features
DEMO ?= data/demo
RUNS ?= runs
# Options of the app: make app APP='--port 9000'
APP ?=
# Videos of the world, options of the training. For small trials see also ROWS_ALL and SHUFFLED.
VIDEOS ?=
TRAIN ?= $(if $(FULL),--video_lm.schedule.steps 60 --video_lm.schedule.validate_every 60)
FULL ?=
RUN := $(VENV)/bin/python -m
RECIPES := heads/recipes/kitchen
# Threads that wait for work go to sleep soon (libgomp). By default two processes on the same cores slow each other ten
# times; asleep at once, one process alone takes half again as long.
export GOMP_SPINCOUNT ?= 2000
# Keep freed memory for the next training step: getting it from the system again costs a tenth of a step (glibc).
export MALLOC_MMAP_THRESHOLD_ := 4294967296
export MALLOC_TRIM_THRESHOLD_ := 8589934592
# uv leaves compiling a module to its first import, which must not be lost.
unexport PYTHONDONTWRITEBYTECODE
WEIGHTS := smollm2-135m-instruct mpnet-base efficientnet-lite0
# those that only tests read
TEST_WEIGHTS := whisper-base
STEPDIFF := $(RUNS)/stepdiff/best.json
WORDS := $(RUNS)/words/words.json

.PHONY: demo app env dev weights test-weights world features words questions heads answers scores test test-all lint docs
.DELETE_ON_ERROR:

# A pair to ask about: the first of DiffCap, at hand once the world is rendered.
PAIR = $(shell sed -nE '1s/.*"reference": "([^"]*)", "candidate": "([^"]*)".*/\1 \2/p' $(WORLD)/diffcap_test.jsonl)

demo: scores
	@echo "== try next (docs/quickstart.md explains it):"
	@echo "   source $(VENV)/bin/activate"
	@echo "   python -m retrieval query --store $(STORE) --view efficientnet-lite0 --clip $(firstword $(PAIR)) -k 5"
	@echo "   python -m heads.ask --store $(STORE) --head $(RUNS)/stepdiff --reference $(firstword $(PAIR)) \\"
	@echo "       --candidate $(lastword $(PAIR)) 'What did I do differently in video 2?'"
	@echo "   python -m heads.ask --store $(STORE) --words $(RUNS)/words --reference $(firstword $(PAIR)) \\"
	@echo "       --candidate $(lastword $(PAIR)) --why"
	@echo "   make app   # the same in a browser: explore clips, ask about pairs, compare methods"

# Until Ctrl-C.
app: env
	$(RUN) stepdiff.app --store $(STORE) --videos $(WORLD) --runs $(RUNS) --predictions $(DEMO)$(if $(APP), $(APP))

# Announces a step: its number, and the time left, from the seconds that steps take on two cores (PLAN) and the time so far,
# unless a quick step shows that its work was done before.
PLAN := $(if $(FULL),150 120 37 75 220 260,120 120 37 75 52 130)
STEP = @$(eval RAN += $(1))$(eval STARTED := $(or $(STARTED),$(shell date +%s)))awk -v plan="$(PLAN)" -v ran="$(RAN)" -v at=$(1) -v took=$$(($$(date +%s) - $(STARTED))) \
    'BEGIN { n = split(plan, s); m = split(ran, r); for (i = at; i <= n; i++) left += s[i]; \
    for (i = 1; i < m; i++) done += s[r[i]]; left *= took > done / 4 && done ? took / done : 1; \
    printf "== step %d of %d: $(2) (about %d min %02d s left)\n", at, n, left / 60, left % 60 }'

env: $(VENV)/.installed

# uv takes a fifth of pip's time, and reads none of pip's settings: it gets those that say where packages come from. $(1): extra
PIP_SETTINGS = $(VENV)/bin/python -m pip config list | \
    sed -nE "s/^[^=]*\.(index-url|extra-index-url|find-links|constraint)='(.*)'$$/--\1 \2/p"
define INSTALL
	@echo "== environment: $(VENV) (torch and other packages are large: with a slow network the first installation takes minutes)"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet uv
	VIRTUAL_ENV=$(abspath $(VENV)) UV_SYSTEM_CERTS=1 $(VENV)/bin/uv pip install --editable '.[$(1)]' \
	    $$($(PIP_SETTINGS)) 2>&1 | grep --line-buffered -v '^ [+~-] '
	@touch $(VENV)/.installed
endef

$(VENV)/.installed: pyproject.toml
	$(call INSTALL,all)

# Also what tests, linters and the documentation need.
dev: $(VENV)/.dev

$(VENV)/.dev: pyproject.toml
	$(call INSTALL,dev)
	@touch $@

weights: env
	$(RUN) stepdiff_core.weights fetch $(WEIGHTS)

test-weights: env
	$(RUN) stepdiff_core.weights fetch $(WEIGHTS) $(TEST_WEIGHTS)

# Your own world, a folder with the same files as the sample world, is not changed.
OWN := $(if $(wildcard $(WORLD)/world.json),,$(wildcard $(WORLD)/clips.csv))

# Weights are fetched while videos are rendered.
world: env
	$(call STEP,1,sample world)
	$(RUN) stepdiff_core.weights fetch $(WEIGHTS) > $(VENV)/weights.log 2>&1 & \
	    $(if $(OWN),echo "   $(WORLD) as it is",$(RUN) stepdiff.kitchen --out $(WORLD) --steps 3 \
	    --videos $(or $(VIDEOS),240)$(if $(FULL),, --fps 8)$(if $(SEED), --seed $(SEED))) && \
	    { wait $$! || { cat $(VENV)/weights.log; exit 1; }; }

# Training data and held-out test sets, if the world is not that of the recipes.
OTHER_WORLD = $(filter-out data/kitchen,$(WORLD))
HOLD_OUT = --hold-out $(foreach task,diffcap diffrank,$(1)/$(task)_test.jsonl)
HELD_OUT = $(if $(OTHER_WORLD), $(call HOLD_OUT,$(WORLD)))
PAIRED = --video_lm.pairqa $(1)/pairqa_train.jsonl
ASKED = $(if $(OTHER_WORLD), $(call PAIRED,$(WORLD)))

# $(1) world, $(2) store
define CLIP_FEATURES
	$(RUN) featurize --manifest $(1)/clips.csv --store $(2) --encoder efficientnet-lite0 --statistics add
endef
define IMAGE_FEATURES
	$(RUN) featurize --manifest $(1)/images.csv --store $(2) --encoder efficientnet-lite0
endef
define TEXT_FEATURES
	$(RUN) featurize --manifest $(1)/texts.csv --store $(2) --encoder mpnet-base
endef
# $(1) world, $(2) store, $(3) folder
define WORD_HEAD
	$(RUN) heads.words --store $(2) --view efficientnet-lite0 --pairqa $(1)/pairqa_train.jsonl \
	    --validation $(1)/diffrank_val.jsonl --out $(3) $(call HOLD_OUT,$(1))
endef
# $(1) world, $(2) store, $(3) split: DiffMCQ (V1) from the split's DiffCap, by the walk of supplement S5, which passes pairs
# that nobody could tell from the right one
define QUESTIONS
	$(RUN) retrieval negatives --store $(2) --view efficientnet-lite0 --text-view mpnet-base \
	    --test-set $(1)/diffcap_$(3).jsonl --truth $(1)/attributes.jsonl --out $(1)/diffmcq_$(3).jsonl
endef

features: world
	$(call STEP,2,features of clips)
	$(call CLIP_FEATURES,$(WORLD),$(STORE))
	@echo "== the nearest neighbours of a clip, by cosine:"
	$(RUN) retrieval query --store $(STORE) --view efficientnet-lite0 --clip $(firstword $(PAIR)) -k 5

# A clip of the sample world as FILE@START-END.
FILE = $(WORLD)/videos/$(word 1,$(subst _, ,$(1)))_$(word 2,$(subst _, ,$(1))).mp4@$(word 3,$(subst _, ,$(1)))-$(word 4,$(subst _, ,$(1)))

words: features
	$(call STEP,3,evidence of words$(COMMA) and a first answer)
	$(call WORD_HEAD,$(WORLD),$(STORE),$(RUNS)/words)
	@mkdir -p $(DEMO)
	$(if $(OWN),,$(RUN) stepdiff compare $(foreach clip,$(PAIR),$(call FILE,$(clip))) --model $(RUNS)/words \
	    --store $(DEMO)/compared --html $(DEMO)/first.html)
COMMA := ,

questions: words
	$(call STEP,4,DiffMCQ questions with hard negatives)
	$(RUN) featurize --manifest $(WORLD)/diffcap_test.jsonl --store $(STORE) --encoder mpnet-base
	$(RUN) store info $(STORE)
	$(call QUESTIONS,$(WORLD),$(STORE),test)

heads: questions
	$(call STEP,5,training)
	$(RUN) heads.train --config $(RECIPES)/stepdiff.yaml --store $(STORE) --out $(RUNS)/stepdiff$(HELD_OUT)$(ASKED)$(if \
	    $(filter-out runs,$(RUNS)), --video_lm.evidence.head $(RUNS)/words)$(if $(TRAIN), $(TRAIN))

# Evaluations to do, a line each; one process does them all, and loads its libraries and the language model once.
TO_DO := $(DEMO)/evaluations.txt
EVALUATE = @>> $(TO_DO) echo --store $(STORE)
# Rows of each task for the head, and for its control with another clip's video.
ROWS_ALL := $(if $(FULL),diffmcq:240 diffrank:80 diffcap:80,diffmcq:100 diffrank:80 diffcap:60)
SHUFFLED := $(if $(FULL),diffmcq:60 diffrank:24,diffmcq:24 diffrank:12)
ROWS = $(patsubst $(TASK):%,%,$(filter $(TASK):%,$(ROWS_ALL)))
CONTROLS := diffmcq_blind diffmcq_shuffled diffrank_shuffled \
    diffmcq_truth diffmcq_step diffmcq_rarest diffmcq_most diffrank_truth diffrank_cosine diffrank_step diffcap_medoid \
    diffcap_reassigned
RECORDS := $(addprefix $(DEMO)/,diffmcq_stepdiff diffrank_stepdiff diffcap_stepdiff diffmcq_words diffrank_words diffcap_words \
    $(CONTROLS))
SCORES := $(RECORDS:=.scores.json)
TASK = $(firstword $(subst _, ,$(notdir $*)))
# Captions are also checked against the exact attributes of the clips.
TRUTH = $(if $(filter diffcap,$(TASK)),--truth $(WORLD)/attributes.jsonl)
# As many pairs without a difference are captioned too, to count invented differences.
AGREEING = $(if $(filter diffcap,$(TASK)), --no-difference $(WORLD)/diffrank_test.jsonl)
SET = --task $(TASK) --test-set $(WORLD)/$(TASK)_test.jsonl $(TRUTH) --rows $(ROWS) --out $(DEMO)/$*

# A head that was trained again is scored again.
answers: heads
	$(call STEP,6,answers of the head and of the controls)
	@mkdir -p $(DEMO) && : > $(TO_DO) && $(MAKE) --no-print-directory --silent $(SCORES)
	$(RUN) heads.evaluations $(TO_DO)

$(STEPDIFF) $(WORDS): ;

$(DEMO)/%_stepdiff.scores.json: $(STEPDIFF)
	$(EVALUATE) $(SET)_stepdiff.jsonl --method stepdiff --head $(RUNS)/stepdiff$(AGREEING)
$(DEMO)/%_words.scores.json: $(WORDS)
	$(EVALUATE) $(SET)_words.jsonl --method word-evidence --head $(RUNS)/words$(AGREEING)
$(DEMO)/%_blind.scores.json: $(STEPDIFF)
	$(EVALUATE) $(SET)_blind.jsonl --method stepdiff --head $(RUNS)/stepdiff --control blind
$(DEMO)/%_shuffled.scores.json: override ROWS_ALL := $(SHUFFLED)
$(DEMO)/%_shuffled.scores.json: $(STEPDIFF)
	$(EVALUATE) $(SET)_shuffled.jsonl --method stepdiff --head $(RUNS)/stepdiff --control shuffled
$(DEMO)/%_cosine.scores.json:
	$(EVALUATE) $(SET)_cosine.jsonl --method vlemb --view efficientnet-lite0
$(DEMO)/%_step.scores.json:
	$(EVALUATE) $(SET)_step.jsonl --method step-oracle
$(DEMO)/%_rarest.scores.json:
	$(EVALUATE) $(SET)_rarest.jsonl --method rarest
$(DEMO)/%_most.scores.json:
	$(EVALUATE) $(SET)_most.jsonl --method stepdiff.kitchen.controls:MostDifferences
$(DEMO)/%_truth.scores.json:
	$(EVALUATE) $(SET)_truth.jsonl --method stepdiff.kitchen.controls:TrueAttributes
$(DEMO)/%_medoid.scores.json:
	$(EVALUATE) $(SET)_medoid.jsonl --method medoid --texts $(WORLD)/pairqa_train.jsonl
$(DEMO)/%_reassigned.scores.json: $(DEMO)/%_stepdiff.scores.json
	$(EVALUATE) $(SET)_reassigned.jsonl --method shuffled-captions --texts $(DEMO)/$*_stepdiff.jsonl

scores: answers
	$(RUN) heads.table $(SCORES) --out $(DEMO)/scores.json

# The tests of a file run in one process and share its fixtures; test_journey.py, the longest, runs first.
# One thread of OpenMP each: processes that all use all cores slow each other down many times.
# NumPy, its BLAS, PyTorch, MKL, oneDNN, Numba, FAISS and the C library each have a variable that limits instructions.
SIMD_avx2 := NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR" OPENBLAS_CORETYPE=Haswell ATEN_CPU_CAPABILITY=avx2 \
    MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 NUMBA_CPU_NAME=haswell FAISS_SIMD_LEVEL=AVX2
SIMD_oldest := NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR" OPENBLAS_CORETYPE=Prescott \
    ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 NUMBA_CPU_NAME=generic \
    FAISS_SIMD_LEVEL=NONE GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA
PYTEST = OMP_NUM_THREADS=1 $(if $(SIMD),$(or $(SIMD_$(SIMD)),$(error SIMD=$(SIMD): it is oldest or avx2))) $(RUN) pytest
SIDE_BY_SIDE := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
test: $(VENV)/.dev test-weights
	$(PYTEST) $(SIDE_BY_SIDE) -m "not full"
test-all: $(VENV)/.dev test-weights
	$(PYTEST) $(SIDE_BY_SIDE)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

docs: $(VENV)/.dev
	$(VENV)/bin/zensical build --clean --strict

include reproduce.mk
