# make reproduce            VCLM, Interleaved and StepDiff trained on a rendered kitchen; the tables of all methods
# make reproduce SEEDS=3    the same for three trainings each; what stands is not done again, a killed run goes on
#
# The world is rendered with a seed of its own: no choice of a recipe has seen it. Included by the Makefile.

SEEDS ?= 1
WORLD_SEED ?= 2026
VIDEOS ?= 132
REPRODUCE ?= data/reproduce
R_WORLD ?= $(REPRODUCE)/kitchen
R_STORE ?= $(REPRODUCE)/features
# What makes a trial of it small: options of the warm start, of the three trainings, of the contrastive head, of every
# evaluation, and how many rows each has.
R_WARM ?=
R_OURS ?=
R_ALIGN ?=
R_EVALUATE ?=
R_ROWS ?=

TRAININGS := $(shell seq 0 $$(($(SEEDS) - 1)))
SETS := diffmcq diffmcq_V2 diffmcq_V3 diffrank diffcap
OURS := vclm interleaved stepdiff

.PHONY: reproduce
.SECONDARY:

reproduce: $(REPRODUCE)/report/report.json

$(R_WORLD)/world.json: | env
	$(RUN) kitchen --out $(R_WORLD) --seed $(WORLD_SEED) --videos $(VIDEOS)

$(R_STORE)/.complete: $(R_WORLD)/world.json | weights
	$(call FEATURES,$(R_WORLD),$(R_STORE))
	@touch $@

# Test sets: V1 is the world's own, V2 and V3 choose other wrong options (supplement, Table S4). Of each so many rows,
# drawn by seed, the same for all methods; all of them would take more than an hour.
R_ROWS_diffmcq := 150
R_ROWS_diffmcq_V2 := 50
R_ROWS_diffmcq_V3 := 50
R_ROWS_diffrank := 100
R_ROWS_diffcap := 50
TEST_diffmcq := $(R_WORLD)/diffmcq_test.jsonl
TEST_diffrank := $(R_WORLD)/diffrank_test.jsonl
TEST_diffcap := $(R_WORLD)/diffcap_test.jsonl
TEST_diffmcq_V2 := $(REPRODUCE)/diffmcq_V2.jsonl
TEST_diffmcq_V3 := $(REPRODUCE)/diffmcq_V3.jsonl

$(REPRODUCE)/diffmcq_%.jsonl: $(R_STORE)/.complete
	$(RUN) retrieval negatives --store $(R_STORE) --view efficientnet-lite0 --text-view mpnet-base \
	    --test-set $(R_WORLD)/diffcap_test.jsonl --variant $* --out $@

# $(1) seed, $(2) run, $(3) recipe, $(4) the run it starts from or nothing, $(5) options
define TRAINING
$(REPRODUCE)/seed$(1)/$(2)/loss.png: $(R_STORE)/.complete $(if $(4),$(REPRODUCE)/seed$(1)/$(4)/loss.png)
	$(RUN) heads.train --config $(RECIPES)/$(3).yaml --seed $(1) --store $(R_STORE) --out $$(@D) $(5)
endef
VALIDATED := --video_lm.validation.diffmcq $(R_WORLD)/diffmcq_val.jsonl --video_lm.validation.diffrank $(R_WORLD)/diffrank_val.jsonl
PAIRED := --video_lm.pairqa $(R_WORLD)/pairqa_train.jsonl
init = --video_lm.init $(REPRODUCE)/seed$(1)/$(2)

define TRAININGS_OF
$(call TRAINING,$(1),warm,warm,,$(VALIDATED) $(PAIRED) $(R_WARM))
$(call TRAINING,$(1),vclm,vclm,warm,$(VALIDATED) $(call init,$(1),warm) $(R_OURS))
$(call TRAINING,$(1),interleaved,interleaved,warm,$(VALIDATED) $(call init,$(1),warm) $(R_OURS))
$(call TRAINING,$(1),stepdiff,stepdiff_interleaved,interleaved,$(VALIDATED) $(PAIRED) $(call init,$(1),interleaved) $(R_OURS))
$(call TRAINING,$(1),align,align,,$(R_ALIGN))
$(REPRODUCE)/seed$(1)/align/embedded: $(REPRODUCE)/seed$(1)/align/loss.png
	$(RUN) heads.embed --head $$(@D) --store $(R_STORE) --view aligned-seed$(1)
	@touch $$@
endef

# $(1) folder, $(2) test set, $(3) name, $(4) what it needs, $(5) options
define EVALUATION
$(REPRODUCE)/$(1)/$(2)_$(3).scores.json: $(TEST_$(2)) $(4)
	$(RUN) heads.evaluate --store $(R_STORE) --task $(firstword $(subst _, ,$(2))) --test-set $(TEST_$(2)) \
	    --out $$(basename $$(basename $$@)).jsonl $(5) $(if $(filter diffcap,$(2)),--parse false) \
	    --rows $(or $(R_ROWS),$(R_ROWS_$(2))) $(R_EVALUATE)
ANSWERS += $(REPRODUCE)/$(1)/$(2)_$(3).scores.json
endef
$(R_WORLD)/%_test.jsonl: $(R_STORE)/.complete ;

head = --method video-lm --head $(REPRODUCE)/seed$(1)/$(2)
control = $(call EVALUATION,seed$(1),$(2),$(3),$(REPRODUCE)/seed$(1)/stepdiff/loss.png,$(call head,$(1),stepdiff) --control $(3))

$(foreach s,$(TRAININGS),$(eval $(call TRAININGS_OF,$(s))))
$(foreach s,$(TRAININGS),$(foreach m,$(OURS),$(foreach t,$(SETS),$(eval \
    $(call EVALUATION,seed$(s),$(t),$(m),$(REPRODUCE)/seed$(s)/$(m)/loss.png,$(call head,$(s),$(m)))))))
$(foreach s,$(TRAININGS),$(foreach t,diffmcq diffrank,$(foreach c,blind shuffled,$(eval $(call control,$(s),$(t),$(c))))))
$(foreach s,$(TRAININGS),$(foreach t,$(filter-out diffcap,$(SETS)),$(eval \
    $(call EVALUATION,seed$(s),$(t),aligned,$(REPRODUCE)/seed$(s)/align/embedded,--method vlemb --view aligned-seed$(s)))))
$(eval $(call EVALUATION,all,diffrank,cosine,,--method vlemb --view efficientnet-lite0))
$(eval $(call EVALUATION,all,diffrank,step,,--method step-oracle))

# Socratic (step desc.), asked as VCLM was trained: what VCLM says of the test clips and what was said in them become one description each.
NARRATION_QUESTION := What does the person in the video say?
$(REPRODUCE)/all/described: $(REPRODUCE)/seed0/vclm/loss.png
	$(RUN) annotate.captions --store $(R_STORE) --head $(REPRODUCE)/seed0/vclm --kind action --split test \
	    --question "$(NARRATION_QUESTION)"
	$(RUN) annotate.describe --store $(R_STORE) --llm smollm2-135m-instruct --objects none --split test
	@mkdir -p $(@D)
	@touch $@
$(foreach t,$(SETS),$(eval $(call EVALUATION,all,$(t),socratic,$(REPRODUCE)/all/described,\
    --method socratic --texts $(R_STORE)/annotations/describe/*)))

$(REPRODUCE)/report.yaml: $(RECIPES)/report.yaml | $(R_STORE)/.complete
	sed 's#data/reproduce#$(REPRODUCE)#g' $< > $@

$(REPRODUCE)/report/report.json: $(REPRODUCE)/report.yaml $(ANSWERS)
	$(RUN) heads.report --config $< --seeds $(SEEDS) --out $(@D)
