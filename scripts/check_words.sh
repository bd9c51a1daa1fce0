#!/usr/bin/env bash
# Refuses words that make text hard to read or to search for, in comments, strings, function names and documents.
#
#   scripts/check_words.sh            the places, and what to write instead; exit status 1 if there is one
#   scripts/check_words.sh --count    how often each entry of the list matches
#
# Needs awk and grep. An entry of the list below is
#
#   refused ; write instead ; allowed around it
#
# `refused` and `allowed` are extended regular expressions of whole words, in lower case. What matches `allowed` is
# removed before the search; with `$` a phrase may continue on the next line. A comment above an entry gives the reason.
set -euo pipefail
cd "$(dirname "$0")/.."

list=$(cat <<'LIST'
# Pronouns without a noun. They hide which thread, function or user is meant.
whoever            ; the caller, the user, the thread that ...
(nobody|no one)    ; no user, no other thread, no caller
(somebody|someone) ; a user, another process, another thread
(everybody|everyone|anybody|anyone) ; every user, any caller
(himself|herself)  ; itself, the caller
(he|those|one|him) who ; the user who, the caller that
whatever           ; any, regardless of, every

# Things do not speak, stand, lie or wish.
# A document says what its text says. `says` is a key of the cases in tests/tokenizers.
says?              ; reports, prints, states, contains            ; `says`|[a-z-]+\.md`?( and [a-z-]+\.md`?)? says?|specification says
(tells|told|telling) ; reports, prints, is reported; distinguishes  ; told apart|tells? apart|telling apart
tell               ; report, print, distinguish                   ; tell apart|tell [a-z ]+ (apart|from)
said               ; reported, printed, stated
(stands?|stood|standing) ; is, appears, precedes                  ; standards?
(lies?|lay|lying)  ; is at, is stored in
(wants|wanting)    ; needs, expects
(speaks?|speaking) ; generates text, prints
(steers?|steered|steering) ; controls; control characters, special tokens

# Old or rare words for ordinary ones.
anew               ; again
(mend|mends|mended|mending) ; fix, repair
beside             ; next to, in addition to, with
(so|as) many       ; `n`, the requested number of                 ; as many [a-z0-9 ]+ as|(twice|half|times|exactly|just) as many|as many$
(is|are) none      ; is not a ..., is invalid, is malformed       ; there (is|are) none
(is|are|be|was) no ; is not a ...                                 ; there (is|are|be|was) no|(is|are|be|was) no (longer|more|less|larger|smaller|greater|slower|faster|further|worse|better|later|older|newer|wider|shorter|bigger|deeper|higher|lower|stricter)|no operation|no-op|(is|are|be|was) no$
by lot             ; sampled, random
for want of        ; because there is no ..., without
a look             ; a check
as (it|they) comes? ; as it is generated, as it is read
as [a-z.`_ -]* ha(s|ve) it ; as stored in ..., as ... defines it
makes? of (it|them|that|those) ; reads as, derives from
in the places? of  ; instead of, where ... is expected
(go|goes|going|went) on ; continues
but for            ; except
of (ours|theirs|yours) ; our own, its own

# The operating system, memory and disks.
the system (gives?|does not give|gave|refuses?|refused|has|did|does) ; the OS returns an error; out of memory, the allocation fails
calls? of the system ; system call
(bring|brings|brought|bringing) [a-z ]*to the disk ; fsync, durable
line of error      ; error line, error message
strangers?         ; untrusted sources

# The field's own terms.
# bf12 has coded and raw steps; a path can be hard-coded; CHANGELOG.md names the old name.
coded              ; bf12                                         ; hard-coded|`coded`|coded (steps?|and raw| *[0-9])|coded$|raw and coded
(drawn|draws)      ; sampled                                      ; (charts?|lines?|bars?|axis|axes|labels?|legends?) (is|are|be|was) drawn
(ends?|ended) a text ; stop tokens, EOS ids
LIST
)

# The documents, sources, scripts and tests; not data, and not this list.
files() {
    {
        if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
            git ls-files --cached --others --exclude-standard
        else
            find . -type f -not -path './target/*' -not -path './.venv*' | sed 's|^\./||'
        fi
    } | grep -E '\.(rs|md|sh|py|toml|yml)$|(^|/)Makefile$|^\.ci/run$' |
        grep -vE '^(target|demo|shared|fuzz/(corpus|target)|tests/(golden|regress|tokenizers))/|^scripts/check_words\.sh$'
}

files | tr '\n' '\0' | COUNT="${1:-}" LIST="$list" xargs -0 awk '
    function words(pattern) { return "(^|[^a-z0-9_])(" pattern ")($|[^a-z0-9_])" }
    function trim(text) { gsub(/^ +| +$/, "", text); return text }

    BEGIN {
        total = split(ENVIRON["LIST"], lines, "\n")
        for (at = 1; at <= total; at++) {
            if (lines[at] ~ /^ *(#|$)/) continue
            split(lines[at] " ; ; ", part, ";")
            name[++n] = trim(part[1]); pattern[n] = words(name[n]); instead[n] = trim(part[2]); allowed[n] = trim(part[3])
            any = any (n > 1 ? "|" : "") name[n]
        }
        any = words(any)
    }

    FNR == 1 { tail = ""; in_string = 0; in_text = "" }

    # What is between double quotes in a line of code, and the comment behind `mark`.
    function strings_and_comment(line, mark,    text, pieces, piece_of, at) {
        text = ""
        gsub(/\\\\/, "", line); gsub(/\\"/, " ", line); gsub(/\047"\047/, "", line)
        pieces = split(line, piece_of, "\"")
        for (at = 1; at <= pieces; at++) {
            # A string of one word is a key or a name.
            if (in_string) { if (piece_of[at] ~ / /) text = text " . " piece_of[at] }
            else if (match(piece_of[at], mark)) return text " . " substr(piece_of[at], RSTART)
            if (at < pieces) in_string = !in_string
        }
        return text
    }

    # The prose of a line of Rust: its comment, its strings, and the words of a function that it defines.
    function prose_of_rust(line,    name_of) {
        if (line ~ /^[ \t]*\/\//) { in_string = 0; return line }
        name_of = ""
        if (match(line, /(^|[^a-z_])fn [a-z0-9_]+/)) {
            name_of = substr(line, RSTART, RLENGTH); gsub(/_/, " ", name_of); sub(/^.*fn /, "", name_of)
            name_of = " " name_of " ."
        }
        return name_of strings_and_comment(line, "(^|[^:])// .*")
    }

    # The prose of a line of Python: docstrings, comments and strings in double quotes. Other long strings are data.
    function prose_of_python(line,    begins) {
        if (in_text != "") {
            begins = in_text
            if (line ~ /"""/) in_text = ""
            return begins == "docstring" ? line : ""
        }
        if (line ~ /""".*"""/) return line
        if (line ~ /"""/) { in_text = line ~ /^[ \t]*"""/ ? "docstring" : "data"; return in_text == "data" ? "" : line }
        if (line ~ /^[ \t]*#/) return line
        in_string = 0
        return strings_and_comment(line, "(^|[^&])# .*")
    }

    {
        line = FILENAME ~ /\.rs$/ ? prose_of_rust($0) : FILENAME ~ /\.py$/ ? prose_of_python($0) : $0
        # Names in format strings are code, and so is None.
        gsub(/(is|are) None/, "", line)
        gsub(/\{[a-z_]*(:[^}]*)?\}/, "X", line)
        line = tolower(line)
        gsub(/^[ \t]*(\/\/[\/!]?|#+|>)?[ \t]*/, "", line)
        joined = tail " " line
        if (joined ~ any) {
            for (at = 1; at <= n; at++) {
                if (joined !~ pattern[at]) continue
                now = line; both = joined; before = tail
                if (allowed[at] != "") { gsub(allowed[at], "", now); gsub(allowed[at], "", both); gsub(allowed[at], "", before) }
                # A phrase may begin on the line before. What was on that line alone has been counted.
                if (now ~ pattern[at] || (both ~ pattern[at] && before !~ pattern[at])) {
                    counts[at]++; found++
                    if (ENVIRON["COUNT"] != "--count") printf "%s:%d: %s: write: %s\n", FILENAME, FNR, name[at], instead[at]
                }
            }
        }
        pieces = split(line, piece_of, /[ \t]+/)
        tail = ""
        for (at = pieces > 3 ? pieces - 2 : 1; at <= pieces; at++) tail = tail " " piece_of[at]
    }

    END {
        if (ENVIRON["COUNT"] == "--count") for (at = 1; at <= n; at++) printf "%6d  %s\n", counts[at], name[at]
        if (found) { printf "%d refused words or phrases, see scripts/check_words.sh\n", found; exit 1 }
    }
' || exit 1
