#!/usr/bin/env bash
# Runs fuzz targets and keeps the figures: scripts/fuzz.sh [--swift] TARGET=LIMIT...
#
# LIMIT is a number of seconds (600s) or of executions (10000000). Every run adds a row to fuzz/FIGURES.md and updates
# its totals. Inputs with new coverage are collected in target/fuzz/corpus. A finding goes to tests/regress/TARGET,
# where plain tests run it from then on, and makes the exit status 1.
#
# TIMEOUT=20 in the environment allows an input 20 seconds instead of one, for machines with other load.
#
# --swift builds without the tracing of comparisons: several times the executions, useful once the inputs that the
# tracing finds have been collected.
#
# scripts/fuzz.sh --minimise: replaces fuzz/corpus by the smallest selection of the collected inputs.
set -euo pipefail
cd "$(dirname "$0")/.."

HOST=$(rustc -vV | sed -n 's/^host: //p')
FOLDER=target/fuzz
BUILD=()
if [ "${1:-}" = --swift ]; then
    FOLDER=target/fuzz-swift
    BUILD=(--no-trace-compares)
    shift
fi
PROGRAMS=$FOLDER/$HOST/release
FIGURES=fuzz/FIGURES.md
# Longest input of each target, in bytes: the longest header of numpy, the header of a few tensors, some kilobytes of
# text, a header page with an index, 32 edits, 32 edits with a prompt, a tokenizer, a template.
declare -A LONGEST=(
    [npy_header]=512 [safetensors_header]=1024 [config_json]=4096 [vocab_txt]=1024 [index_raw]=8192
    [gguf_header]=2048 [shard_index]=2048 [index_repaired]=353 [tokens]=256 [forward]=358 [tokenizer_json]=8192 [tokenizer_section]=12288
    [chat_template]=2048
)

build() {
    # Without a sanitizer, for stable Rust; with overflow checks and debug assertions.
    cargo fuzz build --sanitizer none --release --debug-assertions --target-dir "$FOLDER" "${BUILD[@]}"
}

# A statistic of libFuzzer: NAME in the log FILE.
statistic() {
    sed -n "s/^stat::$1: *//p" "$2" | tail -1
}

run() {
    local target=${1%%=*} limit=${1#*=}
    local collected=target/fuzz/corpus/$target regress=tests/regress/$target log=target/fuzz/$target.log
    mkdir -p "$collected" "$regress" "fuzz/corpus/$target"
    local options=(-timeout="${TIMEOUT:-1}" -rss_limit_mb=256 -max_len="${LONGEST[$target]}" -print_final_stats=1
        -artifact_prefix="$regress/")
    [ -e "fuzz/dictionaries/$target.dict" ] && options+=(-dict="fuzz/dictionaries/$target.dict")
    case $limit in
        *s) options+=(-max_total_time="${limit%s}") ;;
        *) options+=(-runs="$limit") ;;
    esac
    local begun=$SECONDS findings=0 status=0
    "$PROGRAMS/$target" "${options[@]}" "$collected" "fuzz/corpus/$target" "$regress" >"$log" 2>&1 || status=$?
    # 70: too slow by wall time, 72: interrupted.
    case $status in
        0 | 72) ;;
        70) echo "$target: ended early, an input was slow by wall time" >&2 ;;
        *) findings=1 ;;
    esac
    if keep_hangs "$target"; then findings=1; fi
    local edges
    edges=$(grep -o 'cov: [0-9]*' "$log" | tail -1 | cut -d' ' -f2)
    row "$target" "$(statistic number_of_executed_units "$log")" $((SECONDS - begun)) "$edges" \
        "$(statistic peak_rss_mb "$log")" "$findings"
    if [ "$findings" != 0 ]; then
        echo "$target: a finding, see $log and $regress" >&2
        return 1
    fi
}

# Whether an input takes a second of CPU time, or a minute of wall time as one that waits forever: within a second,
# other programs may have used the CPU. Other slow inputs are not findings and are removed.
keep_hangs() {
    local input seconds status kept=1 TIMEFORMAT='%U %S'
    for input in tests/regress/"$1"/{timeout,slow-unit}-*; do
        [ -e "$input" ] || continue
        status=0
        seconds=$({ time "$PROGRAMS/$1" -timeout=60 "$input" >/dev/null 2>&1; } 2>&1) || status=$?
        # 70 is the status of libFuzzer after its timeout; any other failure is a finding as well.
        if [ "$status" != 0 ] ||
            awk -v seconds="$seconds" 'BEGIN { split(seconds, of, " "); exit !(of[1] + of[2] >= 1) }'; then
            kept=0
        else
            rm "$input"
        fi
    done
    return $kept
}

row() {
    echo "| $(date -u +%Y-%m-%d) | $REVISION | $1 | ${2:-0} | $3 | ${4:-0} | ${5:-0} | $6 |" >>"$FIGURES"
    totals
}

# Computes the table of totals from the rows of all runs.
totals() {
    awk -F' *[|] *' '
        BEGIN {
            split("npy_header safetensors_header gguf_header shard_index index_raw index_repaired config_json vocab_txt " \
                "tokenizer_json tokenizer_section tokens forward", order, " ")
            split("1e8 1e7 1e7 1e8 1e7 1e7 1e7 1e7 1e7 1e7 1e6", wanted, " ")
        }
        /^## Totals/ { skip = 1 }
        /^## Runs/ { skip = 0 }
        !skip { lines[++n] = $0 }
        /^[|] 20/ { runs[$4] += $5; seconds[$4] += $6; if ($8 > peak[$4]) peak[$4] = $8; found[$4] += $9 }
        END {
            for (i = 1; i <= n; i++) {
                if (lines[i] ~ /^## Runs/) {
                    print "## Totals\n"
                    print "| target | executions | wanted | seconds | peak MiB | findings |"
                    print "|---|---:|---:|---:|---:|---:|"
                    for (t = 1; t in order; t++) {
                        name = order[t]
                        printf "| %s | %.0f | %.0f | %d | %d | %d |\n", name, runs[name], wanted[t], seconds[name],
                            peak[name], found[name]
                    }
                    print ""
                }
                print lines[i]
            }
        }' "$FIGURES" >"$FIGURES.new"
    mv "$FIGURES.new" "$FIGURES"
}

minimise() {
    local target
    for target in "${!LONGEST[@]}"; do
        local new=target/fuzz/minimised/$target
        rm -rf "$new"
        mkdir -p "$new" "target/fuzz/corpus/$target" "fuzz/corpus/$target"
        "$PROGRAMS/$target" -set_cover_merge=1 -max_len="${LONGEST[$target]}" "$new" "fuzz/corpus/$target" \
            "target/fuzz/corpus/$target" >"target/fuzz/$target.merge.log" 2>&1
        rm -rf "fuzz/corpus/$target"
        cp -r "$new" "fuzz/corpus/$target"
        echo "$target: $(find "$new" -type f | wc -l) inputs, $(du -sb "$new" | cut -f1) bytes"
    done
}

# The table and new inputs do not count as changes of the program.
REVISION=$(git rev-parse --short HEAD)
git diff --quiet HEAD -- . ':!fuzz/FIGURES.md' ':!fuzz/corpus' ':!tests/regress' || REVISION+=-changed
build
if [ "${1:-}" = --minimise ]; then
    minimise
    exit
fi
status=0
for wanted in "$@"; do
    run "$wanted" || status=1
done
exit $status
