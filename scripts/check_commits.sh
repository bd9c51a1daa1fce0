#!/usr/bin/env bash
# Checks the subject of every commit after BASE: `area: imperative`, at most 72 characters. Merges are left out.
#
#   scripts/check_commits.sh [BASE]
#
# A shallow clone without BASE has later commits only, and all of them are checked. Without a git checkout, as in a
# source archive, or in a history without BASE nothing is checked.
set -euo pipefail
cd "$(dirname "$0")/.."

# The last commit before this rule.
base=${1:-73680ed27050aa394b83243c60d26422f59a83f8}

# An area, or several: kernels, olmo-pack, runtime/os, README.
area='[A-Za-z0-9][A-Za-z0-9_./, +-]*'
# First words that show that no imperative follows. The exceptions are verbs.
not_imperative='(a|an|the|one|no|every|each|any|all|some|it|its|what|who|which|where|when|how|why|in|on|of|at|[a-z-]+(ed|ing))'
verbs='(embed|feed|need|seed|shed|speed|bring|string|ping|ring)'

if ! top=$(git rev-parse --show-toplevel 2>/dev/null) || [ ! "$top" -ef . ]; then
    echo "commit subjects: not checked, this is not a git checkout"
    exit 0
fi
if git merge-base --is-ancestor "$base" HEAD 2>/dev/null; then
    range=$base..HEAD
elif [ "$(git rev-parse --is-shallow-repository)" = true ]; then
    range=HEAD
else
    echo "commit subjects: not checked, commit $base is not in this history"
    exit 0
fi

checked=0 refused=0
for commit in $(git rev-list "$range"); do
    # The object itself has all parents of a merge, also where a shallow clone ends.
    [ "$(git cat-file commit "$commit" | sed '/^$/q' | grep -c '^parent ')" -lt 2 ] || continue
    checked=$((checked + 1))
    subject=$(git log -1 --format=%s "$commit")
    reason=
    if [ "${#subject}" -gt 72 ]; then
        reason="${#subject} characters, more than 72"
    elif ! [[ $subject =~ ^$area:\ [^\ ] ]]; then
        reason="not 'area: imperative'"
    elif [[ $subject =~ ^$area:\ $not_imperative\  ]] && ! [[ $subject =~ ^$area:\ $verbs\  ]]; then
        reason="not an imperative"
    elif [[ $subject == *. ]]; then
        reason="ends in a period"
    fi
    if [ -n "$reason" ]; then
        refused=$((refused + 1))
        echo "${commit:0:9} $subject: $reason"
    fi
done
if [ "$refused" -gt 0 ]; then
    echo "$refused of $checked commit subjects refused, see CONTRIBUTING.md"
    exit 1
fi
