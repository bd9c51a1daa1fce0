//! Kinds of sections that version 1 defines.

/// Where each tensor came from: element type, `.npy` header and digest of the source file.
pub const SOURCES: u32 = 1;
/// The bytes of every token.
pub const VOCABULARY: u32 = 2;
/// `config.json` as it was found.
pub const CONFIG_JSON: u32 = 3;
/// How the file was made: UTF-8 lines `key=value`.
pub const PROVENANCE: u32 = 4;
/// The tables of bf12 matrices.
pub const BF12: u32 = 5;
/// How text becomes ids: the kind of tokenizer, its ranks and added tokens.
pub const TOKENIZER: u32 = 6;
/// The texts around the turns of a conversation.
pub const CHAT: u32 = 7;
/// The small files of the folder, byte for byte.
pub const FILES: u32 = 8;
/// How the model's author recommends to choose tokens.
pub const SAMPLING: u32 = 9;
/// The GGUF file that was packed, without the data of its tensors.
pub const GGUF: u32 = 10;
/// The tensors of the folder that were not tensors of the model: other names, several in one, one in several.
pub const SPELLING: u32 = 11;
/// The last kind that this version knows.
pub const LAST: u32 = SPELLING;

/// Most bytes that a section of `kind` can have.
pub const fn max_bytes(kind: u32) -> u64 {
    match kind {
        // Read within 100 ms. That is one step in sixteen of a model of 32e9 numbers; of more raw steps the packer
        // leaves the matrices with the most plain.
        BF12 => 64 << 20,
        // Four bytes for each of the most ids that a model has, and four bytes of text.
        VOCABULARY => 128 << 20,
        SOURCES => 64 << 20,
        // A tokenizer.json of 12 MiB, and six files of at most 4 MiB.
        FILES => 64 << 20,
        // A header of 16 MiB, and what aligns the data behind it.
        GGUF => 32 << 20,
        // Some thirty short lines, each of which takes many times its length to show.
        PROVENANCE => 64 << 10,
        _ => 16 << 20,
    }
}

/// The name of a kind, for people.
pub fn name(kind: u32) -> String {
    let name = match kind {
        SOURCES => "SOURCES",
        VOCABULARY => "VOCABULARY",
        CONFIG_JSON => "CONFIG_JSON",
        PROVENANCE => "PROVENANCE",
        BF12 => "BF12",
        TOKENIZER => "TOKENIZER",
        CHAT => "CHAT",
        FILES => "FILES",
        SAMPLING => "SAMPLING",
        GGUF => "GGUF",
        SPELLING => "SPELLING",
        other => return other.to_string(),
    };
    name.into()
}
