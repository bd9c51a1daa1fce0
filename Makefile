# The targets need the Rust toolchain and make, with these exceptions: venv, python, test-python and bench-peers need
# python3 with its venv module and a network for pip, bench-peers also a C and a C++ compiler to build llama.cpp (pip
# installs a missing cmake), fuzz needs cargo-fuzz and a C++ compiler, audit the tools that scripts/audit.sh names.

DEMO := target/demo

# How bench-peers builds llama.cpp: for this machine, with all optimisations. It is always built from source, because
# wheels and cached builds of pip are for other machines.
LLAMA_CPP := -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON

# Targets of `make fuzz` with their seconds, 55 minutes in total.
FUZZ := npy_header=300s safetensors_header=200s gguf_header=250s shard_index=100s index_raw=350s index_repaired=400s config_json=300s \
	vocab_txt=300s tokens=50s forward=350s tokenizer_json=250s tokenizer_section=250s chat_template=300s

.PHONY: demo quick test check audit bench bench-guesses bench-peers torture fuzz venv python test-python

## Packs the demo weights and generates text.
demo:
	cargo build --release
	@mkdir -p $(DEMO)
	@echo
	target/release/olmo-pack demo/weights $(DEMO)/demo.olmo --force
	@echo
	@echo '$$ olmo-infer demo.olmo --prompt "Four score and seven"'
	@echo
	@target/release/olmo-infer $(DEMO)/demo.olmo --prompt "Four score and seven" --max-tokens 2000 --timing

## What an edit of a kernel is most likely to break, in less than a minute: formatting, the format, the rooms, kernels and
## threads, and the demo model from its weights to its last word.
quick:
	cargo fmt --all --check
	cargo test --workspace --lib --test documents --test inference -- \
		kernels:: parallel:: format:: file:: encode:: spec_ rooms:: unsafe_files:: demo::

## All tests.
test:
	cargo test --workspace

## Words and commit subjects, then formatting, lints and documentation, all without a warning.
check:
	scripts/check_words.sh
	scripts/check_commits.sh
	cargo fmt --all --check
	cargo fmt --manifest-path tests/dependent/Cargo.toml --check
	cargo fmt --manifest-path python/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo check --package olmo-infer --lib --no-default-features --features compute,text
	cargo check --package olmo-pack
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps

## Checks that need more tools than the toolchain, see scripts/audit.sh. The mutants of all files take hours and are not
## included: run scripts/audit.sh mutants.
audit:
	scripts/audit.sh deny
	scripts/audit.sh coverage
	scripts/audit.sh sanitizer

## Generates a random 1B model and measures start-up, prefill and decode. Needs 18 GB of disk.
bench:
	cargo build --release --workspace
	target/release/bench

## Measures texts with and without guesses, on models of that size whose drafts are right at known rates.
bench-guesses:
	cargo build --release --workspace
	scripts/bench_guesses.sh

## Measures the same model with llama.cpp and transformers, and adds them to the report of bench. The first run builds
## them, which takes minutes and another 8 GB of disk.
bench-peers: .venv-peers/installed
	cargo build --release --workspace
	target/release/bench --peers .venv-peers

.venv-peers/installed: scripts/peers/requirements.txt
	python3 -m venv .venv-peers
	CMAKE_ARGS='$(LLAMA_CPP)' .venv-peers/bin/pip install --quiet --disable-pip-version-check --no-cache-dir \
		--no-binary llama-cpp-python --requirement $<
	touch $@

## The tests that take too long for `make test`; prints a table of their figures.
torture:
	cargo build --workspace
	cargo build --release --workspace
	cargo test --release --workspace --test barrier_model -- --ignored
	target/release/torture

## Fuzzes everything that reads bytes from outside, for an hour at most, and adds to fuzz/FIGURES.md.
## Needs cargo-fuzz: cargo install cargo-fuzz.
fuzz:
	scripts/fuzz.sh $(FUZZ)

## The Python environment of scripts/read_olmo.py and scripts/npy_differential.py, which tests run.
venv:
	python3 -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check numpy==2.2.6 xxhash==3.5.0

# How `make python` builds: the wheel of a release takes several times as long. `make python PYTHON_PROFILE=release`
# builds that.
PYTHON_PROFILE := dev

## Builds the Python package as a wheel, and installs it in .venv-python with what its tests need.
python: .venv-python/installed
	rm -rf target/wheels
	.venv-python/bin/maturin build --quiet --manifest-path python/Cargo.toml --profile $(PYTHON_PROFILE) \
		--target-dir target --out target/wheels
	.venv-python/bin/pip install --quiet --disable-pip-version-check --force-reinstall --no-deps target/wheels/*.whl

.venv-python/installed: python/requirements-test.txt
	python3 -m venv .venv-python
	.venv-python/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

## The tests of the Python package, and its lints. The programs are those that `make test` builds: with the features of
## other packages, they would be compiled again.
test-python: python
	cargo clippy --manifest-path python/Cargo.toml --target-dir target --locked -- -D warnings
	cargo test --quiet --workspace --no-run --test documents
	.venv-python/bin/pytest --quiet python/tests
