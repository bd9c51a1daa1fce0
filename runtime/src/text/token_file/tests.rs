use super::*;

fn problem(bytes: &[u8]) -> String {
    parse(Path::new("t.bin"), bytes, 100, 3).expect_err("must be refused").to_string()
}

fn checked(bytes: &[u8], token_type: TokenType, vocab_size: usize, most: usize) -> Result<Vec<u32>, String> {
    let limit = Limit::of_positions(most);
    let ids = Ids { path: Path::new("t.bin"), token_type: Some(token_type), vocab_size, limit, bytes: None };
    ids.read(&mut &*bytes).map_err(|error| error.to_string())
}

/// A source that counts the bytes read.
struct Counted<'a>(&'a [u8], &'a mut usize);

impl Read for Counted<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let most = out.len().min(1000);
        let n = self.0.read(&mut out[..most])?;
        *self.1 += n;
        Ok(n)
    }
}

#[test]
fn reading_stops_at_piece_with_first_invalid_id() {
    const N: usize = 100_000;
    let good: Vec<u32> = (0..N as u32).map(|i| i % 99 + 1).collect();
    let bytes = |ids: &[u32]| -> Vec<u8> { ids.iter().flat_map(|id| id.to_le_bytes()).collect() };
    let read = |bytes: &[u8], token_type, most: usize| {
        let mut taken = 0;
        let limit = Limit::of_positions(most);
        let ids = Ids { path: Path::new("t.bin"), token_type, vocab_size: 100, limit, bytes: None };
        let read = ids.read(&mut Counted(bytes, &mut taken)).map_err(|error| error.to_string());
        (read, taken)
    };
    assert_eq!(read(&bytes(&good), None, N).0, Ok(good.clone()));
    let expected = format!("t.bin: more than {} tokens, expected at most {}", N - 1, N - 1);
    assert!(read(&bytes(&good), None, N - 1).0.expect_err("too many").starts_with(&expected));
    for at in [3, 20_000, 50_000] {
        let mut ids = good.clone();
        ids[at] = 100;
        let (refused, taken) = read(&bytes(&ids), None, N);
        let expected = format!("t.bin: token {at} is 100, the vocabulary has ids 0 to 99; make them");
        assert!(refused.expect_err("wrong").starts_with(&expected));
        assert!(taken <= (4 * at / PIECE_BYTES + 1) * PIECE_BYTES, "{taken} bytes for id {at}");
    }
    let half = [bytes(&good), vec![7]].concat();
    let refused = read(&half, None, N).0.expect_err("half an id");
    assert_eq!(refused, format!("t.bin: {} bytes, expected a multiple of 4 (little-endian u32 ids)", 4 * N + 1));
    // Ids of another width are detected from all ids.
    let wide: Vec<u32> = good.iter().flat_map(|&id| [id, 0]).collect();
    assert!(read(&bytes(&wide), None, 2 * N).0.expect_err("wide").contains("it looks like 64-bit ids"));
    let narrow = read(&bytes(&good), Some(TokenType::U16), 2 * N).0.expect_err("wide");
    assert!(narrow.contains("it looks like u32 ids"), "{narrow}");
    let narrow = read(&bytes(&wide), Some(TokenType::U16), 4 * N).0.expect_err("wide");
    assert!(narrow.contains("it looks like i64 ids"), "{narrow}");
    assert_eq!(read(&bytes(&wide), Some(TokenType::I64), N).0, Ok(good));
}

#[test]
fn ids_are_little_endian() {
    let tokens = parse(Path::new("t.bin"), &[1, 0, 0, 0, 99, 0, 0, 0], 100, 3);
    assert_eq!(tokens.expect("good ids"), [1, 99]);
}

#[test]
fn rejects_more_ids_than_positions_without_reading() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("t.bin");
    let read = |bytes: &[u8], length: u64| {
        std::fs::write(&path, bytes).expect("written");
        OpenOptions::new().write(true).open(&path).expect("a file").set_len(length).expect("longer");
        read_tokens(&path, 100, 3).map_err(|error| error.to_string())
    };
    assert_eq!(read(&[7, 0, 0, 0], 12), Ok(vec![7, 0, 0]));
    let hint_and_advice = |found: &str, advice: &str| {
        let path = path.display();
        Err(format!("{path}: {found}, expected at most 3, the positions of the model; {advice}"))
    };
    assert_eq!(read(&[], 16), hint_and_advice("4 tokens", "shorten the prompt"));
    // More than the memory of any machine.
    assert_eq!(read(&[], 1 << 40), hint_and_advice("274877906944 tokens", "shorten the prompt"));
    let text = "Four score and seven years ago our fathers brought forth on this continent";
    let advice = "encode it first";
    assert_eq!(read(text.as_bytes(), 74), hint_and_advice("18 tokens (it looks like text)", advice));
    let wide: Vec<u8> = [5u64; 9].iter().flat_map(|id| id.to_le_bytes()).collect();
    let advice = "if so, read it as i64";
    assert_eq!(read(&wide, 72), hint_and_advice("18 tokens (it looks like 64-bit ids)", advice));
    std::fs::remove_file(&path).expect("removed");
    let missing = read_tokens(&path, 100, 3).expect_err("no file").to_string();
    assert_eq!(missing, format!("{}: cannot open: No such file or directory", path.display()));
}

#[test]
fn ids_to_detokenize_are_not_limited_by_positions() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("t.bin");
    let bytes = 4 * MAX_TEXT_IDS as u64;
    std::fs::File::create(&path).expect("a file").set_len(bytes + 4).expect("longer");
    let line = read_text_ids(&path, Some(TokenType::U32), 100).expect_err("one too many").to_string();
    let says = "67108865 tokens, expected at most 67108864, the most that are detokenized at once; split the file";
    assert_eq!(line, format!("{}: {says}", path.display()));
    // The largest accepted length, but all of it is a hole.
    OpenOptions::new().write(true).open(&path).expect("a file").set_len(bytes).expect("shorter");
    let line = read_text_ids(&path, Some(TokenType::U32), 100).expect_err("a hole").to_string();
    let says = "more than 1 MiB of holes, expected ids; write it again";
    assert_eq!(line, format!("{}: {says}", path.display()));
    OpenOptions::new().write(true).open(&path).expect("a file").set_len(MAX_HOLES).expect("shorter");
    assert_eq!(read_text_ids(&path, Some(TokenType::U32), 100).expect("zeros").len() as u64, MAX_HOLES / 4);
}

#[test]
fn rejects_folder() {
    let folder = std::env::temp_dir();
    let line = read_tokens(&folder, 100, 3).expect_err("a folder").to_string();
    let expected = "is a folder, expected a regular file; give a file of little-endian u32 ids";
    assert_eq!(line, format!("{}: {expected}", folder.display()));
}

#[test]
fn errors_name_found_and_expected_values() {
    assert_eq!(problem(b""), "t.bin: no tokens, expected at least one little-endian u32 id");
    assert_eq!(problem(&[0; 7]), "t.bin: 7 bytes, expected a multiple of 4 (little-endian u32 ids)");
    assert_eq!(
        problem(&[0; 16]),
        "t.bin: more than 3 tokens, expected at most 3, the positions of the model; shorten the prompt"
    );
    assert_eq!(
        problem(&[0, 0, 0, 0, 100, 0, 0, 1]),
        "t.bin: token 1 is 16777316, the vocabulary has ids 0 to 99; make them with the tokenizer of this model"
    );
    let hints = |bytes: &[u8], hint: &str, advice: &str| {
        let line = problem(bytes);
        assert!(line.contains(&format!(" (it looks like {hint}); ")) && line.ends_with(advice), "{line}");
    };
    hints(&[0, 0, 0, 7], "big-endian 32-bit ids", ".astype('<u4').tofile('tokens.bin')");
    hints(&[5, 0, 7, 0], "16-bit ids", "; if so, read it as u16");
    hints(&[5, 0, 7, 0, 9, 0], "16-bit ids", "; if so, read it as u16");
    assert!(!problem(&[5, 0, 0, 0, 0, 1, 1, 0]).contains("16-bit"), "one wrong id");
    for text in ["Four score", "Four", "Four score and seven years", "Grüße", "\u{1f600}"] {
        let line = problem(text.as_bytes());
        assert!(line.contains(" (it looks like text)") && line.ends_with("; encode it first"), "{line}");
    }
    assert!(!problem(&[5, 0, 0, 0, 7]).contains("text"));
    hints(b"\x93NUMPY\x01\x00", "a .npy file", "numpy.load(FILE).astype('<u4').tofile('tokens.bin')");
    let negative = "token 0 is 4294967196 (-100 as a signed number), the vocabulary";
    assert!(problem(&(-100i32).to_le_bytes()).contains(negative));
}

#[test]
fn rejects_other_files_read_as_u16_ids() {
    let read = |bytes: &[u8]| checked(bytes, TokenType::U16, 100_352, 100);
    let ids = |ids: &[u64], width: usize| -> Vec<u8> {
        ids.iter().flat_map(|id| id.to_le_bytes()[..width].to_vec()).collect()
    };
    let large = [70_000, 5, 100_000, 17, 100_351];
    for (bytes, says) in [
        (b"\x93NUMPY\x01\x00v\x00".to_vec(), "looks like a .npy file, expected little-endian u16 ids; "),
        (b"PK\x03\x04\x14\0\0\0\0\0\0\0!\0arr_0.npy.".to_vec(), "looks like a .npz file"),
        (b"\x80\x04\x95\x0b\0\0\0.".to_vec(), "looks like a Python pickle"),
        (b"Four score".to_vec(), "looks like text"),
        (b"1 2 3\n".to_vec(), "looks like decimal numbers in text"),
        (ids(&[5, 7], 4), "looks like u32 ids); read it as u32"),
        (ids(&large, 4), "looks like u32 ids); read it as u32"),
        (ids(&[5, 7], 8), "looks like i64 ids); read it as i64"),
        (ids(&large, 8), "looks like i64 ids); read it as i64"),
    ] {
        let line = read(&bytes).expect_err("must be refused");
        assert!(line.contains(says), "{line}");
    }
    for good in [&[640u64, 0, 17, 65_535][..], &[5], &[0x4142, 0x2031], &[5, 0, 7], &[5, 1, 7, 0, 9, 2]] {
        let expected: Vec<u32> = good.iter().map(|&id| id as u32).collect();
        assert_eq!(read(&ids(good, 2)), Ok(expected));
    }
}

#[test]
fn rejects_64_bit_ids_unless_type_is_named() {
    let wide = [5, 0, 0, 0, 0, 0, 0, 0];
    let says = "t.bin: every second id is 0 (it looks like 64-bit ids); read it as i64, or name the type \
                u32 if these zeros are ids";
    assert_eq!(problem(&wide), says);
    let read = |bytes: &[u8], token_type| checked(bytes, token_type, 100, 3);
    assert_eq!(read(&wide, TokenType::U32), Ok(vec![5, 0]));
    assert_eq!(read(&wide, TokenType::I32), Ok(vec![5, 0]));
    assert_eq!(read(&wide, TokenType::I64), Ok(vec![5]));
    assert_eq!(read(&wide, TokenType::U64), Ok(vec![5]));
    assert_eq!(read(&[5, 0, 99, 0, 7, 0], TokenType::U16), Ok(vec![5, 99, 7]));
    // The values are checked nevertheless.
    for (bytes, token_type, says) in [
        (&[0; 16][..], TokenType::U32, "more than 3 tokens, expected at most 3"),
        (&[0; 8], TokenType::U16, "more than 3 tokens, expected at most 3"),
        (&[5, 0, 100, 0], TokenType::U16, "token 1 is 100, the vocabulary has ids 0 to 99"),
        (&[5, 0, 100], TokenType::U16, "3 bytes, expected a multiple of 2 (little-endian u16 ids)"),
        (
            &[5, 0, 0, 0],
            TokenType::I64,
            "4 bytes, expected a multiple of 8 (little-endian i64 ids) (it looks like \
                                         32-bit ids); if so, read it as u32",
        ),
        (&[0xff; 4], TokenType::I32, "token 0 is -1, the vocabulary has ids 0 to 99"),
        (&[0xff; 8], TokenType::I64, "token 0 is -1, the vocabulary has ids 0 to 99"),
        (&[0xff; 8], TokenType::U64, "token 0 is 18446744073709551615, the vocabulary"),
        (b"", TokenType::U16, "no tokens, expected at least one little-endian u16 id"),
    ] {
        let line = read(bytes, token_type).expect_err("must be refused");
        assert!(line.contains(says), "{line}");
    }
    assert_eq!(TokenType::named("i64"), Some(TokenType::I64));
    assert_eq!(TokenType::named("f32"), None);
}

#[test]
fn rejects_file_truncated_while_reading() {
    let limit = Limit::of_positions(10);
    let ids = |bytes| Ids { path: Path::new("t.bin"), token_type: None, vocab_size: 100, limit, bytes };
    let read = |bytes| ids(bytes).read(&mut &[5u8, 0, 0, 0, 7, 0, 0, 0][..]).map_err(|error| error.to_string());
    assert_eq!(read(Some(8)), Ok(vec![5, 7]));
    assert_eq!(read(None), Ok(vec![5, 7]));
    assert_eq!(read(Some(0)), Ok(vec![5, 7]));
    assert_eq!(read(Some(12)), Err("t.bin: cannot read all of it: the file ends before its length".into()));
}
