//! `unpack` restores the GGUF file that was packed, byte for byte, if nothing was lost. Otherwise it names the first
//! tensor that lost something, or gives `.npy` files where only the encoding is another one.

use crate::PACK;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::{Architecture, ModelConfig};
use olmo_infer::internals::format::{self, SectionRecord, TensorRecord, section};
use olmo_infer::internals::os::disk::SystemDisk;
use olmo_infer::internals::os::hooked_disk::{Call, HookedDisk};
use olmo_pack::commands::copy;
use olmo_pack::commands::pack::{self, DtypeChoice, EncodingChoice, Request};
use olmo_pack::commands::unpack;
use olmo_pack::commands::verify;
use olmo_pack::folder::gguf::tensor_type::TensorType;
use olmo_pack::folder::listing::Listing;
use olmo_pack::write::wanted::Wanted;
use olmo_tests::crafted::{Field, repair_digests};
use olmo_tests::gguf::{Gguf, Meta, Tensor, blocks, of_folder};
use olmo_tests::packed::range;
use olmo_tests::{
    Random, Stored, TempDir, files, npy_path, repository, run, small_config, small_olmo1, small_olmo3, write_weights,
};
use std::fs;
use std::io;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The codes of types of blocks.
const Q4_0: u32 = 2;
const Q8_0: u32 = 8;
const Q6_K: u32 = 14;
const IQ4_NL: u32 = 20;

/// A GGUF file in a folder, with the model that it is packed into.
struct Case {
    folder: TempDir,
    bytes: Vec<u8>,
    request: Request,
}

impl Case {
    fn new(bytes: Vec<u8>) -> Case {
        let folder = TempDir::new("unpack-gguf");
        let weights = folder.join("from.gguf");
        fs::write(&weights, &bytes).expect("written");
        let (model, program) = (folder.join("m.olmo"), Some(PACK.into()));
        Case { request: Request { weights, model, program, force: true, ..Request::default() }, folder, bytes }
    }

    fn of(gguf: &Gguf) -> Case {
        Case::new(gguf.bytes())
    }

    fn with(mut self, change: impl FnOnce(&mut Request)) -> Case {
        change(&mut self.request);
        self
    }

    fn model(&self) -> &Path {
        &self.request.model
    }

    fn back(&self) -> PathBuf {
        self.folder.join("back")
    }

    /// Packs, and returns the warnings.
    #[track_caller]
    fn pack(&self) -> Vec<String> {
        let prepared = pack::prepare(&self.request).unwrap_or_else(|error| panic!("{error}"));
        let warnings = prepared.warnings();
        prepared.write(&SystemDisk, &|_, _| ()).unwrap_or_else(|error| panic!("{error}"));
        verify::run(self.model()).unwrap_or_else(|error| panic!("{error}"));
        warnings
    }

    /// Unpacks into a new folder; yields the summary after the folder, or the error after the model's path.
    fn unpack(&self) -> Result<String, String> {
        fs::remove_dir_all(self.back()).ok();
        let unpacked = unpack::run(self.model(), &self.back(), false, &SystemDisk);
        let without = |text: String, path: &Path| {
            let rest = text.strip_prefix(&format!("{}: ", path.display())).map(str::to_string);
            rest.unwrap_or_else(|| panic!("{text}"))
        };
        let result = unpacked.map(|text| without(text, &self.back()));
        result.map_err(|error| without(error.to_string(), self.model()))
    }

    /// Asserts that the file comes back and nothing else.
    #[track_caller]
    fn restores(&self, name: &str) {
        self.pack();
        assert_eq!(self.unpack().as_deref(), Ok("model.gguf, restored exactly"), "{name}");
        let found = files(&self.back());
        assert_eq!(found.keys().collect::<Vec<_>>(), ["model.gguf"], "{name}");
        assert!(found["model.gguf"] == self.bytes, "{name}");
    }

    /// Asserts that it is refused and that nothing is left.
    #[track_caller]
    fn refuses(&self, says: &str) {
        self.pack();
        assert_eq!(self.unpack(), Err(format!("{says}; it cannot be unpacked, so keep the GGUF file")));
        assert!(!self.back().exists());
    }

    /// The model file with a changed section `GGUF` of the same length, under right digests.
    fn crafted(&self, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let file = ModelFile::open(self.model()).expect("a model");
        let is_gguf = |record: &SectionRecord| record.kind.get() == section::GGUF;
        let index = file.sections().iter().position(is_gguf).expect("a section");
        let mut bytes = fs::read(self.model()).expect("a model");
        let section = &mut bytes[range(file.layout().sections[index])];
        change(section);
        let digest = format::digest(section, section::GGUF.into());
        Field::of_section(file.specs().len(), index, offset_of!(SectionRecord, digest), 8).set(&mut bytes, digest);
        repair_digests(&mut bytes);
        bytes
    }
}

/// A file of elements.
fn of_elements(config: &ModelConfig, stored: Stored) -> Gguf {
    let folder = TempDir::new("unpack-gguf-from");
    write_weights(folder.path(), config, stored, 21);
    of_folder(folder.path(), config)
}

/// A file whose matrices have random blocks of the type that `choose` returns.
fn of_blocks(config: &ModelConfig, choose: impl Fn(&str) -> Option<u32>) -> Gguf {
    let mut gguf = of_elements(config, Stored::F16);
    let mut random = Random(23);
    for tensor in gguf.tensors.iter_mut().filter(|tensor| tensor.shape.len() == 2) {
        let Some(code) = choose(&tensor.name) else { continue };
        let kind = TensorType::with_code(code).expect("a type");
        tensor.data = blocks(kind, tensor.shape.iter().product(), &mut random);
        // Scales of both signs, zeros among them.
        let blocks = tensor.data.chunks_exact_mut(kind.block_bytes as usize).filter(|_| code != Q6_K);
        blocks.enumerate().for_each(|(i, block)| match i % 8 {
            0 => block[1] |= 0x80,
            1 => block[..2].copy_from_slice(&[0, 0x80]),
            2 => block[..2].copy_from_slice(&[3, 0]),
            _ => {}
        });
        tensor.kind = code;
    }
    gguf
}

/// A model of two layers whose matrices have whole blocks, also of 256.
fn block_config() -> ModelConfig {
    ModelConfig { layer_types: small_config().layer_types, ..crate::gguf::block_config() }
}

fn olmo1(config: ModelConfig) -> ModelConfig {
    let ModelConfig { architecture, rms_norm_eps, clip_qkv, .. } = small_olmo1();
    ModelConfig { architecture, rms_norm_eps, clip_qkv, ..config }
}

fn tied(config: ModelConfig) -> ModelConfig {
    ModelConfig { tie_word_embeddings: true, ..config }
}

#[test]
fn elements_of_every_type_and_model_round_trip() {
    let configs = [small_config(), tied(small_config()), small_olmo1(), tied(small_olmo1()), small_olmo3()];
    for config in configs {
        for stored in [Stored::F32, Stored::F16, Stored::Bf16, Stored::F32OfBf16] {
            let gguf = of_elements(&config, stored);
            for dtype in [DtypeChoice::Auto, DtypeChoice::F32] {
                let name = format!("{:?}, tied {}, {dtype:?}", config.architecture, config.tie_word_embeddings);
                Case::of(&gguf).with(|request| request.dtype = dtype).restores(&name);
            }
        }
        let plain = |request: &mut Request| {
            (request.dtype, request.encoding) = (DtypeChoice::Bf16, EncodingChoice::Plain);
        };
        Case::of(&of_elements(&config, Stored::Bf16)).with(plain).restores("plain bf16");
    }
}

#[test]
fn vectors_of_16_bits_round_trip() {
    let mut gguf = of_elements(&small_config(), Stored::F32);
    for (name, kind, half) in [("output_norm.weight", 1, 0x3e00u16), ("blk.1.attn_q_norm.weight", 30, 0x3f81)] {
        let tensor = gguf.tensor(name);
        tensor.kind = kind;
        tensor.data = half.to_le_bytes().repeat(tensor.shape[0] as usize);
    }
    Case::of(&gguf).restores("vectors");
}

#[test]
fn kept_blocks_round_trip() {
    for config in [block_config(), olmo1(block_config()), tied(block_config()), tied(olmo1(block_config()))] {
        for (kind, grade) in [(Q8_0, DtypeChoice::Int8), (Q4_0, DtypeChoice::Int4), (IQ4_NL, DtypeChoice::Int4)] {
            // A head of Q4_0 next to the others is what --pure writes.
            let gguf = of_blocks(&config, |_| Some(kind));
            let name = format!("type {kind}, {:?}, tied {}", config.architecture, config.tie_word_embeddings);
            Case::of(&gguf).restores(&name);
            let is_f16 = |name: &str| name.starts_with("blk.1") || !name.starts_with("blk.");
            let mixed = of_blocks(&config, |name| (!is_f16(name)).then_some(kind));
            Case::of(&mixed).restores(&format!("{name}, next to F16"));
            if !config.tie_word_embeddings {
                let case = Case::of(&gguf).with(|request| request.dtype = grade);
                case.restores(&format!("{name} by its grade"));
            }
        }
    }
}

#[test]
fn metadata_and_alignment_round_trip() {
    let mut gguf = of_elements(&small_config(), Stored::F16);
    let tokens = ["a", "b", "ab", "<|endoftext|>"].map(String::from).into_iter();
    let tokens = tokens.chain((4..101).map(|id| format!("[PAD{id}]"))).collect();
    gguf.set("tokenizer.ggml.model", "gpt2");
    gguf.set("tokenizer.ggml.pre", "dbrx");
    gguf.set("tokenizer.ggml.tokens", Meta::Texts(tokens));
    gguf.set("tokenizer.ggml.token_type", Meta::I32s([1, 1, 1, 3].into_iter().chain([5; 97]).collect()));
    gguf.set("tokenizer.ggml.merges", Meta::Texts(vec!["a b".into()]));
    gguf.set("tokenizer.chat_template", "{% for m in messages %}[{{ m.content }}]{% endfor %}");
    gguf.set("general.license", "\u{e9}\r\n\0");
    gguf.set("general.quantized_by", Meta::Raw(8, [&3u64.to_le_bytes()[..], b"\xff\xfe\xfd"].concat()));
    gguf.set("general.f64", Meta::F64(f64::NAN));
    for alignment in [8, 32, 64, 4096, 1 << 20] {
        gguf.set("general.alignment", Meta::U32(alignment));
        gguf.alignment = alignment as usize;
        let whole = gguf.bytes();
        let last = gguf.tensors.last().expect("a tensor").data.len().next_multiple_of(gguf.alignment);
        let unpadded = gguf.tensors.last().expect("a tensor").data.len();
        Case::new(whole.clone()).restores(&format!("alignment {alignment}"));
        // A writer need not fill the last one up.
        for end in [unpadded, (unpadded + 1).min(last)] {
            let bytes = whole[..whole.len() - last + end].to_vec();
            Case::new(bytes).restores(&format!("alignment {alignment}, {end} of {last} bytes"));
        }
    }
}

#[test]
fn tensors_in_another_order_round_trip() {
    let mut gguf = of_blocks(&olmo1(block_config()), |name| name.contains("ffn").then_some(Q8_0));
    gguf.tensors.reverse();
    Case::of(&gguf).restores("reversed");
}

#[test]
fn file_of_the_package_round_trips_without_its_head() {
    // The head is Q6_K, next to tensors of every other type.
    let path = repository().join("tests/golden-gguf/model.gguf");
    let (mut bytes, listing) = (fs::read(&path).expect("read"), Listing::read(&path).expect("a file"));
    for name in &listing.tensors {
        let tensor = listing.tensor(name, false).expect("a tensor");
        if tensor.type_name() == "Q8_0" {
            // Its random blocks have integers of -128, which no quantizer writes.
            let data = &mut bytes[tensor.offset as usize..][..tensor.stored_bytes() as usize];
            let integers = data.chunks_exact_mut(34).flat_map(|block| &mut block[2..]);
            integers.filter(|integer| **integer == 0x80).for_each(|integer| *integer = 0x81);
        }
    }
    let head = listing.tensor("lm_head.weight", false).expect("a head");
    assert_eq!(head.type_name(), "Q6_K");
    let info = b"\x0d\0\0\0\0\0\0\0output.weight";
    let at = bytes.windows(info.len()).position(|window| window == info).expect("there");
    // Its description has two dimensions, a type and an offset; it is the last one, and so are its data.
    let described = at + info.len() + 4 + 16 + 4 + 8;
    let mut header = bytes[..described].to_vec();
    header.drain(at..described);
    let mut rest = bytes[described..].to_vec();
    let data = described.next_multiple_of(32);
    assert!(bytes[described..data].iter().all(|&byte| byte == 0) && head.offset > data as u64);
    rest = rest[data - described..head.offset as usize - described].to_vec();
    let n_tensors = u64::from_le_bytes(*header[8..].first_chunk().expect("there"));
    header[8..16].copy_from_slice(&(n_tensors - 1).to_le_bytes());
    header.resize(header.len().next_multiple_of(32), 0);
    Case::new([header, rest].concat()).restores("the file of the package");
}

#[test]
fn vocabulary_from_elsewhere_comes_back_next_to_the_file() {
    let case = Case::of(&of_elements(&small_config(), Stored::F32));
    let vocab = case.folder.join("words");
    fs::write(&vocab, "0\ta\n").expect("written");
    let case = case.with(|request| request.vocab = Some(vocab));
    case.pack();
    assert_eq!(case.unpack().as_deref(), Ok("model.gguf and vocab.txt, restored exactly"));
    let found = files(&case.back());
    assert_eq!(found.keys().collect::<Vec<_>>(), ["model.gguf", "vocab.txt"]);
    assert!(found["model.gguf"] == case.bytes && found["vocab.txt"] == b"0\ta\n");
}

#[test]
fn copied_model_restores_the_file() {
    let case = Case::of(&of_blocks(&block_config(), |_| Some(Q8_0)));
    case.pack();
    let copied = case.folder.join("copy.olmo");
    copy::run(case.model(), &copied, false, &SystemDisk, &|_, _| ()).expect("copied");
    unpack::run(&copied, &case.back(), false, &SystemDisk).expect("unpacked");
    assert!(files(&case.back())["model.gguf"] == case.bytes);
    let shown = run(PACK, ["inspect".as_ref(), copied.as_os_str()]).ok().to_string();
    assert!(shown.contains("GGUF          the header of its GGUF file"), "{shown}");
}

#[test]
fn existing_file_is_replaced_only_with_force() {
    let case = Case::of(&of_elements(&small_config(), Stored::F32));
    case.pack();
    fs::create_dir(case.back()).expect("a folder");
    let file = case.back().join("model.gguf");
    fs::write(&file, "mine").expect("written");
    let error = unpack::run(case.model(), &case.back(), false, &SystemDisk).expect_err("refused").to_string();
    assert!(error.ends_with("--force replaces the files of the same names"), "{error}");
    assert_eq!(fs::read(&file).expect("read"), b"mine");
    unpack::run(case.model(), &case.back(), true, &SystemDisk).expect("unpacked");
    assert!(fs::read(&file).expect("read") == case.bytes);
    // The model under that name.
    fs::copy(case.model(), &file).expect("copied");
    let error = unpack::run(&file, &case.back(), true, &SystemDisk).expect_err("refused").to_string();
    assert!(error.contains("model.gguf: is the model that is unpacked"), "{error}");
    assert!(ModelFile::open(&file).is_ok());
}

#[test]
fn lost_numbers_are_refused_by_tensor() {
    let head = |name: &str| Some(if name == "output.weight" { Q6_K } else { Q4_0 });
    Case::of(&of_blocks(&block_config(), head))
        .refuses("lm_head.weight: is Q6_K in the GGUF file and was rounded to int8");
    let rounded = "model.embed_tokens.weight: is F32 in the GGUF file and was rounded to ";
    let gguf = of_elements(&small_config(), Stored::F32);
    for (dtype, to) in [(DtypeChoice::Bf16, "bf12"), (DtypeChoice::Int8, "int8"), (DtypeChoice::Int4, "int4")] {
        let case = Case::of(&gguf).with(|request| request.dtype = dtype);
        case.pack();
        let refused = case.unpack().expect_err("refused");
        // A small matrix need not be bf12.
        let to = if to == "bf12" && refused.contains(" bf16;") { "bf16" } else { to };
        assert_eq!(refused, format!("{rounded}{to}; it cannot be unpacked, so keep the GGUF file"));
    }
    let blocks = Case::of(&of_blocks(&block_config(), |_| Some(Q8_0)));
    blocks
        .with(|request| request.dtype = DtypeChoice::Int4)
        .refuses("model.embed_tokens.weight: is Q8_0 in the GGUF file and was rounded to int4");
    let again = |request: &mut Request| {
        request.tensors = vec![("layers.1.mlp.up_proj".into(), Wanted::named("int4-f16").expect("an encoding"))];
    };
    Case::of(&of_blocks(&block_config(), |_| Some(Q4_0)))
        .with(again)
        .refuses("model.layers.1.mlp.up_proj.weight: is Q4_0 in the GGUF file and was rounded to int4-f16");
}

#[test]
fn left_out_tensors_are_refused() {
    let mut gguf = of_blocks(&block_config(), |_| Some(Q8_0));
    for name in ["z.weight", "extra.weight"] {
        gguf.tensors.push(Tensor {
            name: name.into(),
            kind: 13,
            shape: vec![1, 256],
            data: vec![1; 176],
            offset: None,
        });
    }
    let case = Case::of(&gguf).with(|request| request.allow_extra = true);
    case.refuses("extra.weight: is in the GGUF file, and was left out when the model was packed");
}

/// Asserts that `.npy` files with the numbers of a folder are written instead.
#[track_caller]
fn assert_npy(case: &Case, why: &str) {
    let said = case.unpack().expect("unpacked");
    let rest = said.split_once(' ').expect("words").1;
    let says = format!(".npy files, the numbers restored exactly; the GGUF file cannot be restored: {why}");
    assert_eq!(rest, says);
    let found = files(&case.back());
    assert!(!found.is_empty() && found.keys().all(|name| name.ends_with(".npy")), "{:?}", found.keys());
}

#[test]
fn blocks_stored_as_numbers_give_npy_files() {
    for (kind, name) in [(Q8_0, "Q8_0"), (Q4_0, "Q4_0"), (IQ4_NL, "IQ4_NL")] {
        let case = Case::of(&of_blocks(&block_config(), |_| Some(kind)));
        let case = case.with(|request| request.dtype = DtypeChoice::F32);
        case.pack();
        assert_npy(&case, &format!("model.embed_tokens.weight is {name} in it and f32 here"));
    }
    let one = |request: &mut Request| request.tensors = vec![("lm_head".into(), Wanted::F32)];
    let case = Case::of(&of_blocks(&block_config(), |_| Some(Q8_0))).with(one);
    case.pack();
    assert_npy(&case, "lm_head.weight is Q8_0 in it and f32 here");
    // Numbers that a Q6_K head gives are stored exactly as f32, but not its blocks.
    let head = |name: &str| Some(if name == "output.weight" { Q6_K } else { Q4_0 });
    let case = Case::of(&of_blocks(&block_config(), head));
    let case = case.with(|request| request.tensors = vec![("lm_head".into(), Wanted::F32)]);
    case.pack();
    assert_npy(&case, "lm_head.weight is Q6_K in it and f32 here");
}

#[test]
fn padding_that_is_not_zero_gives_npy_files_and_a_warning() {
    let mut gguf = of_elements(&small_config(), Stored::F16);
    gguf.set("general.alignment", Meta::U32(4096));
    gguf.alignment = 4096;
    let whole = gguf.bytes();
    let data = gguf.header().len().next_multiple_of(4096);
    let first = gguf.tensors[0].data.len();
    for at in [data + first, data + first.next_multiple_of(4096) - 1, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] = 1;
        let case = Case::new(bytes);
        let warnings = case.pack();
        let says = format!(
            "byte {at} between or behind its tensors is not zero: unpack will give .npy files, not the GGUF file"
        );
        assert_eq!(warnings, [says]);
        assert!(ModelFile::open(case.model()).expect("a model").section_bytes(section::GGUF).is_none());
        assert_npy(&case, "its header was not kept");
    }
    // Padding before the data is kept.
    let mut bytes = whole;
    bytes[data - 1] = 1;
    Case::new(bytes).restores("padding of the header");
}

#[test]
fn damaged_tensors_are_refused() {
    for (gguf, name, says) in [
        (of_elements(&small_olmo1(), Stored::F32), "q_proj", "the restored numbers are not those that were packed"),
        (of_elements(&small_config(), Stored::F16), "q_proj", "has values that are not f16 numbers"),
        (of_blocks(&block_config(), |_| Some(Q8_0)), "q_proj", "its digest is wrong"),
    ] {
        let case = Case::of(&gguf);
        case.pack();
        let file = ModelFile::open(case.model()).expect("a model");
        let index = file.specs().iter().position(|spec| spec.name().contains(name)).expect("a tensor");
        let (extent, name) = (file.layout().tensors[index], file.specs()[index].name());
        let mut bytes = fs::read(case.model()).expect("a model");
        bytes[extent.offset as usize] ^= 1;
        fs::write(case.model(), &bytes).expect("written");
        let advice = "the file is damaged, copy or pack it again";
        assert_eq!(case.unpack(), Err(format!("{name}: {says}; {advice}")));
        assert!(!case.back().exists());
        if says == "its digest is wrong" {
            // Under a right digest the numbers are others.
            let digest = format::digest(&bytes[range(extent)], index as u64);
            Field::of_tensor(index, offset_of!(TensorRecord, digest), 8).set(&mut bytes, digest);
            repair_digests(&mut bytes);
            fs::write(case.model(), &bytes).expect("written");
            let says = "the restored numbers are not those that were packed";
            assert_eq!(case.unpack(), Err(format!("{name}: {says}; {advice}")));
        }
    }
}

#[test]
fn other_blocks_of_the_same_numbers_are_refused() {
    let case = Case::of(&of_blocks(&block_config(), |_| Some(Q8_0)));
    case.pack();
    let file = ModelFile::open(case.model()).expect("a model");
    let mut bytes = fs::read(case.model()).expect("a model");
    // The second block of the first row, whose scale is -0: its integers can be any others of the same signs.
    let block = file.layout().tensors[0].offset as usize + (128 + 2048);
    assert_eq!(bytes[block..block + 2], [0, 0x80]);
    let element = &mut bytes[block + 128];
    *element = match *element {
        129 => 130,
        128.. => 129,
        127 => 126,
        _ => 127,
    };
    fs::write(case.model(), &bytes).expect("written");
    let says = "model.embed_tokens.weight: its digest is wrong; the file is damaged, copy or pack it again";
    assert_eq!(case.unpack(), Err(says.into()));
}

#[test]
fn damaged_sections_are_found_and_refused() {
    let gguf = of_elements(&small_config(), Stored::F16);
    let case = Case::of(&gguf);
    case.pack();
    let original = fs::read(case.model()).expect("a model");
    let replace = |from: &'static [u8], to: &'static [u8]| {
        move |section: &mut [u8]| {
            let at = section.windows(from.len()).position(|window| window == from).expect("it is there");
            section[at..at + to.len()].copy_from_slice(to);
        }
    };
    let kind_of = |name: &'static [u8], rank: usize, kind: u8| {
        move |section: &mut [u8]| {
            let at = section.windows(name.len()).position(|window| window == name).expect("it is there");
            section[at + name.len() + 4 + 8 * rank] = kind;
        }
    };
    type Edit = Box<dyn Fn(&mut [u8])>;
    let edits: Vec<(Edit, &str)> = vec![
        (Box::new(|section| section[7] = 0x80), "a file of "),
        (Box::new(|section| section[0] ^= 1), "bytes after the last tensor, expected the end of the file"),
        (Box::new(|section| section[2] ^= 0xff), ""),
        (Box::new(|section| section[8] = b'X'), "not a GGUF file"),
        (Box::new(|section| section[12] = 2), "version 2 of GGUF"),
        (Box::new(|section| section[16] -= 1), ""),
        (Box::new(|section| section[24] = 0xff), ""),
        (Box::new(replace(b"output_norm.weight", b"output_morn.weight")), "output_norm.weight: missing"),
        (Box::new(replace(b"blk.1.attn_q.weight", b"blk.7.attn_q.weight")), "blk.1.attn_q.weight: missing"),
        (Box::new(replace(b"blk.1.attn_k.weight", b"blk.1.attn_v.weight")), "a tensor twice"),
        (Box::new(kind_of(b"token_embd.weight", 2, 30)), "token_embd.weight: type BF16, not that of its source"),
        (Box::new(kind_of(b"token_embd.weight", 2, 25)), "token_embd.weight: type I16, which no model is packed from"),
        (
            Box::new(|section| {
                // The dimensions of the embedding, exchanged.
                let name = b"token_embd.weight";
                let at = section.windows(name.len()).position(|window| window == name).expect("there") + name.len() + 4;
                (0..8).for_each(|byte| section.swap(at + byte, at + 8 + byte));
            }),
            "token_embd.weight: shape [36, 101], not that of the model",
        ),
    ];
    for (edit, says) in edits {
        let bytes = case.crafted(edit);
        assert!(bytes != original, "{says}");
        fs::write(case.model(), &bytes).expect("written");
        let of_section = "section GGUF: ";
        let error = verify::run(case.model()).expect_err(says).to_string();
        assert!(error.contains(of_section) && error.contains(says) && error.lines().count() == 1, "{says}: {error}");
        let refused = case.unpack().expect_err(says);
        assert!(refused.starts_with(of_section) && refused.contains(says), "{says}: {refused}");
        assert!(!case.back().exists());
        fs::write(case.model(), &original).expect("written");
    }
    // Under a wrong digest.
    let mut bytes = case.crafted(|_| ());
    assert!(bytes == original);
    let file = ModelFile::open(case.model()).expect("a model");
    let at = file.layout().sections.last().expect("GGUF").offset as usize;
    bytes[at + 100] ^= 1;
    fs::write(case.model(), &bytes).expect("written");
    let refused = case.unpack().expect_err("refused");
    assert!(refused.starts_with("section GGUF: its digest is wrong"), "{refused}");
}

#[test]
fn numbers_come_back_in_npy_files_as_from_the_file() {
    // The rows of queries of an OLMo-1 are those of the checkpoint there.
    let config = olmo1(block_config());
    assert_eq!(config.architecture, Architecture::Olmo1);
    let folder = TempDir::new("unpack-gguf-npy");
    write_weights(folder.path(), &config, Stored::F16, 21);
    let mut gguf = of_folder(folder.path(), &config);
    let head = gguf.tensor("output.weight");
    (head.kind, head.data) = (Q8_0, blocks(TensorType::with_code(Q8_0).expect("a type"), 70 * 256, &mut Random(3)));
    let case = Case::of(&gguf).with(|request| request.dtype = DtypeChoice::F32);
    case.pack();
    assert_npy(&case, "lm_head.weight is Q8_0 in it and f32 here");
    let name = "model.layers.0.self_attn.q_proj.weight";
    let numbers = |folder: &Path| fs::read(npy_path(folder, name)).expect("read")[128..].to_vec();
    assert!(numbers(&case.back()).ends_with(&numbers(folder.path())));
}

#[test]
fn fault_of_the_disk_leaves_no_part_of_the_file() {
    let case = Case::of(&of_elements(&small_olmo1(), Stored::F16));
    case.pack();
    let (mut n_failed, mut fault) = (0, 0);
    loop {
        fs::remove_dir_all(case.back()).ok();
        let n_calls = AtomicUsize::new(0);
        let hook = |_: Call<'_>| match n_calls.fetch_add(1, Ordering::Relaxed) == fault {
            true => Err(io::Error::from_raw_os_error(5)),
            false => Ok(usize::MAX),
        };
        let result = unpack::run(case.model(), &case.back(), false, &HookedDisk(hook));
        let found = files(&case.back());
        // The last call makes the name durable.
        let is_whole = found.get("model.gguf").is_some_and(|bytes| *bytes == case.bytes);
        match result {
            Ok(_) => assert!(is_whole && found.len() == 1, "fault {fault}"),
            Err(error) => {
                n_failed += 1;
                assert!(found.is_empty() || is_whole && found.len() == 1, "fault {fault}: {:?}", found.keys());
                assert!(error.to_string().lines().count() == 1, "{error}");
            }
        }
        if fault >= n_calls.into_inner() {
            break;
        }
        fault += 1;
    }
    assert!(n_failed > 100, "{n_failed} of {fault}");
}
