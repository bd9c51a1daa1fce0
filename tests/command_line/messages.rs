//! Common mistakes of new users: the answer to each is one line with the next step.

use crate::{INFER, PACK};
use olmo_tests::{Finished, Stored, TempDir, finish, repository, run, small_config, write_weights};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

/// A folder with a weights folder, a model of it without text, the demo model, and files of other kinds.
fn folder() -> TempDir {
    let folder = TempDir::new("messages");
    write_weights(&folder.join("weights"), &small_config(), Stored::F32, 1);
    run(PACK, [folder.join("weights"), folder.join("model.olmo")]).ok();
    run(PACK, [repository().join("demo/weights"), folder.join("demo.olmo")]).ok();
    let mut older = fs::read(folder.join("model.olmo")).expect("the model");
    older[8] = 0;
    for (name, bytes) in [
        ("model.safetensors", &b"\x20\0\0\0\0\0\0\0{\"a\":1}"[..]),
        ("model.gguf", b"GGUF\x03\0\0\0and so on"),
        ("pytorch_model.bin", b"PK\x03\x04\x14\0\0\0"),
        ("tokens.bin", &[1, 0, 0, 0, 2, 0, 0, 0]),
        ("prompt.txt", b"Four score and seven years ago"),
        ("older.olmo", &older),
    ] {
        fs::write(folder.join(name), bytes).expect("written");
    }
    folder
}

/// Runs a command line in the folder.
fn call(folder: &TempDir, line: &str) -> Finished {
    let mut words = line.split(' ');
    let program = match words.next() {
        Some("olmo-pack") => PACK,
        _ => INFER,
    };
    finish(Command::new(program).args(words).current_dir(folder.path()).stdin(Stdio::null()))
}

#[test]
fn common_mistakes_are_answered_with_next_step() {
    let folder = folder();
    for (line, status, answer) in [
        (
            "olmo-infer model.safetensors",
            1,
            "model.safetensors: not an .olmo file but a safetensors checkpoint; pack its folder with olmo-pack FOLDER \
             model.olmo",
        ),
        (
            "olmo-infer model.gguf --prompt Hi",
            1,
            "model.gguf: not an .olmo file but a GGUF file, llama.cpp's format; pack it with olmo-pack FILE model.olmo",
        ),
        (
            "olmo-infer weights/model.norm.weight.npy",
            1,
            "weights/model.norm.weight.npy: not an .olmo file but a .npy file; pack its folder with olmo-pack FOLDER \
             model.olmo",
        ),
        (
            "olmo-infer weights/",
            1,
            "weights/: is a folder, expected a regular file; pack a weights folder first: olmo-pack weights/ \
             model.olmo",
        ),
        (
            "olmo-infer tokens.bin model.olmo",
            1,
            "tokens.bin: not an .olmo file, and model.olmo is one; are the arguments swapped? olmo-infer model.olmo \
             tokens.bin",
        ),
        (
            "olmo-infer score tokens.bin model.olmo",
            1,
            "tokens.bin: not an .olmo file, and model.olmo is one; are the arguments swapped? olmo-infer score \
             model.olmo tokens.bin",
        ),
        (
            "olmo-infer tokenize prompt.txt model.olmo",
            1,
            "prompt.txt: not an .olmo file, and model.olmo is one; are the arguments swapped? olmo-infer tokenize \
             model.olmo prompt.txt",
        ),
        (
            "olmo-infer detokenize tokens.bin model.olmo",
            1,
            "tokens.bin: not an .olmo file, and model.olmo is one; are the arguments swapped? olmo-infer detokenize \
             model.olmo tokens.bin",
        ),
        (
            "olmo-infer score inspect model.olmo",
            1,
            "inspect: no such file, and model.olmo is a model; did you mean olmo-infer score model.olmo?",
        ),
        (
            "olmo-infer detokenize demo.olmo prompt.txt",
            1,
            "prompt.txt: 30 bytes, expected a multiple of 4 (little-endian u32 ids) (it looks like text); make ids of \
             it with olmo-infer tokenize",
        ),
        (
            "olmo-infer model.olmo prompt.txt",
            1,
            "prompt.txt: 30 bytes, expected a multiple of 4 (little-endian u32 ids) (it looks like text); give text \
             with --prompt, or --prompt-file FILE, and make ids of it with olmo-infer tokenize",
        ),
        (
            "olmo-infer model.olmo weights/",
            1,
            "weights/: is a folder, expected a regular file; give a file of little-endian u32 ids",
        ),
        (
            "olmo-infer model.olmo --prompt Hi",
            2,
            "model.olmo: has no vocabulary, which --prompt needs; pack it with a tokenizer.json in the folder, or give \
             token ids in a file",
        ),
        (
            "olmo-infer model.olmo --chat --prompt Hi",
            2,
            "model.olmo: has no chat format; base models have none: use --prompt alone, or pack the folder of an \
             instruct model with its tokenizer_config.json or chat_template.jinja",
        ),
        (
            "olmo-infer model.olmo tokens.bin --steps 65",
            1,
            "tokens.bin: 65 positions were asked for (the prompt has 2), the model has 64; ask for fewer with --steps \
             or --max-tokens",
        ),
        (
            "olmo-infer older.olmo tokens.bin",
            1,
            "older.olmo: needs format 0.0, this program reads format 1.0; pack the weights again with olmo-pack \
             weights/ model.olmo",
        ),
        (
            "olmo-infer model.olmo --promt Hi",
            2,
            "unknown option --promt (did you mean --prompt?); see olmo-infer --help",
        ),
        (
            "olmo-infer model.olmo --chat Hi",
            2,
            "--chat takes no value; use --chat --prompt 'Hi'; see olmo-infer --help",
        ),
        (
            "olmo-infer inspect model.olmo",
            1,
            "inspect: no such file, and model.olmo is a model; did you mean olmo-pack inspect model.olmo?",
        ),
        (
            "olmo-infer run model.olmo --prompt Hi",
            2,
            "--prompt and token files exclude each other; model.olmo is one; see olmo-infer --help",
        ),
        (
            "olmo-infer run model.olmo",
            1,
            "run: no such file, and model.olmo is a model; did you mean olmo-infer model.olmo?",
        ),
        ("olmo-infer", 2, "Required positional arguments not provided: model; see olmo-infer --help"),
        ("olmo-infer none.olmo", 1, "none.olmo: cannot open: No such file or directory"),
        ("olmo-infer --completions csh", 2, "--completions csh: expected bash, zsh or fish; see olmo-infer --help"),
        (
            "olmo-infer --generate man",
            2,
            "unknown option --generate (did you mean --man or --completions SHELL?); see olmo-infer --help",
        ),
        (
            "olmo-infer model.olmo --tokenize",
            2,
            "unknown option --tokenize (did you mean olmo-infer tokenize?); see olmo-infer --help",
        ),
        (
            "olmo-infer model.olmo tokenize",
            2,
            "tokenize: no such file (did you mean olmo-infer tokenize?); see olmo-infer --help",
        ),
        ("olmo-infer model.olmo chat", 2, "chat: no such file (did you mean olmo-infer chat?); see olmo-infer --help"),
        (
            "olmo-infer scor model.olmo",
            1,
            "scor: no such file, and model.olmo is a model; did you mean olmo-infer score model.olmo?",
        ),
        ("olmo-infer chat m.olmo --kv q8", 2, "--kv q8: expected f32 or bf16; see olmo-infer chat --help"),
        ("olmo-infer chat --man", 2, "unknown option --man (an option of olmo-infer); see olmo-infer chat --help"),
        ("olmo-infer --completions ", 2, "--completions \"\": expected bash, zsh or fish; see olmo-infer --help"),
        ("olmo-infer model.olmo --man", 2, "--man excludes all other arguments; see olmo-infer --help"),
        (
            "olmo-pack model.olmo weights/",
            1,
            "weights/: is a folder, expected the model file; are the arguments swapped? olmo-pack weights/ model.olmo, \
             or to restore the folder olmo-pack unpack model.olmo weights/",
        ),
        (
            "olmo-pack model.olmo new.olmo",
            1,
            "model.olmo: not a folder but a model file, expected a folder of weights; run it with olmo-infer \
             model.olmo, or restore its folder with olmo-pack unpack model.olmo FOLDER",
        ),
        (
            "olmo-pack model.gguf new.olmo",
            1,
            "model.gguf: 8007522677720116833 tensors, expected at most 16384; download it again",
        ),
        (
            "olmo-pack model.safetensors new.olmo",
            1,
            "model.safetensors: not a folder but a safetensors file, expected a folder of weights; give its folder: \
             olmo-pack . new.olmo",
        ),
        (
            "olmo-pack weights/model.norm.weight.npy new.olmo",
            1,
            "weights/model.norm.weight.npy: not a folder but a .npy file, expected a folder of weights; give its \
             folder: olmo-pack weights new.olmo",
        ),
        (
            "olmo-pack pytorch_model.bin new.olmo",
            1,
            "pytorch_model.bin: not a folder but a PyTorch archive, which cannot be packed, expected a folder of \
             weights; save the model as safetensors or .npy files",
        ),
        (
            "olmo-pack inspect weights/",
            1,
            "weights/: is a folder, expected a regular file; pack a weights folder first: olmo-pack weights/ \
             model.olmo",
        ),
        (
            "olmo-pack info model.olmo",
            2,
            "info: no such command and no such folder, expected inspect, verify, diff, copy, unpack, or a folder of \
             weights; see olmo-pack --help",
        ),
        (
            "olmo-pack verfy",
            2,
            "verfy: no such command and no such folder (did you mean verify?), expected inspect, verify, diff, copy, unpack, or a folder of \
             weights; see olmo-pack --help",
        ),
        (
            "olmo-pack weights/ model.olmo",
            1,
            "model.olmo: exists, expected a file name for the model; pass --force to replace it",
        ),
        (
            "olmo-pack inspect model.olmo --tensos",
            2,
            "unknown option --tensos (did you mean --tensors?); see olmo-pack inspect --help",
        ),
        (
            "olmo-pack --force verify model.olmo",
            2,
            "verify: a command is the first word, as in olmo-pack verify; see olmo-pack verify --help",
        ),
        ("olmo-pack diff model.olmo", 2, "Required positional arguments not provided: b; see olmo-pack diff --help"),
        ("olmo-pack --completions", 2, "--completions needs a value, expected bash, zsh or fish; see olmo-pack --help"),
        (
            "olmo-pack --generate",
            2,
            "unknown option --generate (did you mean --man or --completions SHELL?); see olmo-pack --help",
        ),
    ] {
        let program = line.split(' ').next().expect("a program");
        assert_eq!(call(&folder, line).refused(status), format!("{program}: error: {answer}"), "{line}");
    }
}

#[test]
fn score_of_text_under_another_name_advises_its_format() {
    let folder = folder();
    fs::copy(folder.join("prompt.txt"), folder.join("prompt")).expect("copied");
    let scored = call(&folder, "olmo-infer score demo.olmo prompt");
    let advice = "(it looks like text); name it .txt, or add --format text or --format jsonl\"";
    assert!(scored.code == Some(1) && scored.stdout.contains(advice), "{scored:?}");
}

#[test]
fn options_of_the_program_are_named_at_its_commands() {
    let folder = folder();
    for option in ["--top", "--steps", "--text", "--logits"] {
        let finished = call(&folder, &format!("olmo-infer score model.olmo tokens.bin {option} 3"));
        let problem = format!("unknown option {option} (an option of olmo-infer); see olmo-infer score --help");
        assert_eq!(finished.refused(2), format!("olmo-infer: error: {problem}"));
    }
    let finished = call(&folder, "olmo-infer tokenize model.olmo prompt.txt --timing");
    assert!(finished.refused(2).contains("unknown option --timing (an option of olmo-infer); see"), "{finished:?}");
    let finished = call(&folder, "olmo-pack inspect model.olmo --force");
    assert!(finished.refused(2).contains("unknown option --force (an option of olmo-pack); see"), "{finished:?}");
}

#[test]
fn only_paths_that_are_not_utf_8_are_to_be_renamed() {
    let not_text = OsStr::from_bytes(b"\xff");
    for (before, is_path) in [
        (&["m.olmo"][..], true),
        (&["score", "m.olmo", "--"], true),
        (&["m.olmo", "--json"], true),
        (&["m.olmo", "--prompt"], false),
        (&["tokenize", "m.olmo", "-p"], false),
        (&["m.olmo", "--no-such-option"], false),
    ] {
        let finished = finish(Command::new(INFER).args(before).arg(not_text).stdin(Stdio::null()));
        let line = finished.refused(2);
        assert!(line.contains("an argument is not UTF-8: \"\\xFF\", expected "), "{line}");
        assert_eq!(line.contains("rename the file"), is_path, "{before:?}: {line}");
        assert_eq!(line.contains("expected UTF-8; see"), !is_path, "{before:?}: {line}");
    }
}

#[test]
fn help_on_a_full_disk_fails_without_naming_results() {
    for option in ["--help", "--version"] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");
        let failed = finish(Command::new(INFER).arg(option).stdout(full));
        let line = "olmo-infer: error: cannot write to standard output: No space left";
        assert!(failed.code == Some(1) && failed.stderr.starts_with(line), "{failed:?}");
    }
}

#[test]
fn recognizes_text_of_any_length_and_alphabet() {
    let folder = folder();
    for text in ["Four", "Four score and seven years ago\n", "Größe", "\u{1f600}\u{1f600}", &"long ".repeat(5000)] {
        fs::write(folder.join("t.txt"), text).expect("written");
        let line = call(&folder, "olmo-infer demo.olmo t.txt");
        let line = line.refused(1);
        assert!(line.contains("(it looks like text)") && line.contains("; give text with --prompt"), "{line}");
    }
}

#[test]
fn help_fits_terminal_and_has_examples() {
    for (program, name, commands) in [
        (PACK, "olmo-pack", &["", "inspect", "verify", "diff", "copy", "unpack"][..]),
        (INFER, "olmo-infer", &["", "chat", "score", "tokenize", "detokenize"]),
        (env!("CARGO_BIN_EXE_tested-olmo-bench"), "olmo-bench", &[""]),
    ] {
        for command in commands {
            let words = [*command].into_iter().filter(|word| !word.is_empty());
            let help = run(program, words.chain(["--help"]));
            let call = format!("{name} {command}");
            let call = call.trim_end();
            assert!(help.ok().starts_with(&format!("Usage: {call} ")), "{}", help.stdout);
            let examples = help.stdout.split("\nExamples:\n").nth(1).expect("examples");
            assert!(examples.starts_with(&format!("  {call} ")), "{examples}");
            assert!(help.stdout.contains("  Exit status: 0 ") || name == "olmo-infer", "{}", help.stdout);
            let long: Vec<&str> = help.stdout.lines().filter(|line| line.chars().count() > 100).collect();
            assert!(long.is_empty(), "{long:#?}");
        }
    }
}
