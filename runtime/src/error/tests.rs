use super::*;
use std::collections::HashSet;

/// One of each variant, with values that contain no words of the messages.
fn all() -> Vec<Error> {
    let path = || PathBuf::from("m");
    let source = || io::Error::from(io::ErrorKind::NotFound);
    let problem = || "p".to_string();
    let config = ConfigError { key: "k", found: "f".into(), expected: "e".into() };
    let reasons = [NotRun::Nested, NotRun::Circle, NotRun::Forked, NotRun::Rounding];
    let mut all: Vec<Error> = reasons.map(|why| Error::NotRun { why }).into();
    let read_as = |is_guess| TokenRemedy::ReadAs { token_type: "i64", is_guess };
    let remedies = [
        TokenRemedy::Stated,
        TokenRemedy::Other("o".into()),
        TokenRemedy::Encode,
        TokenRemedy::EncodeUtf16,
        read_as(true),
        read_as(false),
        TokenRemedy::ReadAs64Bits,
    ];
    all.extend(remedies.map(|remedy| Error::Tokens { path: path(), problem: problem(), remedy }));
    all.extend([
        Error::Io { path: path(), action: "a", source: source() },
        Error::NotAFile { path: path(), found: "f", advice: "a" },
        Error::NotOlmo { path: path(), found: "f", advice: "a" },
        Error::Version { path: path(), found: "f".into(), supported: "s".into(), is_older: true },
        Error::Version { path: path(), found: "f".into(), supported: "s".into(), is_older: false },
        Error::Length { path: path(), found: 1, expected: 2, is_stated: true },
        Error::Length { path: path(), found: 2, expected: 1, is_stated: false },
        Error::Damaged { path: path(), place: "p".into(), found: "f".into(), expected: "e".into() },
        Error::Unfinished { path: path() },
        Error::SavedSession { path: path(), source: SavedSessionError::NotASession },
        Error::Changed { path: path() },
        Error::Config { path: path(), source: config },
        Error::Map { path: path(), source: source() },
        Error::OutOfMemory { bytes: 1, what: "w", advice: "a" },
        Error::ModelTooLarge { bytes: 2, available: 1 },
        Error::ContextTooLarge { sequences: 1, positions: 2, bytes: 2, available: 1 },
        Error::ContextTooLarge { sequences: 3, positions: 2, bytes: 2, available: 1 },
        Error::AddressSpace { bytes: 1 },
        Error::TooManyPositions { asked: 2, most: 1 },
        Error::NoPositions,
        Error::NoTokens,
        Error::ContextFull { tokens: 2, left: 1, positions: 3 },
        Error::PassTooLong { tokens: 2, room: 1 },
        Error::NoSlot { slot: 2, n_slots: 2 },
        Error::UnknownToken { token: 2, vocab_size: 2 },
        Error::NothingEvaluated,
        Error::Sampling { name: "top_k", value: 0.0, low: 1.0, high: f64::INFINITY },
        Error::Sampling { name: "top_p", value: 2.0, low: 0.0, high: 1.0 },
        Error::NoVocabulary { path: path() },
        Error::NoTokenizer { path: path() },
        Error::NoChatTemplate { path: path() },
        Error::NoText { path: path(), token: 1 },
        Error::UnusableTokenizer { problem: problem() },
        Error::UnusableChatTemplate { problem: problem() },
        Error::Messages { source: ChatError::Order { index: 1, found: Some("user"), expected: "e" } },
        Error::NoEmbedding { text: "t".into(), token: 1, n_rows: 1 },
        Error::Unencodable { problem: problem() },
        Error::NotFinite { sequence: 0, position: 1, token: 2, first: Some((0, 1)) },
        Error::NotFinite { sequence: 0, position: 1, token: 2, first: None },
    ]);
    all
}

#[test]
fn texts_are_one_line_without_an_option_of_a_program() {
    let all = all();
    for error in &all {
        let text = error.to_string();
        assert!(!text.contains("--") && !text.contains('\n') && !text.contains("  "), "{text}");
    }
    let (_, variants) = include_str!("mod.rs").split_once("\npub enum Error {").expect("the enum");
    let variants = variants.split("\n}\n").next().expect("its variants").lines();
    let is_variant = |line: &&str| line.strip_prefix("    ").is_some_and(|line| line.starts_with(char::is_uppercase));
    let listed: HashSet<_> = all.iter().map(std::mem::discriminant).collect();
    assert_eq!(listed.len(), variants.filter(is_variant).count(), "a variant is missing in the list");
}

#[test]
fn texts_name_the_values() {
    for (error, text) in [
        (
            Error::ContextTooLarge { sequences: 3, positions: 9, bytes: 2_000_000_000, available: 500_000_000 },
            "3 sequences at a time need 2.0 GB for the KV cache and activations, 0.5 GB of memory are available",
        ),
        (
            Error::Sampling { name: "top_k", value: 0.0, low: 1.0, high: f64::INFINITY },
            "top_k is 0, expected at least 1",
        ),
        (
            Error::OutOfMemory { bytes: 7, what: "the KV cache", advice: "ask for fewer positions" },
            "out of memory: cannot allocate 7 bytes for the KV cache; ask for fewer positions",
        ),
    ] {
        assert_eq!(error.to_string(), text);
    }
}

/// Sources that may name options of the programs: those of the programs themselves.
const NAME_OPTIONS: [&str; 2] = ["bin", "cli"];

/// Adds the lines below `folder` that name an option in code.
fn lines_with_options(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        let name = path.strip_prefix(root).expect("inside").to_path_buf();
        if NAME_OPTIONS.iter().any(|exempt| name.starts_with(exempt)) || path.ends_with("tests.rs") {
            continue;
        }
        if path.is_dir() {
            lines_with_options(root, &path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a source");
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().lines();
        let is_option =
            |text: &str| text.split("--").skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
        for (number, line) in (1..).zip(code) {
            if is_option(line.split("//").next().unwrap_or_default()) {
                found.push(format!("{}:{number}: {}", name.display(), line.trim()));
            }
        }
    }
}

#[test]
fn sources_of_the_library_name_no_options() {
    let (root, mut found) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), Vec::new());
    lines_with_options(&root, &root, &mut found);
    assert!(found.is_empty(), "{}", found.join("\n"));
    // It finds them where they are.
    let cli = root.join("cli");
    lines_with_options(&cli, &cli, &mut found);
    assert!(!found.is_empty());
}
