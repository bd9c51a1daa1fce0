#!/usr/bin/env bash
# Measures texts with and without guesses by turns, on weights of which an int4 draft is right for 80, 90 and 95 % of the
# tokens, stored as f32, bf16 and bf12. Needs 10 GB of disk for the shape of OLMo-2 1B, and the programs of
# `cargo build --release --workspace`.
#
#   scripts/bench_guesses.sh [SHAPE [FOLDER]]    olmo2-1b and target/bench-guesses
set -euo pipefail
cd "$(dirname "$0")/.."

shape=${1:-olmo2-1b}
folder=${2:-target/bench-guesses}
programs=target/release
mkdir -p "$folder"
for right in 0.8 0.9 0.95; do
	"$programs/random-weights" "$folder/weights" --shape "$shape" --dtype bf16 --predictable "$right" --force
	for kind in f32 "bf16 --encoding plain" bf12; do
		printf '\n%s\n' "$kind, a draft that is right for $right of the tokens"
		# The words of a kind are words of the command.
		# shellcheck disable=SC2086
		"$programs/olmo-pack" "$folder/weights" "$folder/model.olmo" --dtype $kind --draft int4 --force >"$folder/packed.txt"
		"$programs/olmo-bench" "$folder/model.olmo" --contexts none --prefill 6 --score none --speculate 96 --quick
		rm "$folder/model.olmo"
	done
done
rm -r "$folder/weights" "$folder/packed.txt"
