# What there is to do with a checkout. Needs the Rust toolchain and make, nothing else.

DEMO := target/demo

.PHONY: demo test check bench venv

## Packs the demo weights and lets the model speak.
demo:
	cargo build --release
	@mkdir -p $(DEMO)
	@echo
	target/release/olmo-pack demo/weights $(DEMO)/demo.olmo --force
	@echo
	@echo 'The prompt is "Four score and seven"; the model goes on:'
	@echo
	@target/release/olmo-infer $(DEMO)/demo.olmo demo/prompt.tokens.bin --text --max-tokens 2000 --timing

## All tests.
test:
	cargo test --workspace

## Formatting, lints and documentation, all without a warning.
check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps

## Generates a random 1B model and measures start-up, prefill and decode. Needs 18 GB of disk.
bench:
	cargo build --release --workspace
	target/release/bench

## The Python environment of scripts/read_olmo.py, which one test runs.
venv:
	python3 -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check numpy==2.2.6 xxhash==3.5.0
