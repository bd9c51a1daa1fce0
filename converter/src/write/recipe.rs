//! Which encoding each tensor of the file gets, and of which matrices it has drafts.

use crate::encode::bf12_choice;
use crate::error::{Error, Problem};
use crate::model::checkpoint::Source;
use crate::write::grade::Grade;
use crate::write::pattern::{names, role_word};
use crate::write::wanted::Wanted;
use olmo_infer::internals::format::Encoding;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::encodings::bf12::Bf12Table;
use olmo_infer::internals::format::encodings::quantized::{Elements, Quantization};
use olmo_infer::internals::format::tensors::{Role, TensorSpec};
use rayon::ThreadPool;
use std::path::Path;

/// How many times as many bits as its draft a matrix takes at least.
const LEAST_GAIN: f64 = 1.25;

/// How a tensor is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// f32.
    F32,
    /// bf16.
    Bf16,
    /// bf16 in 12 bits.
    Bf12(Bf12Table),
    /// int8 or int4.
    Quantized(Quantization),
}

impl Stored {
    /// As its record states it.
    pub fn encoding(&self) -> Encoding {
        match self {
            Stored::F32 => Encoding::F32,
            Stored::Bf16 => Encoding::Bf16,
            // A table counts its raw steps in 32 bits.
            Stored::Bf12(table) => Encoding::Bf12 { n_raw_steps: table.n_raw_steps() as u32 },
            Stored::Quantized(quantization) => Encoding::Quantized(*quantization),
        }
    }

    /// Its table.
    pub fn table(&self) -> Option<&Bf12Table> {
        match self {
            Stored::F32 | Stored::Bf16 | Stored::Quantized(_) => None,
            Stored::Bf12(table) => Some(table),
        }
    }
}

/// A tensor of the file to write.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What it is.
    pub spec: TensorSpec,
    /// Position of its source.
    pub source: usize,
    /// How it is stored.
    pub stored: Stored,
}

/// Encodings for all tensors of a folder.
#[derive(Clone, Debug)]
pub struct Recipe<'a> {
    /// Those of the matrices without another one.
    pub grade: Grade,
    /// Whether the blocks of a GGUF file are stored as they are, with any grade; blocks that suit the grade always
    /// are.
    pub keeps_blocks: bool,
    /// The configuration of the model.
    pub config: &'a ModelConfig,
    /// Those of the matrices that a pattern names; the last pattern wins.
    pub tensors: &'a [(String, Wanted)],
    /// That of the drafts of all matrices that a token is multiplied with.
    pub draft: Option<Wanted>,
    /// Those of drafts, by the names of their matrices.
    pub drafts: &'a [(String, Wanted)],
}

/// A tensor, the position of its source, and the encoding to store it in.
type Choice = (TensorSpec, usize, Wanted);

impl Recipe<'_> {
    /// The tensors of the file, bf12 ones stored as plain bf16.
    ///
    /// # Errors
    /// A pattern or a name is not that of a matrix of `sources`, which are those of the folder `weights`.
    pub fn plain(&self, weights: &Path, sources: &[Source]) -> Result<Vec<Planned>, Error> {
        let plain = |wanted| match wanted {
            Wanted::F32 => Stored::F32,
            Wanted::Bf16 | Wanted::Bf12 => Stored::Bf16,
            Wanted::Quantized(quantization) => Stored::Quantized(quantization),
        };
        let planned = |(spec, source, wanted)| Planned { spec, source, stored: plain(wanted) };
        Ok(self.choices(weights, sources)?.into_iter().map(planned).collect())
    }

    /// The tensors of the smallest possible file: bf12 matrices have no raw steps. `None` when no matrix is bf12.
    ///
    /// # Errors
    /// As those of [`Recipe::plain`].
    pub fn least(&self, weights: &Path, sources: &[Source]) -> Result<Option<Vec<Planned>>, Error> {
        let choices = self.choices(weights, sources)?;
        if choices.iter().all(|(.., wanted)| *wanted != Wanted::Bf12) {
            return Ok(None);
        }
        let tables = choices.iter().filter(|(.., wanted)| *wanted == Wanted::Bf12);
        let tables: Vec<_> = tables.map(|(_, source, _)| bf12_choice::least_table(&sources[*source])).collect();
        Ok(Some(planned(choices, tables)))
    }

    /// The tensors of the file. Reads the elements of bf12 matrices.
    ///
    /// # Errors
    /// As those of [`Recipe::plain`]; a file cannot be read or changes, an allocation fails, or a draft would have the
    /// encoding of its matrix.
    pub fn tensors(&self, pool: &ThreadPool, weights: &Path, sources: &[Source]) -> Result<Vec<Planned>, Error> {
        let choices = self.choices(weights, sources)?;
        let of_bf12 = choices.iter().filter(|(.., wanted)| *wanted == Wanted::Bf12);
        let of_bf12: Vec<&Source> = of_bf12.map(|(_, source, _)| &sources[*source]).collect();
        let tables = bf12_choice::tables(pool, &of_bf12)?;
        let tensors = planned(choices, tables);
        for draft in tensors.iter().filter(|tensor| tensor.spec.is_draft) {
            let name = draft.stored.encoding().name();
            // The tensors of the model come first, in the order of their sources.
            if tensors[draft.source].stored.encoding().name() == name {
                let found = format!("as {name}, as the matrix is");
                return Err(same_encoding(weights, &sources[draft.source], &found));
            }
        }
        Ok(tensors)
    }

    /// The encoding of a matrix that no pattern names.
    fn of_grade(&self, source: &Source) -> Wanted {
        let wanted = self.grade.wanted(&source.spec, self.config);
        let Some(blocks) = source.tensor.rows.blocks else { return wanted };
        let Some(of_blocks) = blocks.quantization() else {
            return if self.keeps_blocks { Grade::Int8.wanted(&source.spec, self.config) } else { wanted };
        };
        let is_int8 = |of: Quantization| of.elements == Elements::Int8;
        let suits = match (self.grade, wanted) {
            // Where the grade is wider, that would gain nothing.
            (Grade::Int4, _) if !is_int8(of_blocks) => true,
            (_, Wanted::Quantized(of)) => is_int8(of) == is_int8(of_blocks),
            _ => false,
        };
        if suits || self.keeps_blocks { Wanted::Quantized(of_blocks) } else { wanted }
    }

    /// The tensors of the model, then the drafts in the order of their matrices.
    fn choices(&self, weights: &Path, sources: &[Source]) -> Result<Vec<Choice>, Error> {
        let matrices: Vec<&TensorSpec> =
            sources.iter().map(|source| &source.spec).filter(|spec| spec.has_choice()).collect();
        let has = |is_it: &dyn Fn(&str) -> bool| matrices.iter().any(|spec| is_it(&spec.name()));
        if let Some((pattern, _)) = self.tensors.iter().find(|(pattern, _)| !has(&|name| names(pattern, name))) {
            let is_fixed = |source: &Source| source.spec.columns.is_some() && names(pattern, &source.spec.name());
            if sources.iter().any(is_fixed) {
                let problem = Problem::new(weights, format!("{pattern} is f32 in every file"));
                return Err(problem.advice("leave it out").into());
            }
            let problem = Problem::new(weights, format!("{pattern} names no matrix of the model"));
            return Err(problem.expected(expected_names(&matrices)).into());
        }
        if let Some((name, _)) = self.drafts.iter().find(|(draft, _)| !has(&|name| name == draft)) {
            let problem = Problem::new(weights, format!("{name} is not a matrix of the model"));
            return Err(problem.expected("the name of a matrix").into());
        }
        if self.config.linear.is_some() && (self.draft.is_some() || !self.drafts.is_empty()) {
            let found = "drafts of a model with linear attention, whose states cannot take a wrong guess back";
            return Err(Problem::new(weights, found).advice("leave --draft out").into());
        }
        let by_pattern = |name: &str| self.tensors.iter().rfind(|(pattern, _)| names(pattern, name));
        let draft_of = |name: &str| self.drafts.iter().rfind(|(of, _)| of == name).map(|(_, wanted)| *wanted);
        let own = sources.iter().enumerate().map(|(index, source)| {
            let wanted = match source.spec.has_choice() {
                true if self.tensors.is_empty() => self.of_grade(source),
                true => match by_pattern(&source.spec.name()) {
                    Some((_, wanted)) => *wanted,
                    None => self.of_grade(source),
                },
                false => Wanted::F32,
            };
            (source.spec, index, wanted)
        });
        let mut choices: Vec<Choice> = own.collect();
        for (index, source) in sources.iter().enumerate() {
            let named = draft_of(&source.spec.name());
            let is_multiplied = source.spec.role != Role::EmbedTokens || self.config.tie_word_embeddings;
            // Otherwise the matrix itself is as good, and no slower.
            let is_smaller = |wanted: &Wanted| LEAST_GAIN * wanted.bits() <= choices[index].2.bits();
            let of_all = self.draft.filter(|wanted| is_multiplied && is_smaller(wanted));
            let Some((draft, wanted)) = source.spec.draft().zip(named.or(of_all)) else {
                continue;
            };
            if choices[index].2 == wanted {
                return Err(same_encoding(weights, source, "as the matrix is"));
            }
            choices.push((draft, index, wanted));
        }
        let has_drafts = choices.len() > sources.len();
        if let Some(wanted) = self.draft.filter(|_| !has_drafts) {
            let found = format!("nothing to draft: no matrix takes clearly more than the {:.1} bits of", wanted.bits());
            let problem = Problem::new(weights, format!("{found} {}", wanted.name()));
            return Err(problem.advice("leave --draft out").into());
        }
        Ok(choices)
    }
}

/// What a pattern can be, for messages.
fn expected_names(matrices: &[&TensorSpec]) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in matrices.iter().map(|spec| role_word(spec)) {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    let last = matrices.iter().filter_map(|spec| spec.layer).max().unwrap_or_default();
    format!("{}, layers.0 to layers.{last}, or names with * for any characters", words.join(", "))
}

/// The error about a draft that would be a copy of its matrix.
fn same_encoding(weights: &Path, source: &Source, found: &str) -> Error {
    let problem = Problem::new(weights, format!("its draft would be stored {found}")).tensor(source.spec.name());
    problem.expected("another encoding").into()
}

/// The tensors with their tables: one entry of `tables` for each that is to be bf12, `None` where that does not pay.
fn planned(choices: Vec<Choice>, tables: Vec<Option<Bf12Table>>) -> Vec<Planned> {
    let mut tables = tables.into_iter();
    let mut stored = |wanted| match wanted {
        Wanted::F32 => Stored::F32,
        Wanted::Bf16 => Stored::Bf16,
        Wanted::Bf12 => tables.next().flatten().map_or(Stored::Bf16, Stored::Bf12),
        Wanted::Quantized(quantization) => Stored::Quantized(quantization),
    };
    choices.into_iter().map(|(spec, source, wanted)| Planned { spec, source, stored: stored(wanted) }).collect()
}
