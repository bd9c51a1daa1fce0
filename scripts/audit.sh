#!/usr/bin/env bash
# Checks that need more than the toolchain. The times were measured on two cores.
#
# scripts/audit.sh deny: bans, licences and sources of all dependencies, by deny.toml; without a network, in seconds.
# Needs cargo-deny (cargo install --locked cargo-deny).
#
# scripts/audit.sh coverage: which lines of parsers and writer the tests run, into target/audit/coverage. Needs
# cargo-tarpaulin (cargo install --locked cargo-tarpaulin).
#
# scripts/audit.sh mutants [FILE...] [-- ARGUMENT...]: changes the validators and the writer, or these files of them,
# one place at a time, and reports the changes that no test notices into target/audit/mutants; 15 minutes for 19 of one
# file, hours for all files. The arguments are those of cargo test and select other tests. Needs cargo-mutants (cargo
# install --locked cargo-mutants), and as root unshare and mount.
#
# scripts/audit.sh sanitizer: tests of all code that reads files or is unsafe, under AddressSanitizer. Needs x86-64
# Linux with glibc; the stable toolchain contains the sanitizer, and RUSTC_BOOTSTRAP enables it.
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=target/audit
READER=(runtime/src/{file/{index,reader,bf12_tables},format/{layout,config},text/token_file}.rs)
PACKER=(converter/src/{folder/{npy/header,safetensors/{header,index}},json/strict,write/{model_output,pipeline}}.rs)
# Tests: program::module.
READER_TESTS=(catalogue::{model_files,tokens} documents::spec_tables formats::{bf12_tables,limits,properties})
PACKER_TESTS=(catalogue::{folders,safetensors} durability::{disk_faults,pack_output,power_cuts}
    formats::{header_properties,npy_differential,safetensors_parsers})
MORE_PARSERS=(runtime/src/{format/{encodings/bf12/mod,sizes,config_block},text/{chat,tokenizer,vocabulary},file/model_file}.rs
    converter/src/{model/{config_json,generation_config},folder/{npy/mod,safetensors/mod},commands/sources,text/{tokenizer_json,tokenizer_section,vocab}}.rs
    converter/src/commands/{unpack,copy}.rs)
COVERAGE_TESTS=(catalogue::{environment,text} command_line::pack durability::{changed_models,opening}
    formats::{fuzz_corpora,reader_exhaustive,text_sections,verify} inference::load
    packing::{bf12,config_json,copy,inspect,safetensors,shapes,unpack,values,verify_against} text::{text_cli,tokenizer})
# Here the programs may not write their coverage file, and report it.
NOT_COVERED=(error_names_the_final_file e6_file_size_limit_is_one_line e7_refuses_forbidden_outputs
    t8_reports_unreadable_file w23_reports_unreadable_files_and_folders)
SANITIZER_TESTS=(formats::{fuzz_corpora,properties,reader_exhaustive,verify}
    inference::{batch_bits,golden,known_answers,load,not_finite,same_bits,score} library::sessions
    packing::{bf12,safetensors,unpack,values} text::text_cli)
# These leave a program less memory than the sanitizer needs.
NOT_SANITIZED=(out_of_memory_is_one_line refuses_long_texts_with_little_memory)

fail() {
    echo "audit: $1" >&2
    exit 1
}

# Fails unless cargo has the subcommand.
needs() {
    command -v "cargo-$1" >/dev/null || fail "cargo-$1 is missing; cargo install --locked cargo-$1"
}

# The option --test before the program of each name, once.
programs() {
    printf '%s\n' "${@%%::*}" | sort -u | sed 's/^/--test\n/'
}

# What the tests of the modules have in their names, and all unit tests.
filters() {
    printf '%s::\n' tests "${@#*::}"
}

deny() {
    needs deny
    cargo deny --offline check bans licenses sources
}

coverage() {
    needs tarpaulin
    local file chosen filters files=() all=("${READER_TESTS[@]}" "${PACKER_TESTS[@]}" "${COVERAGE_TESTS[@]}")
    mapfile -t chosen < <(programs "${all[@]}")
    mapfile -t filters < <(filters "${all[@]}")
    for file in "${READER[@]}" "${PACKER[@]}" "${MORE_PARSERS[@]}"; do files+=(--include-files "$file"); done
    mkdir -p "$OUT/coverage"
    # --objects names the programs, which are built first: otherwise lines that only they run do not count.
    local build=(--engine llvm --workspace --skip-clean --target-dir "$OUT/coverage/build" --lib --bins "${chosen[@]}")
    cargo tarpaulin --no-run "${build[@]}"
    cargo tarpaulin "${build[@]}" --follow-exec --no-fail-fast --timeout 900 --out Stdout --out Html \
        --output-dir "$OUT/coverage" "${files[@]}" --objects "$PWD/$OUT/coverage/build/debug/tested-olmo-"{pack,infer} \
        -- "${filters[@]}" "${NOT_COVERED[@]/#/--skip=}"
}

mutants() {
    needs mutants
    local file files=()
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        files+=("$1")
        shift
    done
    [ "${1:-}" = -- ] && shift
    local reader=() packer=()
    for file in "${files[@]}"; do
        case $file in
            runtime/*) reader+=("$file") ;;
            converter/*) packer+=("$file") ;;
            *) fail "$file: not a file of runtime or converter" ;;
        esac
    done
    [ ${#files[@]} = 0 ] && reader=("${READER[@]}") packer=("${PACKER[@]}")
    local chosen status=0
    if [ ${#reader[@]} != 0 ]; then
        mapfile -t chosen < <(programs "${READER_TESTS[@]}" && echo -- && filters "${READER_TESTS[@]}")
        [ $# != 0 ] && chosen=("$@")
        mutate olmo-infer "$OUT/mutants/runtime" "${reader[@]}" -- --lib "${chosen[@]}" || status=$?
    fi
    if [ ${#packer[@]} != 0 ]; then
        mapfile -t chosen < <(programs "${PACKER_TESTS[@]}" && echo -- && filters "${PACKER_TESTS[@]}")
        [ $# != 0 ] && chosen=("$@")
        mutate olmo-pack "$OUT/mutants/converter" "${packer[@]}" -- --lib "${chosen[@]}" || status=$?
    fi
    return $status
}

# Runs mutants of some files of a package: PACKAGE FOLDER FILE... -- ARGUMENT...
mutate() {
    local package=$1 folder=$2 files=()
    shift 2
    while [ "$1" != -- ]; do
        files+=(--file "$1")
        shift
    done
    guarded true || fail "as root, mutants run only where unshare --mount can guard /dev; run them as another user"
    mkdir -p "$folder"
    # The baseline of cargo-mutants runs the tests of the package alone, which has no tests of these names.
    guarded cargo test -p "$package" -p olmo-tests "${@:2}" || fail "the tests fail without a mutant"
    guarded cargo mutants --workspace "${files[@]}" --baseline skip --timeout 900 --build-timeout 1800 \
        --test-package "$package" --test-package olmo-tests --output "$folder" "$@"
}

# Runs a command. A mutant of the file writer does not check what it replaces: as root, one has replaced /dev/null by
# a file. Root therefore runs it in a mount namespace of its own, where each device is a mount point and cannot be
# replaced.
guarded() {
    if [ "$EUID" != 0 ]; then
        "$@"
        return
    fi
    # shellcheck disable=SC2016
    unshare --mount --propagation private bash -euc '
        for device in null zero full random urandom tty; do
            [ ! -e "/dev/$device" ] || mount --bind "/dev/$device" "/dev/$device"
        done
        exec "$@"' bash "$@"
}

sanitizer() {
    local host chosen
    host=$(rustc -vV | sed -n 's/^host: //p')
    [ "$host" = x86_64-unknown-linux-gnu ] || fail "the sanitizer runs on x86_64-unknown-linux-gnu, this is $host"
    mapfile -t chosen < <(programs "${SANITIZER_TESTS[@]}" && echo -- && filters "${SANITIZER_TESTS[@]}")
    # Memory that is not freed at the end is not an error here, and detecting it needs rights that containers lack.
    # With --target, build scripts and macros are built without the sanitizer.
    export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=0
    cargo test --target "$host" -p olmo-infer --lib
    cargo test --target "$host" -p olmo-tests --no-fail-fast "${chosen[@]}" "${NOT_SANITIZED[@]/#/--skip=}"
}

case ${1:-} in
    deny | coverage | mutants | sanitizer) "$@" ;;
    *) fail "deny, coverage, mutants or sanitizer?" ;;
esac
