# make reproduce            all methods trained on a rendered kitchen, with controls; the tables of a reviewer
# make reproduce SEEDS=3    the same with three trainings each; existing results are kept, a killed run resumes
# make reproduce GENERATED=1    also StepDiff trained on paired QA that stepdiff/annotate/ generates instead of the world's own
# OMP_NUM_THREADS=1 make -j2 reproduce SEEDS=3    two jobs at once on two cores: a tenth more work per hour
#
# The world is rendered with another seed than the one that the recipes were developed on. Another world or another
# recipe needs another folder: WORLD_SEED=1 REPRODUCE=data/world1. VIDEOS=300 takes about seven minutes less.
# This file is included by the Makefile.

SEEDS ?= 1
WORLD_SEED ?= 2049
R_VIDEOS := $(or $(VIDEOS),600)
REPRODUCE ?= data/reproduce
R_WORLD ?= $(REPRODUCE)/kitchen
R_STORE ?= $(REPRODUCE)/features
# For small trials: options of the trainings, of the contrastive head, of the descriptions and of every evaluation, and
# the number of rows of each evaluation.
R_OURS ?=
R_ALIGN ?=
R_DESCRIBE ?=
R_EVALUATE ?=
R_ROWS ?=

TRAININGS := $(shell seq 0 $$(($(SEEDS) - 1)))
SETS := diffmcq diffmcq_V2 diffmcq_V3 diffrank diffcap
# The longest chain first: with -j make starts in this order.
OURS := stepdiff interleaved_long plain vclm

# With GENERATED=1 more clips are described and more methods reported, in separate files.
MODE := $(if $(GENERATED),_generated)

.PHONY: reproduce same_world

reproduce: $(REPRODUCE)/report$(MODE)/report.json

$(R_WORLD)/world.json: | env
	$(RUN) stepdiff.kitchen --out $(R_WORLD) --seed $(WORLD_SEED) --videos $(R_VIDEOS)

# kitchen refuses another world too, but it rewrites its files, so that make would run everything that reads them again.
same_world: $(R_WORLD)/world.json
	@grep -q '"videos": $(R_VIDEOS), "steps": 12, "seed": $(WORLD_SEED),' $< || { echo "error: $(R_WORLD) holds another world than" \
	    "VIDEOS=$(R_VIDEOS) WORLD_SEED=$(WORLD_SEED): $$(cat $<); give another REPRODUCE=FOLDER" >&2; exit 1; }

$(R_STORE)/.clips: $(R_WORLD)/world.json | weights same_world
	$(call CLIP_FEATURES,$(R_WORLD),$(R_STORE))
	$(call IMAGE_FEATURES,$(R_WORLD),$(R_STORE))
	@touch $@

$(R_STORE)/.texts: $(R_STORE)/.clips
	$(call TEXT_FEATURES,$(R_WORLD),$(R_STORE))
	@touch $@

# DiffMCQ of test and val: V1 of supplement S5.
$(R_WORLD)/diffmcq_%.jsonl: $(R_STORE)/.texts
	$(call QUESTIONS,$(R_WORLD),$(R_STORE),$*)

# The second contrastive head also reads the answers about pairs of the train split.
$(R_STORE)/.answers: $(R_STORE)/.texts
	$(RUN) featurize --manifest $(R_WORLD)/pairqa_train.jsonl --column answer --store $(R_STORE) --encoder mpnet-base --wait
	@touch $@

# Test sets: DiffMCQ in the three variants of supplement S5 (Table S4). R_ROWS_* rows of each are drawn by seed, the same
# for all methods, because all rows would take hours.
R_ROWS_diffmcq := 150
R_ROWS_diffmcq_V2 := 50
R_ROWS_diffmcq_V3 := 50
R_ROWS_diffrank := 100
R_ROWS_diffcap := 80
TEST_diffmcq := $(R_WORLD)/diffmcq_test.jsonl
TEST_diffrank := $(R_WORLD)/diffrank_test.jsonl
TEST_diffcap := $(R_WORLD)/diffcap_test.jsonl
TEST_diffmcq_V2 := $(REPRODUCE)/diffmcq_V2.jsonl
TEST_diffmcq_V3 := $(REPRODUCE)/diffmcq_V3.jsonl

$(REPRODUCE)/diffmcq_%.jsonl: $(R_STORE)/.texts
	$(RUN) retrieval negatives --store $(R_STORE) --view efficientnet-lite0 --text-view mpnet-base \
	    --test-set $(R_WORLD)/diffcap_test.jsonl --truth $(R_WORLD)/attributes.jsonl --variant $* --out $@

# $(1) seed, $(2) run, $(3) recipe, $(4) the run that it starts from or empty, $(5) options. A killed training leaves all of
# its files but `trained`.
define TRAINING
$(REPRODUCE)/seed$(1)/$(2)/trained: $(REPRODUCE)/all/words/words.json $(if $(4),$(REPRODUCE)/seed$(1)/$(4)/trained)
	$(RUN) heads.train --config $(RECIPES)/$(3).yaml --seed $(1) --store $(R_STORE) --out $$(@D) \
	    $(call HOLD_OUT,$(R_WORLD)) $(5)
	@touch $$@
endef
R_PAIRED := $(call PAIRED,$(R_WORLD))
R_WORDS := --video_lm.evidence.head $(REPRODUCE)/all/words
# VCLM and Interleaved take as many steps as StepDiff, which continues from 40 steps of Interleaved.
steps = --video_lm.schedule.steps $(1) --video_lm.schedule.validate_every $(1)
ALIGN_PAIRED := --contrastive.pairs.pairqa $(R_WORLD)/pairqa_train.jsonl \
    --contrastive.pairs.validation.diffmcq $(R_WORLD)/diffmcq_val.jsonl \
    --contrastive.pairs.validation.diffrank $(R_WORLD)/diffrank_val.jsonl
init = --video_lm.init $(REPRODUCE)/seed$(1)/$(2)

define TRAININGS_OF
$(call TRAINING,$(1),vclm,vclm,,$(R_WORDS) $(call steps,160) $(R_OURS))
$(call TRAINING,$(1),interleaved,interleaved,,$(R_WORDS) $(R_OURS))
$(call TRAINING,$(1),interleaved_long,interleaved,interleaved,$(R_WORDS) $(call init,$(1),interleaved) $(call steps,120) $(R_OURS))
$(call TRAINING,$(1),plain_interleaved,plain_interleaved,,$(R_OURS))
$(call TRAINING,$(1),plain,plain,plain_interleaved,$(R_PAIRED) $(call init,$(1),plain_interleaved) $(R_OURS))
$(call TRAINING,$(1),stepdiff,stepdiff,interleaved,$(R_WORDS) $(R_PAIRED) $(call init,$(1),interleaved) $(call steps,120) $(R_OURS))
$(REPRODUCE)/seed$(1)/align/trained: $(R_STORE)/.texts
$(call TRAINING,$(1),align,align,,$(R_ALIGN))
$(REPRODUCE)/seed$(1)/align_pairs/trained: $(R_STORE)/.answers $(R_WORLD)/diffmcq_val.jsonl
$(call TRAINING,$(1),align_pairs,align_pairs,,$(ALIGN_PAIRED) $(R_ALIGN))
$(REPRODUCE)/seed$(1)/%/embedded: $(REPRODUCE)/seed$(1)/%/trained
	$(RUN) heads.embed --head $$(@D) --store $(R_STORE) --view $$*-seed$(1) --wait true
	@touch $$@
endef

# Captions are kept raw. The same number of pairs without a difference is added, to count invented differences; methods
# are also asked whether the clips are similar, to count them with the natural threshold. Details that captions name are
# checked against the exact attributes.
OF_CAPTIONS = --parse false --no-difference $(TEST_diffrank) --truth $(R_WORLD)/attributes.jsonl $(if $(filter words medoid reassigned,$(3)),,--ask-similar)

# $(1) folder, $(2) test set, $(3) name, $(4) prerequisite, $(5) options
define EVALUATION
$(REPRODUCE)/$(1)/$(2)_$(3).scores.json: $(TEST_$(2)) $(4)
	$(RUN) heads.evaluate --store $(R_STORE) --task $(firstword $(subst _, ,$(2))) --test-set $(TEST_$(2)) \
	    --out $$(basename $$(basename $$@)).jsonl $(5) $(if $(filter diffcap,$(2)),$(OF_CAPTIONS)) \
	    --rows $(or $(R_ROWS),$(R_ROWS_$(2))) $(R_EVALUATE)
ANSWERS += $(REPRODUCE)/$(1)/$(2)_$(3).scores.json
endef
$(R_WORLD)/%_test.jsonl: | $(R_STORE)/.clips ;

head = --method video-lm --head $(REPRODUCE)/seed$(1)/$(2)
control = $(call EVALUATION,seed$(1),$(2),$(3),$(REPRODUCE)/seed$(1)/stepdiff/trained,$(call head,$(1),stepdiff) --control $(3))

$(foreach s,$(TRAININGS),$(eval $(call TRAININGS_OF,$(s))))
$(foreach s,$(TRAININGS),$(foreach m,$(OURS),$(foreach t,$(SETS),$(eval \
    $(call EVALUATION,seed$(s),$(t),$(m),$(REPRODUCE)/seed$(s)/$(m)/trained,$(call head,$(s),$(m)))))))
$(foreach s,$(TRAININGS),$(foreach t,diffmcq diffrank,$(foreach c,blind shuffled,$(eval $(call control,$(s),$(t),$(c))))))
$(foreach s,$(TRAININGS),$(foreach m,align align_pairs,$(foreach t,$(filter-out diffcap,$(SETS)),$(eval \
    $(call EVALUATION,seed$(s),$(t),$(m),$(REPRODUCE)/seed$(s)/$(m)/embedded,--method vlemb --view $(m)-seed$(s))))))
# Table S2: a pair is represented by the embedding of only one of its clips.
$(foreach s,$(TRAININGS),$(foreach m,align align_pairs,$(foreach p,reference candidate,$(eval \
    $(call EVALUATION,seed$(s),diffmcq,$(m)_$(p),$(REPRODUCE)/seed$(s)/$(m)/embedded,--method vlemb --view $(m)-seed$(s) \
    --pair-embedding $(p))))))
$(eval $(call EVALUATION,all,diffrank,cosine,,--method vlemb --view efficientnet-lite0))
# Word evidence, in closed form: no seed changes it.
$(REPRODUCE)/all/words/words.json: $(R_STORE)/.clips
	$(call WORD_HEAD,$(R_WORLD),$(R_STORE),$(REPRODUCE)/all/words)
$(foreach t,$(SETS),$(eval $(call EVALUATION,all,$(t),words,$(REPRODUCE)/all/words/words.json,--method word-evidence \
    --head $(REPRODUCE)/all/words)))
# Captions that do not continue the seed of supplement S4.
$(foreach s,$(TRAININGS),$(eval $(call EVALUATION,seed$(s),diffcap,unseeded,$(REPRODUCE)/seed$(s)/stepdiff/trained,$(call head,$(s),stepdiff) --no-seeded)))
# Controls that read no features. medoid: one caption a category; reassigned: StepDiff's captions, of another row.
CHOICES := diffmcq diffmcq_V2 diffmcq_V3
$(foreach t,$(CHOICES) diffrank,$(eval $(call EVALUATION,all,$(t),step,,--method step-oracle)))
$(foreach t,$(CHOICES),$(eval $(call EVALUATION,all,$(t),rarest,,--method rarest)))
$(foreach t,$(CHOICES),$(eval $(call EVALUATION,all,$(t),most,,--method stepdiff.kitchen.controls:MostDifferences)))
# The ceiling: it knows what is true of each clip.
$(foreach t,$(CHOICES) diffrank,$(eval $(call EVALUATION,all,$(t),truth,,--method stepdiff.kitchen.controls:TrueAttributes)))
$(eval $(call EVALUATION,all,diffcap,medoid,,--method medoid --texts $(R_WORLD)/pairqa_train.jsonl))
$(foreach s,$(TRAININGS),$(eval $(call EVALUATION,seed$(s),diffcap,reassigned,$(REPRODUCE)/seed$(s)/diffcap_stepdiff.scores.json,\
    --method shuffled-captions --texts $(REPRODUCE)/seed$(s)/diffcap_stepdiff.jsonl)))

# Descriptions of clips (supplement, S1) from the narration, the caption of VCLM and those objects of Interleaved that the
# contrastive head grounds in the clip. Both models get the questions that they were trained with.
DESCRIBED := --store $(R_STORE) --allow-failed true $(if $(GENERATED),,--split test)
$(REPRODUCE)/all/described$(MODE): $(addprefix $(REPRODUCE)/seed0/,vclm/trained interleaved/trained align/embedded)
	$(RUN) stepdiff.annotate.captions $(DESCRIBED) --head $(REPRODUCE)/seed0/vclm --kind action \
	    --question "What does the person in the video say?"
	$(RUN) featurize --manifest $(R_WORLD)/clips.csv --store $(R_STORE) --encoder efficientnet-lite0 --sampling centre --statistics add \
	    --view efficientnet-centre --wait
	$(RUN) stepdiff.annotate.captions $(DESCRIBED) --head $(REPRODUCE)/seed0/interleaved --kind objects --view efficientnet-centre \
	    --question "What does the picture show?"
	$(RUN) stepdiff.annotate.ground $(DESCRIBED) --head $(REPRODUCE)/seed0/align --view align-seed0
	$(RUN) stepdiff.annotate.describe $(DESCRIBED) --llm smollm2-135m-instruct $(R_DESCRIBE)
	@mkdir -p $(@D)
	@touch $@
# Socratic (step desc.) compares the descriptions of the test clips.
$(foreach t,$(SETS),$(eval $(call EVALUATION,all,$(t),socratic,$(REPRODUCE)/all/described$(MODE),\
    --method socratic --precision auto --texts $(R_STORE)/annotations/describe/*)))

# StepDiff again, trained on questions that a language model generated from the descriptions of the training clips.
$(REPRODUCE)/generated.jsonl: $(REPRODUCE)/all/described_generated
	$(RUN) stepdiff.annotate.pairs --store $(R_STORE) --out $(REPRODUCE)/pairs.parquet --cap 12 \
	    --hold-out $(TEST_diffcap) $(TEST_diffmcq) $(TEST_diffrank)
	$(RUN) stepdiff.annotate.pairqa --store $(R_STORE) --pairs $(REPRODUCE)/pairs.parquet --out $@ \
	    --allow-failed true
ifdef GENERATED
$(foreach s,$(TRAININGS),$(eval $(REPRODUCE)/seed$(s)/generated/trained: $(REPRODUCE)/generated.jsonl))
$(foreach s,$(TRAININGS),$(eval $(call TRAINING,$(s),generated,stepdiff,interleaved,\
    $(R_WORDS) --video_lm.pairqa $(REPRODUCE)/generated.jsonl \
    $(call init,$(s),interleaved) $(call steps,120) $(R_OURS))))
$(foreach s,$(TRAININGS),$(foreach t,$(SETS),$(eval $(call EVALUATION,seed$(s),$(t),generated,\
    $(REPRODUCE)/seed$(s)/generated/trained,$(call head,$(s),generated)))))
endif

$(REPRODUCE)/report$(MODE).yaml: $(RECIPES)/report.yaml | $(R_STORE)/.clips
	sed $(if $(GENERATED),,-e /generated/d) -e 's#data/reproduce/kitchen#$(R_WORLD)#' -e 's#data/reproduce#$(REPRODUCE)#g' $< > $@

$(REPRODUCE)/report$(MODE)/report.json: $(REPRODUCE)/report$(MODE).yaml $(ANSWERS)
	$(RUN) heads.report --config $< --seeds $(SEEDS) --out $(@D)
