//! Wrong usage is status 2 and one line.

use olmo_tests::run;

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");

#[test]
fn wrong_arguments_are_one_line_that_says_where_help_is() {
    let cases: [(&[&str], &str); 8] = [
        (&[], "Required positional arguments not provided: weights model; see olmo-pack --help"),
        (&["w", "m", "--dtyp", "f32"], "--dtyp"),
        (&["w", "m", "--dtype", "f16"], "expected auto, f32 or bf16; see olmo-pack --help"),
        (&["w", "m", "--thre\u{1b}[31mads\u{7}"], "--thre\\u{1b}[31mads\\u{7}"),
        (&["w", "m", "--threads", "a\nb"], "'a b'"),
        (&["verify"], "Required positional arguments not provided: model; see olmo-pack verify --help"),
        (&["w", "m", "--arch", "olmo\n4"], "--arch is olmo\\n4, expected olmo, olmo2 or olmo3"),
        (&["w", "m", "--clip-qkv", "eight"], "expected a number or none; see olmo-pack --help"),
    ];
    for (arguments, says) in cases {
        let finished = run(PACK, arguments);
        let line = finished.refused(2);
        assert!(line.starts_with("olmo-pack: error: ") && line.contains(says), "{line}\nwants {says}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}
