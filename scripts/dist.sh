#!/usr/bin/env bash
# Builds the programs so that everybody gets the same bytes, whatever the folder and the home they are built in, into
# target/dist, with their SHA-256. The same toolchain and the same Cargo.lock are what it takes: see SECURITY.md.
set -euo pipefail
cd "$(dirname "$0")/.."

root=$(pwd -P)
home=$(cd "${CARGO_HOME:-$HOME/.cargo}" && pwd -P)
# Locations of panics name the folder of the sources. The last of several that fit wins.
flags=(
	"--remap-path-prefix=$HOME=/home"
	"--remap-path-prefix=$home=/cargo"
	"--remap-path-prefix=$root=/olmo"
)
export CARGO_ENCODED_RUSTFLAGS
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}")
# A folder of its own: other flags would build everything again.
cargo build --release --locked --package olmo-pack --package olmo-infer --target-dir target/dist-build

mkdir -p target/dist
programs=(olmo-pack olmo-infer olmo-bench)
for program in "${programs[@]}"; do
	cp "target/dist-build/release/$program" target/dist/
	if grep --quiet --text --fixed-strings -e "$root" -e "$home" -e "$HOME/" "target/dist/$program"; then
		echo "$program: names a folder of this machine" >&2
		exit 1
	fi
done
cd target/dist
sha256sum "${programs[@]}" | tee SHA256SUMS
