//! Everything that can be wrong with a token file.

use crate::{INFER, PACK};
use olmo_infer::internals::format::config::ModelConfig;
use olmo_tests::catalogue::{Refusal, Report, as_ordinary_user, command, make_fifo, measured};
use olmo_tests::{
    Finished, Stored, TempDir, finish, infer_words, npy_header, run, skipped, small_config, write_weights,
};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

/// Rows of the embedding of the model.
const VOCAB_SIZE: u32 = 101;
/// Positions of the model.
const CONTEXT: usize = 64;

/// A model with a vocabulary of a few tokens, and a folder for token files.
struct Case {
    folder: TempDir,
    model: PathBuf,
}

impl Case {
    fn new() -> Case {
        let folder = TempDir::new("tokens");
        let (weights, model) = (folder.join("weights"), folder.join("m.olmo"));
        let ModelConfig { vocab_size, max_position_embeddings, .. } = small_config();
        assert_eq!((vocab_size, max_position_embeddings), (VOCAB_SIZE as usize, CONTEXT));
        write_weights(&weights, &small_config(), Stored::F32, 1);
        fs::write(weights.join("vocab.txt"), "0\ta\n1\tb\n").expect("written");
        run(PACK, [&weights, &model]).ok();
        Case { folder, model }
    }

    /// Writes a token file.
    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.folder.join("t.bin");
        fs::write(&path, bytes).expect("written");
        path
    }

    fn infer(&self, tokens: &[&Path], flags: &[&str]) -> Command {
        let mut command = measured(INFER);
        let files: Vec<&OsStr> =
            [self.model.as_os_str()].into_iter().chain(tokens.iter().map(|path| path.as_os_str())).collect();
        command.args(infer_words(&files, flags));
        if flags.first() != Some(&"detokenize") {
            command.args(["--threads", "1"]);
        }
        command
    }

    /// Checks the refusal of the token file at `path`.
    fn refused(&self, path: impl AsRef<Path>, words: &[&str], flags: &[&str]) -> Result<(), String> {
        let path = path.as_ref();
        let refusal = Refusal::one_line("olmo-infer", format!("{}: ", path.display()), words);
        refusal.check(self.folder.path(), || self.infer(&[path], flags))
    }

    /// Checks the refusal of a token file with these bytes.
    fn bytes_refused(&self, bytes: &[u8], words: &[&str]) -> Result<(), String> {
        self.refused(self.file(bytes), words, &[])
    }

    /// The output for these ids.
    fn printed(&self, ids: &[u8]) -> String {
        finish(&mut self.infer(&[&self.file(ids)], &[])).ok().to_string()
    }
}

/// Ids as a token file holds them.
fn ids(ids: impl IntoIterator<Item = u32>) -> Vec<u8> {
    ids.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// Reports how a run differs from a good one that printed `expected`.
fn same(finished: &Finished, expected: &str) -> Result<(), String> {
    match (finished.code, finished.stdout == expected) {
        (Some(0), true) => Ok(()),
        (code, _) => Err(format!("{code:?}: {}{}", finished.stdout, finished.stderr)),
    }
}

/// Writes to a pipe until it is done or the reader closes it.
fn feed(mut writer: impl Write + Send + 'static, bytes: Vec<u8>, endless: bool) {
    thread::spawn(move || while writer.write_all(&bytes).is_ok() && endless {});
}

/// Feeds the next reader of a FIFO.
fn feed_fifo(path: &Path, bytes: Vec<u8>, endless: bool) {
    let path = path.to_path_buf();
    // Opening waits for the reader.
    thread::spawn(move || feed(OpenOptions::new().write(true).open(path).expect("opened"), bytes, endless));
}

/// Lets a pipe whose other end is fed be the standard input of a command.
fn feed_stdin(command: &mut Command, bytes: Vec<u8>, endless: bool) {
    let (reader, writer) = io::pipe().expect("a pipe");
    command.stdin(reader);
    feed(writer, bytes, endless);
}

/// Row T1: no tokens.
#[test]
fn t1_refuses_empty_input() {
    let mut report = Report::new("T1");
    let case = Case::new();
    let says = "no tokens, expected at least one little-endian u32 id";
    report.add("an empty file", case.bytes_refused(b"", &[says]));
    report.add("/dev/null", case.refused("/dev/null", &[says], &[]));
    let refusal = Refusal::one_line("olmo-infer", "standard input: ", &[says]);
    report.add("standard input", refusal.check(case.folder.path(), || case.infer(&[], &[])));
    report.add("a dash", refusal.check(case.folder.path(), || case.infer(&[Path::new("-")], &[])));
    let closed = || {
        let mut closed = command("sh");
        closed.args(["-c", "exec \"$0\" \"$1\" <&-", INFER]).arg(&case.model);
        closed
    };
    report.add("closed standard input", refusal.check(case.folder.path(), closed));
}

/// Row T2: a partial token.
#[test]
fn t2_refuses_partial_token() {
    let mut report = Report::new("T2");
    let case = Case::new();
    for length in [1, 2, 3, 5, 7, 4 * CONTEXT - 1, 4 * CONTEXT - 3] {
        let says = format!("{length} byte");
        let words = [&says, "expected a multiple of 4 (little-endian u32 ids)"];
        report.add(length, case.bytes_refused(&vec![0; length], &words));
    }
    // Too many tokens and one more byte: the number of tokens is reported.
    report.add("more", case.bytes_refused(&[0; 4 * CONTEXT + 5], &["65 tokens, expected at most 64"]));
}

/// Row T3: ids outside the vocabulary.
#[test]
fn t3_refuses_ids_outside_vocabulary() {
    let mut report = Report::new("T3");
    let case = Case::new();
    for id in [VOCAB_SIZE, VOCAB_SIZE + 1, 0xffff, 1 << 31, u32::MAX - 1, u32::MAX] {
        for (before, after) in [(0, 0), (17, 0), (17, 30), (CONTEXT - 1, 0)] {
            let tokens = [ids(vec![5; before]), ids([id]), ids(vec![7; after])].concat();
            let says = format!("token {before} is {id}");
            let words = [&says, "the vocabulary has ids 0 to 100", "the tokenizer of this model"];
            report.add(format_args!("{id} after {before}"), case.bytes_refused(&tokens, &words));
        }
    }
    // The first of several is named.
    report.add("several", case.bytes_refused(&ids([1, 2, 500, 3, 900]), &["token 2 is 500"]));
    let last = finish(&mut case.infer(&[&case.file(&ids([VOCAB_SIZE - 1, 1]))], &[]));
    report.holds("the last id", last.code == Some(0), last.stderr);
}

/// Numbers as another program may write them.
fn written<const N: usize>(numbers: &[i64], to_bytes: impl Fn(i64) -> [u8; N]) -> Vec<u8> {
    numbers.iter().flat_map(|&number| to_bytes(number)).collect()
}

/// Row T4: another width or byte order, with and without `--token-type`.
///
/// Note on T4: A file whose every second u32 is 0 is refused as 64-bit ids; `--token-type u32` reads it.
#[test]
fn t4_refuses_other_widths_and_byte_orders() {
    let mut report = Report::new("T4");
    let case = Case::new();
    let text = [72, 97, 0, 32];
    let narrow = written(&text, |id| (id as u16).to_le_bytes());
    let converted = ".astype('<u4').tofile('tokens.bin')";
    let many = vec![7; CONTEXT];
    for (variant, bytes, words) in [
        (
            "64 bits",
            written(&text, i64::to_le_bytes),
            [
                "every second id is 0",
                "(it looks like 64-bit ids); read it with \
                                                         --token-type i64, or with --token-type u32 if",
            ],
        ),
        ("one id of 64 bits", written(&[5], i64::to_le_bytes), ["every second id is 0", "--token-type i64"]),
        ("64 bits and padding", written(&[5, -1], i64::to_le_bytes), ["token 2 is 4294967295", "add --token-type i64"]),
        (
            "many of 64 bits",
            written(&many, i64::to_le_bytes),
            ["128 tokens (it looks like 64-bit ids)", "--token-type i64"],
        ),
        ("big-endian 64 bits", written(&text, i64::to_be_bytes), ["(it looks like big-endian 64-bit ids)", converted]),
        (
            "big-endian",
            written(&text, |id| (id as u32).to_be_bytes()),
            ["token 0 is 1207959552, the vocabulary has ids 0 to 100 (it looks like big-endian 32-bit ids)", converted],
        ),
        ("16 bits", narrow.clone(), ["token 0 is 6357064", "(it looks like 16-bit ids); if so, add --token-type u16"]),
        ("three of 16 bits", narrow[..6].to_vec(), ["6 bytes, ", "(it looks like 16-bit ids)"]),
        (
            "big-endian 16 bits",
            written(&text, |id| (id as u16).to_be_bytes()),
            ["(it looks like big-endian 16-bit ids)", converted],
        ),
        // One wrong id is one wrong id.
        (
            "one above 65535",
            ids([5, 65_541, 6]),
            ["token 1 is 65541, the vocabulary has ids 0 to 100; make", "the tokenizer of this model"],
        ),
        ("8 bits", written(&[72, 97, 100, 32], |id| [id as u8]), ["token 0 is 543449416", "it looks like text"]),
        (
            "floats",
            written(&text, |id| (id as f32).to_le_bytes()),
            ["token 0 is 1116733440", "(it looks like 32-bit floating-point numbers)"],
        ),
        ("doubles", written(&text, |id| (id as f64).to_le_bytes()), ["64-bit floating-point numbers", converted]),
        (
            "negative",
            written(&[5, -1], |id| (id as i32).to_le_bytes()),
            ["token 1 is 4294967295 (-1 as a signed number), the vocabulary has ids 0 to 100; make", ""],
        ),
    ] {
        report.add(variant, case.bytes_refused(&bytes, &words));
    }
    let refusal =
        Refusal::one_line("olmo-infer", "standard input: ", &["(it looks like 64-bit ids)", "--token-type i64"]);
    let wide_input = || {
        let mut command = case.infer(&[], &[]);
        feed_stdin(&mut command, written(&text, i64::to_le_bytes), false);
        command
    };
    report.add("64 bits on standard input", refusal.check(case.folder.path(), wide_input));
}

/// Row T4.
#[test]
fn t4_reads_ids_of_named_type() {
    let mut report = Report::new("T4");
    let case = Case::new();
    let text = [72, 97, 0, 32];
    let expected = case.printed(&ids([72, 97, 0, 32]));
    for (name, bytes) in [
        ("u16", written(&text, |id| (id as u16).to_le_bytes())),
        ("u32", written(&text, |id| (id as u32).to_le_bytes())),
        ("i32", written(&text, |id| (id as i32).to_le_bytes())),
        ("u64", written(&text, |id| (id as u64).to_le_bytes())),
        ("i64", written(&text, i64::to_le_bytes)),
    ] {
        let named = finish(&mut case.infer(&[&case.file(&bytes)], &["--token-type", name]));
        report.add(name, same(&named, &expected));
        // It counts in every mode that reads ids.
        let file = case.file(&bytes[..bytes.len() / 4 * 2]);
        let scored = finish(&mut case.infer(&[&file], &["score", "--token-type", name]));
        report.holds(format_args!("{name} scored"), scored.stdout.contains("\"tokens\":2,"), scored.stdout);
    }
    let wide = case.file(&written(&[0, 1, 1], i64::to_le_bytes));
    report.add("text", same(&finish(&mut case.infer(&[&wide], &["detokenize", "--token-type", "i64"])), "abb"));
    // The flag decides: these zeros are ids.
    let zeros = finish(&mut case.infer(&[&wide], &["detokenize", "--token-type", "u32"]));
    report.add("zeros", same(&zeros, "aababa"));
    for (bytes, name, words) in [
        (
            written(&[5, 101], |id| (id as u16).to_le_bytes()),
            "u16",
            ["token 1 is 101, the vocabulary has ids 0 to 100", ""],
        ),
        (written(&[5, -2], i64::to_le_bytes), "i64", ["token 1 is -2, the vocabulary", ""]),
        (written(&[5, 1 << 40], i64::to_le_bytes), "u64", ["token 1 is 1099511627776, the vocabulary", ""]),
        (written(&[-1], i64::to_le_bytes), "u64", ["token 0 is 18446744073709551615, the vocabulary", ""]),
        (ids([1, 2, 3]), "i64", ["12 bytes, expected a multiple of 8", "(it looks like 32-bit ids); if so, leave out"]),
        (vec![0; 2 * CONTEXT + 2], "u16", ["65 tokens, expected at most 64", ""]),
    ] {
        let outcome = case.refused(case.file(&bytes), &words, &["--token-type", name]);
        report.add(format_args!("{name}: {words:?}"), outcome);
    }
}

/// Row T5: as many tokens as the context has positions, one more, and with generation.
#[test]
fn t5_refuses_one_token_beyond_context() {
    let mut report = Report::new("T5");
    let case = Case::new();
    let prompt = |length: usize| ids((0..length as u32).map(|i| i % VOCAB_SIZE));
    let exactly = finish(&mut case.infer(&[&case.file(&prompt(CONTEXT))], &[]));
    let lines = exactly.stdout.lines().count();
    report.holds("exactly the context", exactly.code == Some(0) && lines == CONTEXT, exactly.stderr);
    let says = "expected at most 64, the positions of the model; shorten the prompt";
    report.add("one more", case.bytes_refused(&prompt(CONTEXT + 1), &["65 tokens, ", says]));
    report.add("many more", case.bytes_refused(&prompt(1 << 20), &["1048576 tokens, ", says]));
    let refusal = Refusal::one_line("olmo-infer", "standard input: ", &["more than 64 tokens, ", says]);
    let long_input = || {
        let mut command = case.infer(&[], &[]);
        feed_stdin(&mut command, prompt(CONTEXT + 1), false);
        command
    };
    report.add("one more on standard input", refusal.check(case.folder.path(), long_input));
}

/// Row T5.
#[test]
fn t5_generation_stops_at_context() {
    let mut report = Report::new("T5");
    let case = Case::new();
    let file = case.file(&ids(vec![3; CONTEXT - 1]));
    let fits = |flags: &[&str]| finish(&mut case.infer(&[&file], flags));
    for flags in [&[][..], &["--steps", "64"], &["--text", "--max-tokens", "2"], &["--text"]] {
        let finished = fits(flags);
        report.holds(format_args!("{flags:?}"), finished.code == Some(0), finished.stderr);
    }
    report.holds("--steps 64", fits(&["--steps", "64"]).stdout.lines().count() == 64, "other lines");
    let says = "65 positions were asked for (the prompt has 63), the model has 64; ask for fewer";
    for flags in [["--steps", "65"].as_slice(), &["--text", "--max-tokens", "3"]] {
        report.add(format_args!("{flags:?}"), case.refused(&file, &[says], flags));
    }
    let most = "18446744073709551615";
    report.add("--steps of 64 bits", case.refused(&file, &["positions were asked for"], &["--steps", most]));
    report.add("--max-tokens of 64 bits", case.refused(&file, &["positions"], &["--text", "--max-tokens", most]));
}

/// Row T6: a sparse terabyte.
#[test]
fn t6_refuses_sparse_terabyte() {
    let mut report = Report::new("T6");
    let case = Case::new();
    let file = case.file(b"");
    for (length, tokens) in [(1u64 << 40, 1u64 << 38), ((1 << 40) + 3, 1 << 38), (4 * 65, 65)] {
        File::options().write(true).open(&file).and_then(|file| file.set_len(length)).expect("resized");
        let says = format!("{tokens} tokens, expected at most 64");
        report.add(length, case.refused(&file, &[&says, "shorten the prompt"], &[]));
    }
}

/// Row T7: FIFO, standard input, process substitution.
#[test]
fn t7_reads_prompts_from_pipes() {
    let mut report = Report::new("T7");
    let case = Case::new();
    let prompt = ids([3, 1, 4, 1, 5]);
    let expected = case.printed(&prompt);
    let fifo = case.folder.join("fifo");
    make_fifo(&fifo);
    feed_fifo(&fifo, prompt.clone(), false);
    report.add("a FIFO", same(&finish(&mut case.infer(&[&fifo], &[])), &expected));
    for tokens in [None, Some("-"), Some("/dev/stdin"), Some("/proc/self/fd/0")] {
        let paths: Vec<&Path> = tokens.iter().map(Path::new).collect();
        let mut piped = case.infer(&paths, &[]);
        feed_stdin(&mut piped, prompt.clone(), false);
        report.add(format_args!("a pipe as {tokens:?}"), same(&finish(&mut piped), &expected));
        let mut from_file = case.infer(&paths, &[]);
        from_file.stdin(File::open(case.file(&prompt)).expect("opened"));
        report.add(format_args!("a file as {tokens:?}"), same(&finish(&mut from_file), &expected));
    }
    // In pieces: a pipe gives what there is.
    let mut slow = case.infer(&[], &[]);
    let (reader, mut writer) = io::pipe().expect("a pipe");
    slow.stdin(reader);
    let pieces = prompt.clone();
    thread::spawn(move || {
        for byte in pieces {
            writer.write_all(&[byte]).expect("read");
            thread::sleep(std::time::Duration::from_millis(3));
        }
    });
    report.add("a slow pipe", same(&finish(&mut slow), &expected));
    let mut substituted = command("bash");
    substituted.args(["-c", "exec \"$0\" \"$1\" <(cat \"$2\") --threads 1", INFER]);
    substituted.args([&case.model, &case.file(&prompt)]);
    report.add("process substitution", same(&finish(&mut substituted), &expected));
}

/// Row T7.
#[test]
fn t7_refuses_other_data_from_pipes() {
    let mut report = Report::new("T7");
    let case = Case::new();
    let fifo = case.folder.join("fifo");
    make_fifo(&fifo);
    let cases: [(&str, Vec<u8>, bool, &str); 5] = [
        ("a writer that dies at once", vec![], false, "no tokens, expected at least one"),
        ("a writer that dies inside an id", ids([3, 1])[..7].to_vec(), false, "7 bytes, expected a multiple of 4"),
        ("a writer that never ends", vec![0; 4096], true, "more than 64 tokens, expected at most 64"),
        ("one id too many", ids([1; CONTEXT + 1]), false, "more than 64 tokens, expected at most 64"),
        ("an id outside the vocabulary", ids([1, 101]), false, "token 1 is 101, the vocabulary has ids 0 to 100"),
    ];
    for (variant, bytes, endless, says) in cases {
        let refusal = Refusal::one_line("olmo-infer", format!("{}: ", fifo.display()), &[says]);
        let through_fifo = || {
            feed_fifo(&fifo, bytes.clone(), endless);
            case.infer(&[&fifo], &[])
        };
        report.add(format_args!("{variant}, a FIFO"), refusal.check(case.folder.path(), through_fifo));
        for (tokens, shown) in [("-", "standard input"), ("/dev/stdin", "/dev/stdin")] {
            let refusal = Refusal::one_line("olmo-infer", format!("{shown}: "), &[says]);
            let through_stdin = || {
                let mut command = case.infer(&[Path::new(tokens)], &[]);
                feed_stdin(&mut command, bytes.clone(), endless);
                command
            };
            report.add(format_args!("{variant}, {shown}"), refusal.check(case.folder.path(), through_stdin));
        }
    }
    let refusal = Refusal::one_line("olmo-infer", "/dev/fd/", &["3 bytes, expected a multiple of 4"]);
    let substituted = || {
        let mut command = command("bash");
        command.args(["-c", "exec \"$0\" \"$1\" <(printf abc)", INFER]).arg(&case.model);
        command
    };
    report.add("process substitution", refusal.check(case.folder.path(), substituted));
}

/// Row T8: folder, unreadable file, absent file, devices.
#[test]
fn t8_refuses_other_kinds_of_files() {
    let mut report = Report::new("T8");
    let case = Case::new();
    let path = |name: &str| case.folder.join(name);
    report.add("missing", case.refused(path("none"), &["cannot open: No such file or directory"], &[]));
    report.add("a folder", case.refused(path("weights"), &["is a folder, expected a regular file"], &[]));
    report.add("/dev/zero", case.refused("/dev/zero", &["more than 64 tokens, expected at most 64"], &[]));
    report.add("/dev/full", case.refused("/dev/full", &["more than 64 tokens, expected at most 64"], &[]));
    symlink("nowhere", path("dangling")).expect("linked");
    report.add("a dangling link", case.refused(path("dangling"), &["cannot open: No such file or directory"], &[]));
    symlink("loop", path("loop")).expect("linked");
    report.add("a loop of links", case.refused(path("loop"), &["cannot open: Too many levels of symbolic links"], &[]));
    let _listener = UnixListener::bind(path("socket")).expect("bound");
    report.add("a socket", case.refused(path("socket"), &["cannot open: No such device or address"], &[]));
    let below_a_file = case.model.join("t.bin");
    report.add("below a file", case.refused(below_a_file, &["cannot open: Not a directory"], &[]));
    report.add("unreadable memory", case.refused("/proc/self/mem", &["cannot read: Input/output error"], &[]));
    let name = path(&"x".repeat(256));
    report.add("a name longer than it may be", case.refused(name, &["cannot open: File name too long"], &[]));
    let refusal = Refusal::one_line("olmo-infer", "standard input: ", &["cannot read: Is a directory"]);
    let folder_as_input = || {
        let mut command = case.infer(&[], &[]);
        command.stdin(File::open("/").expect("opened"));
        command
    };
    report.add("a folder as standard input", refusal.check(case.folder.path(), folder_as_input));
}

/// Row T8.
#[test]
fn t8_reports_unreadable_file() {
    let case = Case::new();
    let file = case.file(&ids([1]));
    let as_user = || {
        let mut command = case.infer(&[&file], &[]);
        as_ordinary_user(&mut command);
        command
    };
    if olmo_tests::catalogue::Run::new(&mut as_user()).is_ok_and(|run| !run.status.success()) {
        skipped(format_args!("T8: an ordinary user cannot run {INFER}"));
        return;
    }
    let mut report = Report::new("T8");
    fs::set_permissions(&file, Permissions::from_mode(0o000)).expect("changed");
    let words = ["cannot open: Permission denied"];
    let refusal = Refusal::one_line("olmo-infer", format!("{}: ", file.display()), &words);
    report.add("unreadable", refusal.check(case.folder.path(), as_user));
}

/// Row T8.
#[test]
fn t8_reports_each_bad_file_in_a_line() {
    let mut report = Report::new("T8");
    let case = Case::new();
    let good = case.file(&ids([1, 2]));
    let (empty, long) = (case.folder.join("empty"), case.folder.join("a\nb"));
    fs::write(&empty, "").expect("written");
    fs::write(&long, [0; 4 * 65]).expect("written");
    let none = case.folder.join("none");
    let line = |name: &str, says: &str| vec![format!("{}/{name}: {says}", case.folder.path().display())];
    let lines = vec![line("empty", "no tokens"), line("none", "cannot open"), line("a\\nb", "65 tokens")];
    let refusal = Refusal { program: "olmo-infer", status: 1, lines, more: 0 };
    let infer = || case.infer(&[&good, &empty, &none, &good, &long], &[]);
    report.add("three of five", refusal.check(case.folder.path(), infer));
}

/// Row T9: text, decimal numbers, UTF-16, byte order mark, `.npy`, `.npz`, PyTorch files, pickles, gzip.
#[test]
fn t9_names_the_format_of_other_files() {
    let mut report = Report::new("T9");
    let case = Case::new();
    let npy =
        |descr: &str, numbers: usize, width: usize| [npy_header(descr, &[numbers]), vec![0; numbers * width]].concat();
    let model = fs::read(&case.model).expect("a model");
    let text = "(it looks like text)";
    let numbers = "(it looks like decimal numbers in text)";
    let text_in_utf16: Vec<u8> = "\u{feff}Four".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let files: [(&str, Vec<u8>, &[&str]); 20] = [
        ("a line", b"Four score and seven years ago\n".to_vec(), &["31 bytes", text]),
        ("a word of 4 bytes", b"Four".to_vec(), &["token 0 is 1920298822", text]),
        ("numbers", b"72, 97, 100, 32\n".to_vec(), &["token 0 is", numbers, "'<u4').tofile('tokens.bin')"]),
        ("JSON", b"[72,97]\n".to_vec(), &["token 0 is", numbers]),
        ("CRLF", b"72\r\n97\r\n".to_vec(), &["token 0 is", numbers]),
        ("three bytes of a number", b"72\n".to_vec(), &["3 bytes", numbers]),
        ("UTF-16", text_in_utf16, &["10 bytes", "(it looks like text in UTF-16)", "iconv"]),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0".to_vec(), &["token 0 is", "(it looks like a gzip file)", "gzip -d"]),
        (".npz", b"PK\x03\x04\x14\0\0\0\0\0\0\0!\0arr_0.npy\0".to_vec(), &["token 0 is", "a .npz file"]),
        (".pt", b"PK\x03\x04\0\0\x08\x08t/data.pkl\0\0".to_vec(), &["token 0 is", "a PyTorch file", "tensor.numpy()"]),
        ("a pickle", b"\x80\x04\x95\x0b\0\0\0\0".to_vec(), &["token 0 is", "a Python pickle"]),
        ("a long text", b"Four score ".repeat(1000), &["2750 tokens", text]),
        ("a byte order mark", b"\xef\xbb\xbfFour score".to_vec(), &["13 bytes", "text with a byte order mark"]),
        ("a byte order mark and 4 bytes", b"\xef\xbb\xbf7".to_vec(), &["token 0 is", "text with a byte order mark"]),
        (".npy of u4", npy("<u4", 4, 4), &["token 0 is", "it looks like a .npy file of <u4", "numpy.load"]),
        (".npy of i8", npy("<i8", 4, 8), &["token 0 is", "it looks like a .npy file of <i8"]),
        (".npy of u2", npy("<u2", 3, 2), &["134 bytes", "it looks like a .npy file"]),
        ("a long .npy", npy("<u4", 1000, 4), &["1032 tokens", "it looks like a .npy file"]),
        ("the model", model.clone(), &["tokens", "a model file: are the arguments swapped?"]),
        ("the begin of the model", model[..40].to_vec(), &["token 0 is", "are the arguments swapped?"]),
    ];
    for (variant, bytes, words) in files {
        report.add(variant, case.bytes_refused(&bytes, words));
    }
}

/// Row T10: a file that changes.
#[test]
fn t10_ignores_changes_after_reading() {
    let mut report = Report::new("T10");
    let case = Case::new();
    let (first, second) = (ids([3, 1, 4]), ids([1, 5, 9]));
    let expected = {
        let path = case.folder.join("second.bin");
        fs::write(&path, &second).expect("written");
        let finished = finish(&mut case.infer(&[&case.file(&first), &path], &["--json"]));
        finished.ok().to_string()
    };
    type Change = (&'static str, fn(&Path));
    let changes: [Change; 4] = [
        ("rewritten", |path| fs::write(path, [0xff; 12]).expect("written")),
        ("cut", |path| File::options().write(true).open(path).and_then(|file| file.set_len(5)).expect("cut")),
        ("grown", |path| fs::write(path, [0; 4 * 65]).expect("written")),
        ("removed", |path| fs::remove_file(path).expect("removed")),
    ];
    for (variant, change) in changes {
        let (file, fifo) = (case.file(&first), case.folder.join(variant));
        make_fifo(&fifo);
        let mut command = case.infer(&[&file, &fifo], &["--json"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        // Opening waits until the program opens the second file, when it has read the first.
        let mut writer = OpenOptions::new().write(true).open(&fifo).expect("opened");
        change(&file);
        writer.write_all(&second).expect("read");
        drop(writer);
        let output = child.wait_with_output().expect("ends");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        report.holds(variant, output.status.success() && named(&printed, &fifo) == expected, printed);
    }
}

/// The results with the name of the second file that the expected ones have.
fn named(printed: &str, fifo: &Path) -> String {
    let name = fifo.file_name().and_then(|name| name.to_str()).expect("a name");
    printed.replace(&format!("/{name}\""), "/second.bin\"")
}
