#!/usr/bin/env bash
# Builds the programs reproducibly into target/dist, with their SHA-256: the same toolchain and the same Cargo.lock give
# the same bytes in any folder and under any home. See SECURITY.md.
set -euo pipefail
cd "$(dirname "$0")/.."

# These would change the programs or the target.
unset CARGO_BUILD_TARGET "${!CARGO_PROFILE_RELEASE_@}"
# The target is explicit, because a configuration may name another one, and it names the folder of the programs.
host=$("${RUSTC:-rustc}" -vV | sed -n 's/^host: //p')
programs=(olmo-pack olmo-infer olmo-bench)
built=target/dist-build/$host/release
# Programs of an earlier run must not pass as those of this one.
rm -f target/dist/SHA256SUMS "${programs[@]/#/target/dist/}" "${programs[@]/#/$built/}"

root=$(pwd -P)
# Empty if it is /, the prefix of every path.
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
# Locations of panics name the folder of the sources. The last matching prefix wins.
flags+=("--remap-path-prefix=$home=/cargo" "--remap-path-prefix=$root=/olmo")
export CARGO_ENCODED_RUSTFLAGS
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}")
# A separate target folder: a change of flags rebuilds all crates.
cargo build --release --locked --package olmo-pack --package olmo-infer --target "$host" --target-dir target/dist-build

mkdir -p target/dist
for program in "${programs[@]}"; do
	cp "$built/$program" target/dist/
	if printf '%s\n' "${places[@]}" | grep --quiet --text --fixed-strings --file=- "target/dist/$program"; then
		echo "$program: names a folder of this machine" >&2
		exit 1
	fi
	# The caller of such a function was compiled without its instruction set, and calls it for every instruction.
	if nm --demangle "target/dist/$program" | grep --extended-regexp ' core::core_arch::x86::[a-z0-9_]+::_mm'; then
		echo "$program: these are functions, not instructions" >&2
		exit 1
	fi
done
cd target/dist
sha256sum "${programs[@]}" | tee SHA256SUMS
