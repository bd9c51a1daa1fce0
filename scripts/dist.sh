#!/usr/bin/env bash
# Builds the programs so that everybody gets the same bytes, whatever the folder and the home they are built in, into
# target/dist, with their SHA-256. The same toolchain and the same Cargo.lock are what it takes: see SECURITY.md.
set -euo pipefail
cd "$(dirname "$0")/.."

# What would build another program, or for another machine.
unset CARGO_BUILD_TARGET "${!CARGO_PROFILE_RELEASE_@}"
# Named, as a configuration may have another one: it says which folder the programs are in.
host=$("${RUSTC:-rustc}" -vV | sed -n 's/^host: //p')
programs=(olmo-pack olmo-infer olmo-bench)
built=target/dist-build/$host/release
# Programs of an earlier run are never taken for those of this one.
rm -f target/dist/SHA256SUMS "${programs[@]/#/target/dist/}" "${programs[@]/#/$built/}"

root=$(pwd -P)
# Empty when it is /, in which everything is.
user=$(printf %s "$HOME" | sed 's:/*$::')
home=$(cd "${CARGO_HOME:-$user/.cargo}" && pwd -P)
flags=()
places=("$root")
if [[ $home != "$root" ]]; then
	places+=("$home")
fi
if [[ -n $user && $user != "$root" && $user != "$home" ]]; then
	flags+=("--remap-path-prefix=$user=/home")
	places+=("$user/")
fi
# Locations of panics name the folder of the sources. The last of several that fit wins.
flags+=("--remap-path-prefix=$home=/cargo" "--remap-path-prefix=$root=/olmo")
export CARGO_ENCODED_RUSTFLAGS
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}")
# A folder of its own: other flags would build everything again.
cargo build --release --locked --package olmo-pack --package olmo-infer --target "$host" --target-dir target/dist-build

mkdir -p target/dist
for program in "${programs[@]}"; do
	cp "$built/$program" target/dist/
	if printf '%s\n' "${places[@]}" | grep --quiet --text --fixed-strings --file=- "target/dist/$program"; then
		echo "$program: names a folder of this machine" >&2
		exit 1
	fi
done
cd target/dist
sha256sum "${programs[@]}" | tee SHA256SUMS
