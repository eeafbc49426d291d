# make install | test | test-slow | lint | docs | docs-serve | demo | emoji | bench | bench-full
# PYTHON=python3.12 make install picks the interpreter
PYTHON ?= python3
BIN := .venv/bin
GPU := $(findstring GPU 0,$(shell nvidia-smi -L 2>/dev/null))
STAMP := .venv/installed

.PHONY: install test test-slow lint docs docs-serve demo emoji bench bench-full

install: $(STAMP)

$(STAMP): pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[test]'
	touch $@

# Two processes of one thread each; where there are more cores: make test PROCESSES=4
PROCESSES ?= 2
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile

test-slow: install
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Into site/; index.html opens without a server, but for the search.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

docs-serve: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr 127.0.0.1:8000

# Each step goes on where it was interrupted.
demo: install
	$(BIN)/unifluid fit --config experiments/demo_autoencoder.yaml
	$(BIN)/unifluid fit --config experiments/demo.yaml $(if $(GPU),--config experiments/demo_gpu.yaml)
	$(BIN)/unifluid report runs/demo --title "The default run" --out runs/demo/report.html
	@echo "runs/demo holds config.yaml, last.ckpt, scores.json, samples.png, results and TensorBoard logs."
	@echo "Open runs/demo/report.html in a browser to see them all."

emoji: install
	test -f data/emoji/extra.jsonl || $(BIN)/unifluid data emoji --out data/emoji $(if $(GPU),--size 64)
	$(BIN)/unifluid fit --config experiments/emoji_autoencoder.yaml \
		$(if $(GPU),--config experiments/emoji_autoencoder_gpu.yaml)
	$(BIN)/unifluid fit --config experiments/emoji_features.yaml
	$(BIN)/unifluid fit --config experiments/emoji_features.yaml --config experiments/emoji_encoder.yaml \
		$(if $(GPU),--config experiments/emoji_encoder_gpu.yaml)
	$(BIN)/unifluid fit --config experiments/emoji.yaml $(if $(GPU),--config experiments/emoji_gpu.yaml)
	grep -qs emoji/concept runs/emoji/scores.json || $(BIN)/unifluid test runs/emoji
	$(BIN)/unifluid report runs/emoji --title "Emoji" --out runs/emoji/report.html
	@echo "runs/emoji holds config.yaml, last.ckpt, scores.json, samples.png, results and TensorBoard logs."
	@echo "Open runs/emoji/report.html in a browser to see them all."

# Speed beside plain references: a quarter of an hour on two cores. Results go to benchmarks/results, whole or not.
BENCHMARKS := head decode text train scaling startup data
REPEATS ?= 5

bench: install
	for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name --repeats $(REPEATS) || exit 1; done

# Whole pictures of 256 tokens, batch 1 and 16: hours on a CPU; make bench-full REPEATS=1 for a first look.
bench-full: install
	$(BIN)/python -m benchmarks.decode --full --repeats $(REPEATS)
