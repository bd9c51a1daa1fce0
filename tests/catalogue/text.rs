//! Everything that can be wrong with tokenizers, chat templates, prompts and lists of files.

use crate::{INFER, PACK};
use olmo_infer::internals::format::{AddedToken, Merge, TokenizerHead};
use olmo_infer::internals::text::tokenizer::{NoTokenizer, PreTokenizer, Tokenizer};
use olmo_infer::internals::text::vocabulary::Vocabulary;
use olmo_pack::text::tokenizer_json;
use olmo_tests::catalogue::{Refusal, measured};
use olmo_tests::{Finished, TempDir, files, infer_words, repository, run};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// The demo's weights in a folder of their own; they are changed and packed.
struct Fixture {
    folder: TempDir,
    weights: PathBuf,
}

fn fixture(name: &str) -> Fixture {
    let folder = TempDir::new(name);
    let weights = folder.join("weights");
    fs::create_dir(&weights).expect("created");
    for (name, bytes) in files(&repository().join("demo/weights")) {
        fs::write(weights.join(name), bytes).expect("copied");
    }
    fs::remove_file(weights.join("vocab.txt")).expect("removed");
    Fixture { folder, weights }
}

impl Fixture {
    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.weights.join(name), bytes).expect("written");
    }

    fn model(&self) -> PathBuf {
        self.folder.join("m.olmo")
    }

    fn pack(&self) -> Finished {
        run(PACK, ["--force".as_ref(), self.weights.as_os_str(), self.model().as_os_str()])
    }

    /// Packing must be refused in a line that contains this, and leave nothing.
    #[track_caller]
    fn assert_refused(&self, says: &str) {
        let refusal = Refusal::one_line("olmo-pack", format!("{}/", self.weights.display()), &[says]);
        let pack = || {
            let mut command = measured(PACK);
            command.arg("--force").arg(&self.weights).arg(self.model());
            command
        };
        refusal.check(self.folder.path(), pack).unwrap_or_else(|failure| panic!("{says}: {failure}"));
    }

    /// Packing must succeed, and print this about the tokenizer or the chat format.
    #[track_caller]
    fn assert_packed(&self, says: &str) {
        let finished = self.pack();
        assert!(finished.ok().contains(says), "{says}: {}", finished.stdout);
        run(PACK, ["verify".as_ref(), self.model().as_os_str()]).ok();
        fs::remove_file(self.model()).expect("removed");
    }

    fn tokenizer(&self) -> Value {
        let bytes = fs::read(repository().join("demo/weights/tokenizer.json")).expect("read");
        serde_json::from_slice(&bytes).expect("JSON")
    }
}

/// Row X1: `tokenizer.json`: malformed, not a tokenizer, ids that the model does not have, duplicate ids, deep, huge, a
/// folder.
#[test]
fn x1_refuses_malformed_tokenizer_json() {
    let fixture = fixture("x1");
    for (text, says) in [
        ("", "tokenizer.json: EOF while parsing"),
        ("{", "tokenizer.json: EOF while parsing"),
        ("[]", "JSON that is not an object, expected the tokenizer.json of a model"),
        ("{\"model\":{},\"model\":{}}", "duplicate key \"model\""),
        ("{}", "no model"),
        ("{\"model\":3}", "model is 3, expected an object"),
        ("{\"model\":{}}", "no model.vocab"),
        ("{\"model\":{\"vocab\":[]}}", "model.vocab is []"),
        ("{\"model\":{\"vocab\":{}}}", "no tokens"),
        ("{\"model\":{\"vocab\":{\"a\":1.5}}}", "model.vocab \"a\" has no id"),
        ("{\"model\":{\"vocab\":{\"a\":-1}}}", "model.vocab \"a\" has no id"),
        ("{\"model\":{\"vocab\":{\"a\":\"1\"}}}", "model.vocab \"a\" has no id"),
        (
            "{\"model\":{\"vocab\":{\"a\":1280}}}",
            "has id 1280, expected less than the 256 rows of the embedding, or at most 1024 more",
        ),
        ("{\"model\":{\"vocab\":{\"a\":18446744073709551616}}}", "has no id"),
        ("{\"model\":{\"vocab\":{\"a\":1,\"b\":1}}}", "id 1 for \"a\" and \"b\""),
        ("{\"model\":{\"vocab\":{\"\":1}}}", "id 1 without a token"),
        ("{\"added_tokens\":3,\"model\":{\"vocab\":{\"a\":1}}}", "added_tokens is 3, expected a list"),
        ("{\"added_tokens\":[3],\"model\":{\"vocab\":{\"a\":1}}}", "expected a list of objects"),
        ("{\"added_tokens\":[{\"id\":2}],\"model\":{\"vocab\":{\"a\":1}}}", "no added_tokens: content"),
        ("{\"added_tokens\":[{\"content\":\"x\"}],\"model\":{\"vocab\":{\"a\":1}}}", "\"x\" has no id"),
        ("{\"added_tokens\":[{\"content\":\"x\",\"id\":1}],\"model\":{\"vocab\":{\"a\":1}}}", "id 1 for \"a\""),
        (
            "{\"added_tokens\":[{\"content\":\"x\",\"id\":2},{\"content\":\"y\",\"id\":2}],\"model\":{\"vocab\":{}}}",
            "id 2 for \"x\" and \"y\"",
        ),
    ] {
        fixture.write("tokenizer.json", text);
        fixture.assert_refused(says);
    }
    let deep = "[".repeat(1 << 20);
    fixture.write("tokenizer.json", deep);
    fixture.assert_refused("recursion limit exceeded");
    let huge = fs::File::create(fixture.weights.join("tokenizer.json")).expect("created");
    huge.set_len(1 << 40).expect("a sparse file");
    fixture.assert_refused("longer than 12 MiB, expected a tokenizer.json of a few MiB");
    fs::remove_file(fixture.weights.join("tokenizer.json")).expect("removed");
    fs::create_dir(fixture.weights.join("tokenizer.json")).expect("created");
    fixture.assert_refused("tokenizer.json: is a folder, expected a file");
}

/// Row X1.
///
/// As many MiB as a tokenizer has, and what is refused comes last.
#[test]
fn x1_refuses_long_tokenizers_cheaply() {
    let fixture = fixture("x1-long");
    let repeated = |piece: &str| piece.repeat((11 << 20) / piece.len());
    let vocab = |entry: &dyn Fn(usize) -> String| (0..600_000).map(entry).collect::<String>();
    for (text, says) in [
        (format!("{{\"model\":{{\"vocab\":{{}},\"merges\":[{}", repeated("[\"a\",\"b\"],")), "EOF while parsing"),
        (format!("{{\"model\":{{\"vocab\":{{}},\"merges\":[{}1]}}}}", repeated("[\"a\",\"b\"],")), "no tokens"),
        (format!("{{\"x\":[{}1],\"model\":{{\"vocab\":{{}}}}}}", repeated("{\"\":1},")), "x: more than 32768 values"),
        (format!("{{\"model\":{{\"x\":[{}1]}}}}", repeated("[],")), "model.x: more than 32768 values"),
        (format!("{{\"model\":{{{}\"a\":1}}}}", vocab(&|i| format!("\"{i}\":1,"))), "model: more than 32768 values"),
        (
            format!("{{\"model\":{{\"vocab\":{{{}\"x\":1}}}}}}", vocab(&|_| "\"y\":0,".into())),
            "id 0 for \"y\" and \"y\"",
        ),
        (format!("{{\"model\":{{\"vocab\":{{{}\"x\":1}}}}}}", vocab(&|i| format!("\"{i}\":{i},"))), "has id 1280"),
        (format!("{{\"model\":{{\"vocab\":3,\"{}\":1}}}}", "k".repeat(11 << 20)), "model.vocab is 3"),
        (format!("{{\"model\":{{\"vocab\":{{\"{}\":1280}}}}}}", "k".repeat(11 << 20)), "...\" has id 1280"),
    ] {
        fixture.write("tokenizer.json", text);
        fixture.assert_refused(says);
    }
}

/// Row X2: unknown kinds of tokenizers.
#[test]
fn x2_unknown_tokenizers_disable_text() {
    let fixture = fixture("x2");
    let split = |pattern: &str, behavior: &str, invert: bool| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
        ]})
    };
    let mut spaces = split("\\w+", "Isolated", false);
    spaces["pretokenizers"][0]["pattern"]["Regex"] = json!(PreTokenizer::Dolma2.pattern());
    spaces["pretokenizers"][1]["add_prefix_space"] = json!(true);
    let added = |key: &str| json!([{"id": 256, "content": "\t", key: true}]);
    let cases = [
        ("/model/type", json!("Unigram"), "its model is Unigram"),
        ("/model/unk_token", json!(3), "its model has unk_token 3"),
        ("/model/dropout", json!(0.1), "its model has dropout 0.1"),
        ("/model/byte_fallback", json!(3), "its model has byte_fallback 3"),
        ("/model/merges", json!(null), "its model has no list of merges"),
        ("/model/merges", json!(["ab"]), "merge 0 is not a pair"),
        ("/model/merges", json!([["a", "b", "c"]]), "merge 0 is not a pair"),
        ("/model/merges", json!(["a b"]), "merge 0 names an unknown token"),
        ("/model/merges", json!([["a", "a"], ["a", "a"]]), "merge 0 names an unknown token"),
        ("/normalizer", json!({"type": "NFKC"}), "its normalizer is NFKC"),
        ("/normalizer", json!({"kind": "NFC"}), "its normalizer has no type"),
        ("/post_processor", json!({"type": "TemplateProcessing"}), "its post-processor is an unknown template"),
        ("/pre_tokenizer", json!(null), "it has no pre-tokenizer"),
        ("/pre_tokenizer", json!({"type": "Whitespace"}), "its pre-tokenizer is Whitespace"),
        ("/pre_tokenizer", spaces, "its pre-tokenizer puts a space before every word"),
        ("/pre_tokenizer", split("\\w+", "Isolated", false), "its pre-tokenizer splits by an unknown pattern"),
        ("/pre_tokenizer", split("\\w+", "MergedWithNext", false), "its pre-tokenizer splits in an unknown way"),
        ("/pre_tokenizer", json!({"type": "Sequence", "pretokenizers": []}), "it has no pre-tokenizer"),
        ("/added_tokens", added("lstrip"), "its added token \"\\t\" strips adjacent spaces"),
        ("/added_tokens", added("single_word"), "its added token \"\\t\" matches only as a whole word"),
    ];
    for (place, value, says) in cases {
        let mut json = fixture.tokenizer();
        let (parent, key) = place.rsplit_once('/').expect("a path");
        json.pointer_mut(parent).expect("is there")[key] = value;
        fixture.write("tokenizer.json", json.to_string());
        fixture.assert_packed(&format!("  tokenizer   none: {says}"));
    }
    // `tokenizers` gives an added token the next id, which here is taken: the model's have a gap.
    let mut json = fixture.tokenizer();
    json["model"]["vocab"].as_object_mut().expect("an object").retain(|_, id| *id != 9);
    json["added_tokens"] = json!([{"id": 9, "content": "<x>"}]);
    fixture.write("tokenizer.json", json.to_string());
    fixture.assert_refused("tokenizers gives \"<x>\" id 255, that of \"ÿ\"");
    let mut json = fixture.tokenizer();
    json["model"]["vocab"].as_object_mut().expect("an object").retain(|_, id| *id != 65);
    fixture.write("tokenizer.json", json.to_string());
    fixture.assert_packed("  tokenizer   none: it has no token for the byte 41");
}

/// A tokenizer of the bytes and one merge, as sections: vocabulary and tokenizer.
fn sections() -> (Vec<u8>, Vec<u8>) {
    let mut json: Value =
        serde_json::from_slice(&fs::read(repository().join("demo/weights/tokenizer.json")).expect("read"))
            .expect("JSON");
    json["model"]["vocab"]["ab"] = json!(256);
    json["model"]["merges"] = json!(["a b"]);
    json["added_tokens"] = json!([{"id": 257, "content": "<|end|>", "special": true}]);
    let read = tokenizer_json::parse(Path::new("t"), json.to_string().as_bytes(), 300).expect("a tokenizer");
    (read.vocabulary.section(), read.tokenizer.expect("of a known kind"))
}

/// Row X2.
#[test]
fn x2_refuses_merges_of_unknown_bytes() {
    let fixture = fixture("x2-bytes");
    let mut json = fixture.tokenizer();
    // A raw space, in addition to the character for it, is another token.
    json["model"]["vocab"].as_object_mut().expect("an object").retain(|_, id| *id != 255);
    json["model"]["vocab"][" "] = json!(255);
    fixture.write("tokenizer.json", json.to_string());
    fixture.assert_packed("  tokenizer   tokenizer.json\n");
    let sections = || {
        let bytes = fs::read(fixture.weights.join("tokenizer.json")).expect("read");
        tokenizer_json::parse(Path::new("t"), &bytes, 256).expect("tokens").tokenizer
    };
    let first = sections().expect("known");
    assert_eq!(first[32 + 4 * 32..][..4], 32u32.to_le_bytes(), "the id of the space");
    (0..20).for_each(|_| assert_eq!(sections().as_ref(), Ok(&first)));
    // When one character has no byte, pieces have other bytes than the whole.
    json["model"]["vocab"].as_object_mut().expect("an object").retain(|_, id| *id != 254);
    json["model"]["vocab"][" "] = json!(null);
    json["model"]["vocab"].as_object_mut().expect("an object").remove(" ");
    json["model"]["vocab"]["日"] = json!(254);
    json["model"]["vocab"]["日Ġ"] = json!(255);
    json["model"]["merges"] = json!([["日", "Ġ"]]);
    fixture.write("tokenizer.json", json.to_string());
    fixture.assert_packed("  tokenizer   none: merge 0 does not concatenate its pieces");
}

/// Row X3: sections of a model file that are not a tokenizer or a chat format.
#[test]
fn x3_refuses_malformed_tokenizer_sections() {
    let (vocabulary, good) = sections();
    let vocabulary = Vocabulary::in_section(&vocabulary).expect("a vocabulary");
    let problem = |bytes: &[u8]| Tokenizer::in_section(bytes, &vocabulary).err();
    assert_eq!(problem(&good), None);
    let (merges, added) = (size_of::<TokenizerHead>() + 1024, good.len() - size_of::<AddedToken>());
    assert_eq!(added - merges, size_of::<Merge>());
    let with = |at: usize, value: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        problem(&bytes)
    };
    assert_eq!(with(0, 2), Some(NoTokenizer::UnknownKind(2)));
    for (at, value, says) in [
        (4, 0, "pre-tokenizer 0"),
        (4, 3, "pre-tokenizer 3"),
        (8, 2, "normalizer 2"),
        (12, 0, "not the length of its lists"),
        (12, 2, "not the length of its lists"),
        (12, u32::MAX, "not the length of its lists"),
        (16, 0, "not the length of its lists"),
        (16, u32::MAX, "not the length of its lists"),
        (20, 2, "prefix space 2"),
        (24, 1, "reserved fields"),
        (28, 1 << 31, "reserved fields"),
        (32, 1, "id 1 for the byte 00, which is another token"),
        (32, 299, "id 299, which the vocabulary does not have"),
        (32, u32::MAX, "no id for the byte 00"),
        (merges, 1, "merge 0, which does not concatenate"),
        (merges, u32::MAX, "which the vocabulary does not have"),
        (merges + 4, 256, "merge 0, which does not concatenate"),
        (merges + 8, 258, "id 258, which the vocabulary does not have"),
        (added, 258, "id 258, which the vocabulary does not have"),
        (added, 200, "the added token 200, which is not UTF-8"),
        (added + 4, 8, "flags 0x8 of id 257"),
    ] {
        match with(at, value) {
            Some(NoTokenizer::Damaged(found)) => assert!(found.contains(says), "{at}: {found}"),
            other => panic!("{at}: {other:?}"),
        }
    }
    // Long tokens named again and again.
    let mut many = good.clone();
    many.splice(added..added, good[added..].repeat((1 << 20) / 7 + 1));
    let n_added = (many.len() - added) / size_of::<AddedToken>();
    many[16..20].copy_from_slice(&(n_added as u32).to_le_bytes());
    assert!(matches!(problem(&many), Some(NoTokenizer::Damaged(found)) if found.contains("added tokens of")));
    // C0 never occurs in text.
    assert_eq!(with(32 + 4 * 0xc0, u32::MAX), None);
    for length in 0..good.len() {
        assert!(problem(&good[..length]).is_some(), "{length} bytes");
    }
    assert!(problem(&[&good[..], &[0]].concat()).is_some());
}

/// Row X4: chat templates: not Jinja, endless, huge, recursive, doing more than putting texts around turns.
#[test]
fn x4_warns_of_unusable_chat_templates() {
    let fixture = fixture("x4");
    for (template, says) in [
        ("{% if %}", "none: its chat template cannot be used: "),
        ("{{ messages }}", "none: its chat template cannot be used: invalid operation: prints a value"),
        ("{{ messages[0].role }}", "none: its chat template does not write each turn once"),
        ("{{ messages[0].content | upper }}", "none: its chat template does"),
        ("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "ran out of fuel"),
        (
            "{% for i in range(9999) %}{{ 'x' * 99999 }}{% endfor %}",
            "none: its chat template cannot be used: failed to write output",
        ),
        // Deep in itself, and dropped all the same.
        (
            "{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% set n.x = [n.x] %}{% endfor %}",
            "none: its chat template ",
        ),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "none: its chat template cannot be used: "),
    ] {
        fixture.write("chat_template.jinja", template);
        fixture.assert_packed(says);
    }
    // Widths of formats, and what the interpreter panics on, which is not printed.
    for (template, says) in [
        ("{{ '{:>100000000000}'.format('a') }}", "a format of more than 9999 characters"),
        ("{{ '{:.100000000000f}'.format(1.0) }}", "a format of more than 9999 characters"),
        ("{% for i in [1] %}{{ loop.cycle() }}{% endfor %}", "its chat template cannot be used: it panics"),
    ] {
        fixture.write("chat_template.jinja", template);
        let packed = fixture.pack();
        assert!(packed.ok().contains(says), "{template}: {}", packed.stdout);
        let lines = packed.stderr.lines().count();
        assert!(lines == 1 && packed.stderr.starts_with("olmo-pack: warning: no chat format: "), "{}", packed.stderr);
    }
    // A step whose duration depends on a number.
    fixture.write("chat_template.jinja", "{{ [1] * 9000000000000000000 }}");
    fixture.assert_packed("repeated sequence is too large");
    fixture.write("chat_template.jinja", b"\xff");
    fixture.assert_refused("chat_template.jinja: bytes that are not UTF-8");
    let huge = fs::File::create(fixture.weights.join("chat_template.jinja")).expect("created");
    huge.set_len(1 << 40).expect("a sparse file");
    fixture.assert_refused("chat_template.jinja: longer than 4 MiB");
}

/// Row X5: `tokenizer_config.json`: malformed, other kinds of templates.
#[test]
fn x5_refuses_malformed_tokenizer_config() {
    let fixture = fixture("x5");
    for (text, says) in [
        ("", "tokenizer_config.json: EOF while parsing"),
        ("[]", "tokenizer_config.json: JSON that is not an object"),
        ("{\"a\":1,\"a\":2}", "duplicate key \"a\""),
    ] {
        fixture.write("tokenizer_config.json", text);
        fixture.assert_refused(says);
    }
    for config in [json!({}), json!({"chat_template": null})] {
        fixture.write("tokenizer_config.json", config.to_string());
        fixture.assert_packed("  chat        none\n");
    }
    // transformers raises an error where there is a template, and not one that is called default.
    for config in [
        json!({"chat_template": 3}),
        json!({"chat_template": []}),
        json!({"chat_template": [{"name": "tool_use", "template": "x"}, 3]}),
        json!({"chat_template": [{"name": "default"}]}),
    ] {
        fixture.write("tokenizer_config.json", config.to_string());
        fixture.assert_packed("  chat        none: chat_template has no template named default\n");
    }
    let template = "{{ bos_token }}{{ messages[-1].content }}";
    let config = json!({"bos_token": 3, "chat_template": [{"name": "default", "template": template}]});
    fixture.write("tokenizer_config.json", config.to_string());
    fixture.assert_packed("  chat        tokenizer_config.json\n");
}

/// Row X6: prompts: empty, too long; texts that are not UTF-8, UTF-16, with a byte order mark, huge, absent, folders.
#[test]
fn x6_refuses_unusable_prompts() {
    let fixture = fixture("x6");
    fixture.pack().ok();
    let model = fixture.model();
    let infer = |arguments: &[&str]| run(INFER, infer_words(&[model.as_os_str()], arguments));
    // Nothing but NUL, which no argument can hold, is refused for what it is.
    assert_eq!(infer(&["--prompt", "\u{feff}\u{1}\u{85}", "--max-tokens", "1"]).code, Some(0));
    assert!(infer(&["--prompt", ""]).refused(2).contains("the prompt is empty"));
    assert!(infer(&["--prompt", "-"]).refused(2).contains("the prompt is empty"));
    assert!(infer(&["--prompt", &"x".repeat(100_000)]).refused(1).contains("the prompt has 100000 tokens"));
    let text = fixture.folder.join("t.txt");
    let text = text.to_str().expect("UTF-8");
    for (bytes, says) in [(&b"\xc3"[..], "byte 0 is not UTF-8"), (b"ab\xed\xa0\x80", "byte 2 is not UTF-8")] {
        fs::write(text, bytes).expect("written");
        assert!(infer(&["tokenize", text]).refused(1).contains(says));
    }
    fs::File::create(text).expect("created").set_len(1 << 40).expect("a sparse file");
    assert!(infer(&["tokenize", text]).refused(1).contains("more than 64 MiB of text"));
    assert!(infer(&["tokenize", "absent.txt"]).refused(1).contains("absent.txt"));
    assert!(infer(&["tokenize", "/"]).refused(1).contains("/: cannot"));
}

/// Row X7: ids without text.
#[test]
fn x7_refuses_ids_without_text() {
    let fixture = fixture("x7");
    // `tokenizers` gives an added token the next id, which here is taken: the model's have a gap.
    let mut json = fixture.tokenizer();
    json["model"]["vocab"].as_object_mut().expect("an object").retain(|_, id| *id != 9);
    json["added_tokens"] = json!([{"id": 9, "content": "<x>"}]);
    fixture.write("tokenizer.json", json.to_string());
    fixture.assert_refused("tokenizers gives \"<x>\" id 255, that of \"ÿ\"");
    let mut json = fixture.tokenizer();
    json["model"]["vocab"].as_object_mut().expect("an object").retain(|_, id| *id != 65);
    fixture.write("tokenizer.json", json.to_string());
    fixture.pack().ok();
    let tokens = fixture.folder.join("t.bin");
    let detokenize = |ids: &[u32]| {
        fs::write(&tokens, ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>()).expect("written");
        run(INFER, ["detokenize".as_ref(), fixture.model().as_os_str(), tokens.as_os_str()])
    };
    assert_eq!(detokenize(&[66, 67]).ok(), "BC");
    assert!(detokenize(&[66, 65]).refused(1).contains("token 1 is 65, which has no text"));
    assert!(detokenize(&[256]).refused(1).contains("token 0 is 256"));
    assert!(detokenize(&[]).refused(1).contains("no tokens"));
}
