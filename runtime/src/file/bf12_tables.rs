//! The tables of coded matrices: the section `CODED`, read in order.

use crate::error::Error;
use crate::file::reader::{ReadAt, Reader};
use crate::format::encodings::bf12::{BadTable, CodedTable};
use crate::format::layout::{TensorSpec, TooLarge};
use crate::format::sizes::sum;
use crate::format::{Dtype, Encoding, SectionRecord, section};
use crate::os::memory;
use std::io::{self, Read};
use xxhash_rust::xxh3::Xxh3;

/// A section that is read in order, and the digest of what was read.
struct Section<'a, S: ?Sized> {
    source: &'a S,
    at: u64,
    digest: Xxh3,
}

impl<S: ReadAt + ?Sized> Read for Section<'_, S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.source.read_exact_at(out, self.at)?;
        self.at = sum([self.at, out.len() as u64]).map_err(|TooLarge| io::ErrorKind::UnexpectedEof)?;
        self.digest.update(out);
        Ok(out.len())
    }
}

impl<S: ReadAt + ?Sized> Reader<'_, S> {
    /// Reads the tables of coded tensors, which steer their decoding, into owned memory.
    pub(super) fn coded_tables(
        &self,
        matrices: Dtype,
        specs: &[TensorSpec],
        encodings: &[Encoding],
        sections: &[SectionRecord],
    ) -> Result<Vec<Option<CodedTable>>, Error> {
        let Some(record) = sections.iter().find(|record| record.kind.get() == section::CODED) else {
            // check_layout() has made sure that no tensor needs it.
            return Ok(vec![None; specs.len()]);
        };
        // Twice: what is kept of tables grows with what they claim, also where a file has holes instead of them, so a
        // file that is refused must be refused before anything is kept. It may change in between, so both times all of
        // it is checked.
        self.read_tables(matrices, specs, encodings, record, |_| ())?;
        self.read_tables(matrices, specs, encodings, record, |table| table)
    }

    /// Reads and checks all tables, and keeps of each what `keep` makes of it.
    fn read_tables<T>(
        &self,
        matrices: Dtype,
        specs: &[TensorSpec],
        encodings: &[Encoding],
        record: &SectionRecord,
        keep: impl Fn(CodedTable) -> T,
    ) -> Result<Vec<Option<T>>, Error> {
        // check_layout() has compared the length with what the encodings give: it is that of all tables.
        let digest = Xxh3::with_seed(section::CODED.into());
        let mut section = Section { source: self.source, at: record.offset.get(), digest };
        let tables = specs.iter().zip(encodings).map(|(spec, &encoding)| {
            let (Encoding::Coded { n_raw_steps }, Some(shape)) = (encoding, spec.panel_shape(matrices)) else {
                return Ok(None);
            };
            let table = CodedTable::read(&mut section, &shape, n_raw_steps);
            table.map(|table| Some(keep(table))).map_err(|bad| self.bad_table(spec, bad))
        });
        let tables = tables.collect::<Result<_, _>>()?;
        let (digest, expected) = (section.digest.digest(), record.digest.get());
        if digest != expected {
            let (found, expected) = (format_args!("{digest:016x}"), format_args!("{expected:016x}"));
            return Err(self.damaged("section CODED: digest", found, expected));
        }
        Ok(tables)
    }

    /// The error about the table of a tensor.
    fn bad_table(&self, spec: &TensorSpec, bad: BadTable) -> Error {
        match bad {
            BadTable::Io(error) => Error::io(self.path, "read")(error),
            BadTable::Memory(bytes) => memory::too_little_for::<u8>(bytes, "the tables of the model"),
            BadTable::Wrong { found, expected } => {
                self.damaged(format!("section CODED: {}", spec.name()), found, expected)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::layout::Role;
    use std::path::Path;

    #[test]
    fn a_table_that_cannot_be_read_says_whose_fault_it_is() {
        let source: &[u8] = &[];
        let reader = Reader { path: Path::new("m.olmo"), source, length: 0 };
        let spec = TensorSpec { role: Role::GateProj, layer: Some(3), rows: 2, columns: Some(2) };
        let wrong = BadTable::Wrong { found: "exponents [1, 1]".into(), expected: "ascending exponents" };
        for (bad, says) in [
            (BadTable::Io(io::ErrorKind::UnexpectedEof.into()), "m.olmo: cannot read: the file ends before its length"),
            (
                BadTable::Memory(4),
                "out of memory: cannot allocate 4 bytes for the tables of the model; close other programs, or \
                 raise the limit (ulimit -v)",
            ),
            (
                wrong,
                "m.olmo: section CODED: model.layers.3.mlp.gate_proj.weight: found exponents [1, 1], expected \
                 ascending exponents; the file is damaged, copy or pack it again",
            ),
        ] {
            assert_eq!(reader.bad_table(&spec, bad).to_string(), says);
        }
    }
}
