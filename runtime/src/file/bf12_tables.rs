//! The tables of bf12 matrices: the section `BF12`, read in order.

use crate::error::Error;
use crate::file::reader::{ReadAt, Reader};
use crate::format::encodings::bf12::{BadTable, Bf12Table};
use crate::format::sizes::{TooLarge, sum};
use crate::format::tensors::TensorSpec;
use crate::format::{Encoding, SectionRecord, section};
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
    /// Reads the tables into owned memory.
    pub(super) fn bf12_tables(
        &self,
        specs: &[TensorSpec],
        encodings: &[Encoding],
        sections: &[SectionRecord],
    ) -> Result<Vec<Option<Bf12Table>>, Error> {
        let Some(record) = sections.iter().find(|record| record.kind.get() == section::BF12) else {
            // check_layout() has made sure that no tensor needs it.
            return Ok(vec![None; specs.len()]);
        };
        // Twice: what is kept of tables grows with what they claim, also where a file has holes instead of them, so a
        // file that is refused must be refused before anything is kept. It may change in between, so both times all of
        // it is checked.
        self.read_tables(specs, encodings, record, |_| ())?;
        self.read_tables(specs, encodings, record, |table| table)
    }

    /// Reads and checks all tables, and returns the result of `keep` for each.
    fn read_tables<T>(
        &self,
        specs: &[TensorSpec],
        encodings: &[Encoding],
        record: &SectionRecord,
        keep: impl Fn(Bf12Table) -> T,
    ) -> Result<Vec<Option<T>>, Error> {
        // check_layout() has compared the length with what the encodings give: it is that of all tables.
        let digest = Xxh3::with_seed(section::BF12.into());
        let mut section = Section { source: self.source, at: record.offset.get(), digest };
        let tables = specs.iter().zip(encodings).map(|(spec, &encoding)| {
            let (Encoding::Bf12 { n_raw_steps }, Some(shape)) = (encoding, spec.panel_shape(encoding.dtype())) else {
                return Ok(None);
            };
            let table = Bf12Table::read(&mut section, &shape, n_raw_steps);
            table.map(|table| Some(keep(table))).map_err(|bad| self.bad_table(spec, bad))
        });
        let tables = tables.collect::<Result<_, _>>()?;
        let (digest, expected) = (section.digest.digest(), record.digest.get());
        if digest != expected {
            let (found, expected) = (format_args!("{digest:016x}"), format_args!("{expected:016x}"));
            return Err(self.damaged("section BF12: digest", found, expected));
        }
        Ok(tables)
    }

    /// The error about the table of a tensor.
    fn bad_table(&self, spec: &TensorSpec, bad: BadTable) -> Error {
        match bad {
            BadTable::Io(error) => Error::io(self.path, "read")(error),
            BadTable::Memory(bytes) => memory::too_little_for::<u8>(bytes, "the tables of the model"),
            BadTable::Wrong { found, expected } => {
                self.damaged(format!("section BF12: {}", spec.name()), found, expected)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tensors::Role;
    use std::path::Path;

    #[test]
    fn bad_table_errors_name_the_cause() {
        let source: &[u8] = &[];
        let reader = Reader { path: Path::new("m.olmo"), source, length: 0 };
        let spec = TensorSpec {
            role: Role::GateProj,
            layer: Some(3),
            expert: None,
            rows: 2,
            columns: Some(2),
            is_draft: false,
        };
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
                "m.olmo: section BF12: model.layers.3.mlp.gate_proj.weight: found exponents [1, 1], expected \
                 ascending exponents; the file is damaged, copy or pack it again",
            ),
        ] {
            assert_eq!(reader.bad_table(&spec, bad).to_string(), says);
        }
    }
}
