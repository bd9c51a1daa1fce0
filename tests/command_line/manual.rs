//! `--man` and `--completions`: manual pages that roff takes without a warning, and completions that the shells take.

use olmo_tests::{TempDir, finish, run, skipped};
use std::fs;
use std::process::{Command, Stdio};

const PROGRAMS: [(&str, &str); 3] = [
    ("olmo-pack", env!("CARGO_BIN_EXE_tested-olmo-pack")),
    ("olmo-infer", env!("CARGO_BIN_EXE_tested-olmo-infer")),
    ("olmo-bench", env!("CARGO_BIN_EXE_tested-olmo-bench")),
];

/// Whether a tool is installed; reports what was not tested without it.
fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").stdin(Stdio::null()).output().is_ok_and(|out| out.status.success());
    if !found {
        skipped(format_args!("manuals and completions were not tested with {tool}, which is not installed"));
    }
    found
}

#[test]
fn man_pages_name_every_option() {
    for (name, program) in PROGRAMS {
        let page = run(program, ["--man"]).ok().replace("\\-", "-");
        assert!(page.starts_with(".TH \"OLMO-"), "{page}");
        let help = run(program, ["--help"]).ok().to_string();
        let words = help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        let flags: Vec<&str> = words.filter(|word| word.starts_with("--") && word.len() > 2).collect();
        assert!(flags.len() > 5);
        for flag in flags {
            assert!(page.contains(&format!("\\fB{flag}\\fR")), "{name} {flag}");
        }
    }
    let page = run(PROGRAMS[0].1, ["--man"]).ok().to_string();
    for command in ["inspect", "verify", "diff", "copy", "unpack"] {
        assert!(page.contains(&format!(".SS \"olmo\\-pack {command}\"")), "{page}");
    }
    let page = run(PROGRAMS[1].1, ["--man"]).ok().to_string();
    for command in ["chat", "score", "tokenize", "detokenize"] {
        assert!(page.contains(&format!(".SS \"olmo\\-infer {command}\"")), "{page}");
    }
}

#[test]
fn man_pages_are_roff_without_warnings() {
    if !has("groff") {
        return;
    }
    let folder = TempDir::new("manual-pages");
    for (name, program) in PROGRAMS {
        let page = folder.join(format!("{name}.1"));
        fs::write(&page, run(program, ["--man"]).ok()).expect("written");
        let shown = finish(Command::new("groff").args(["-man", "-Tutf8", "-ww", "-z"]).arg(&page));
        assert_eq!((shown.code, shown.stderr.as_str()), (Some(0), ""), "{name}");
    }
}

#[test]
fn shells_accept_their_completions() {
    let folder = TempDir::new("completions");
    for shell in ["bash", "zsh", "fish"] {
        let scripts = PROGRAMS.map(|(name, program)| {
            let script = folder.join(format!("{name}.{shell}"));
            fs::write(&script, run(program, ["--completions", shell]).ok()).expect("written");
            script
        });
        if has(shell) {
            for script in scripts {
                let checked = finish(Command::new(shell).arg("-n").arg(&script));
                assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "{}", script.display());
            }
        }
    }
}

#[test]
fn bash_and_fish_complete_commands_and_options() {
    let folder = TempDir::new("completed");
    for (shell, ask) in [
        (
            "bash",
            "words=($LINE); COMP_WORDS=(\"${words[@]}\"); COMP_CWORD=$((${#words[@]} - 1)); _olmo-pack; \
                  printf '%s\\n' \"${COMPREPLY[@]}\"",
        ),
        ("fish", "complete -C \"$LINE\" | string replace -r '\\t.*' ''"),
    ] {
        if !has(shell) {
            continue;
        }
        let script = folder.join(shell);
        fs::write(&script, run(PROGRAMS[0].1, ["--completions", shell]).ok()).expect("written");
        for (line, expected) in [
            ("olmo-pack ver", "verify"),
            ("olmo-pack inspect --te", "--tensors"),
            ("olmo-pack weights/ m.olmo --dry", "--dry-run"),
        ] {
            let ask = format!("source {}; {ask}", script.display());
            let answer = finish(Command::new(shell).args(["-c", &ask]).env("LINE", line).env("HOME", folder.path()));
            assert_eq!(answer.ok().trim_end(), expected, "{shell}: {line}: {}", answer.stderr);
        }
    }
}
