//! Wrong usage is status 2 and one line.

use crate::PACK;
use olmo_tests::run;

/// Row E1.
#[test]
fn wrong_arguments_are_one_line_that_names_help() {
    let cases: [(&[&str], &str); 16] = [
        (&[], "Required positional arguments not provided: weights model; see olmo-pack --help"),
        (&["w", "m", "--dtyp", "f32"], "unknown option --dtyp (did you mean --dtype?); see olmo-pack --help"),
        (&["w", "m", "--dtype=f16"], "--dtype f16: expected auto, f32, bf16, bf12, int8 or int4; see olmo-pack --help"),
        (&["w", "m", "--force=yes"], "--force=yes: --force takes no value; see olmo-pack --help"),
        (&["w", "m", "-t=two"], "--threads two: expected a whole number from 0; see olmo-pack --help"),
        (&["w", "m", "--head-dim", "0"], "--head-dim 0: expected a whole number from 1; see olmo-pack --help"),
        (&["w", "m", "--rope-theta", "1e"], "--rope-theta 1e: expected a number, as in 0.5; see olmo-pack --help"),
        (&["w", "m", "--vocab", "--force"], "--vocab needs a value before --force; if --force is the value, write"),
        (
            &["w", "m", "--vocab=a", "--vocab=b"],
            "--vocab b: --vocab is given twice, expected once; see olmo-pack --help",
        ),
        (&["w", "m", "--dtype", "f16"], "expected auto, f32, bf16, bf12, int8 or int4; see olmo-pack --help"),
        (&["w", "m", "--thre\u{1b}[31mads\u{7}"], "--thre\\u{1b}[31mads\\u{7}"),
        (&["w", "m", "--threads", "a\nb"], "--threads a\\nb: expected a whole number from 0; see olmo-pack --help"),
        (&["unpack", "m", ""], "FOLDER is empty, expected a path; see olmo-pack unpack --help"),
        (&["verify"], "Required positional arguments not provided: model; see olmo-pack verify --help"),
        (&["w", "m", "--arch", "olmo\n4"], "--arch is olmo\\n4, expected olmo, olmo2, olmo3, olmoe"),
        (&["w", "m", "--clip-qkv", "eight"], "expected a number or none; see olmo-pack --help"),
    ];
    for (arguments, says) in cases {
        let finished = run(PACK, arguments);
        let line = finished.refused(2);
        assert!(line.starts_with("olmo-pack: error: ") && line.contains(says), "{line}\nwants {says}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

/// Row E1.
#[test]
fn every_command_accepts_attached_values_and_version() {
    let version = run(PACK, ["--version"]).ok().to_string();
    assert!(version.starts_with("olmo-pack "));
    for words in [
        &["-V"][..],
        &["w", "m", "-V"],
        &["w", "m", "--force", "--version"],
        &["inspect", "-V"],
        &["verify", "m", "--version"],
        &["diff", "-V"],
        &["copy", "a", "b", "-V"],
        &["unpack", "-V"],
    ] {
        assert_eq!(run(PACK, words).ok(), version, "{words:?}");
    }
    // A name, and the value of an option.
    assert!(run(PACK, ["inspect", "--", "-V"]).refused(1).contains("-V: cannot open"));
    assert!(run(PACK, ["verify", "/no/model", "--against=-V"]).refused(1).contains("/no/model: cannot open"));
    assert_eq!(run(PACK, ["--completions=fish"]).ok(), run(PACK, ["--completions", "fish"]).ok());
    let help = run(PACK, ["-h"]);
    assert!(help.ok().contains("  -t, --threads ") && help.ok().contains("  -V, --version "), "{}", help.stdout);
}
