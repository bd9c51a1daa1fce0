//! Changes of a valid file, as the input of a structure-aware target lists them.

/// Bytes of an edit in the input.
const EDIT_BYTES: usize = 11;
/// Most edits of one input.
const MAX_EDITS: usize = 32;

/// One change: a number of 1, 2, 4 or 8 bytes that is set or added at an offset.
#[derive(Clone, Copy)]
pub struct Edit {
    offset: u16,
    /// Bits 0 and 1 the width, bit 2 whether to add, bit 3 whether it comes late.
    operation: u8,
    value: u64,
}

impl Edit {
    /// The edits in the rest of an input; an incomplete edit is ignored.
    pub fn all(input: &[u8]) -> impl Iterator<Item = Edit> + Clone {
        input.as_chunks::<EDIT_BYTES>().0.iter().take(MAX_EDITS).map(|bytes| {
            let [low, high, operation, value @ ..] = *bytes;
            Edit { offset: u16::from_le_bytes([low, high]), operation, value: u64::from_le_bytes(value) }
        })
    }

    /// Whether it is applied after the target has derived the other fields.
    pub fn is_late(&self) -> bool {
        self.operation & 8 != 0
    }

    /// Changes `bytes`; `place` maps an offset to a position. An edit that would pass the last byte ends there.
    pub fn apply(&self, bytes: &mut [u8], place: impl Fn(usize) -> usize) {
        let at = place(usize::from(self.offset)) % bytes.len();
        let width = (1 << (self.operation & 3)).min(bytes.len() - at);
        let mut number = [0; 8];
        if self.operation & 4 != 0 {
            number[..width].copy_from_slice(&bytes[at..at + width]);
        }
        let number = u64::from_le_bytes(number).wrapping_add(self.value).to_le_bytes();
        bytes[at..at + width].copy_from_slice(&number[..width]);
    }
}
