//! `olmo-pack diff A B`: what two model files have in common.
//!
//! The model is the configuration, the numbers of the tensors and the bytes of the tokens, regardless of their types
//! and encodings. How it was made, the kept source files and the tokenizer are reported, and do not count.

use crate::commands::facts::{config_object, matrices};
use crate::commands::role_losses::{self, RoleLoss};
use crate::commands::sources::checked_section;
use crate::encode::loss::Loss;
use crate::encode::numbers::Numbers;
use crate::encode::pool::thread_pool;
use crate::error::{Error, Problem, escaped, json_line, shown_path};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::section;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

/// How many tensors that differ are listed.
const LISTED: usize = 20;

/// What is different between two model files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// Values of the configuration: key, here, there.
    pub config: Vec<(String, Value, Value)>,
    /// Tensors with other numbers.
    pub tensors: Vec<TensorDifference>,
    /// How far those are apart that have two encodings, role by role; nothing where their numbers are the same.
    pub losses: Vec<RoleLoss>,
    /// Number of tensors that were compared.
    pub n_compared: usize,
    /// Whether the tokens have other bytes, or one file has none.
    pub vocabulary: bool,
    /// Sections that differ and do not count.
    pub beside: Vec<String>,
    /// Whether types or encodings differ.
    pub storage: Option<(String, String)>,
}

/// A tensor whose numbers are not the same.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorDifference {
    /// Its name.
    pub name: String,
    /// How many numbers differ.
    pub n_different: u64,
    /// Numbers in all.
    pub n_elements: u64,
    /// The largest difference; NaN when one of the two is not a finite number and the other is another one.
    pub largest: f64,
    /// Whether the two have different encodings.
    pub is_recoded: bool,
    /// What the second one loses if the first one is right.
    pub loss: Loss,
}

impl Difference {
    /// Whether both files hold the same model.
    pub fn is_empty(&self) -> bool {
        self.config.is_empty() && self.tensors.is_empty() && !self.vocabulary
    }
}

/// Compares two files; yields whether they hold the same model, and what to print.
///
/// # Errors
/// [`Error::Model`] when a file cannot be opened, or damage.
pub fn run(a: &Path, b: &Path, as_json: bool) -> Result<(bool, String), Error> {
    let (model_a, model_b) = (ModelFile::open(a)?, ModelFile::open(b)?);
    let difference = compare(&model_a, &model_b)?;
    model_a.check_unchanged()?;
    model_b.check_unchanged()?;
    let shown = if as_json { json_text(a, b, &difference) } else { text(a, b, &difference) };
    Ok((difference.is_empty(), shown))
}

/// What is different.
///
/// # Errors
/// A section or a tensor is damaged.
pub fn compare(a: &ModelFile, b: &ModelFile) -> Result<Difference, Error> {
    let mut difference = Difference::default();
    if let (Value::Object(a), Value::Object(b)) = (config_object(a.config()), config_object(b.config())) {
        let keys = a.iter().filter(|(key, value)| b.get(*key) != Some(value));
        let pairs = keys.map(|(key, value)| (key.clone(), value.clone(), b.get(key).cloned().unwrap_or_default()));
        difference.config = pairs.collect();
    }
    let kinds: BTreeSet<u32> =
        [a, b].iter().flat_map(|model| model.sections()).map(|record| record.kind.get()).collect();
    for kind in kinds.into_iter().filter(|&kind| kind != section::BF12) {
        if checked_section(a, kind)? == checked_section(b, kind)? {
            continue;
        }
        match kind {
            section::VOCABULARY => difference.vocabulary = true,
            kind => difference.beside.push(section::name(kind)),
        }
    }
    // Tensors of other shapes cannot be compared; the configuration differs then.
    if a.model_specs() != b.model_specs() {
        return Ok(difference);
    }
    let storage = [a, b].map(matrices);
    difference.storage = (storage[0] != storage[1]).then(|| storage.into());
    if !have_same_drafts(a, b) {
        difference.beside.push("drafts".into());
    }
    let n_tensors = a.model_specs().len();
    let compared: Result<Vec<Option<TensorDifference>>, Error> =
        thread_pool(0)?.install(|| (0..n_tensors).into_par_iter().map(|index| tensor(a, b, index)).collect());
    difference.n_compared = n_tensors;
    let compared = compared?;
    let recoded = a.model_specs().iter().zip(&compared).filter_map(|(spec, compared)| {
        let of = compared.as_ref().filter(|of| of.is_recoded)?;
        Some((spec, of.loss))
    });
    difference.losses = role_losses::of_roles(recoded);
    difference.tensors = compared.into_iter().flatten().filter(|tensor| tensor.n_different > 0).collect();
    if difference.tensors.iter().all(|tensor| !tensor.is_recoded) {
        difference.losses.clear();
    }
    Ok(difference)
}

/// Whether two files have drafts of the same matrices, in the same encodings and with the same bytes.
fn have_same_drafts(a: &ModelFile, b: &ModelFile) -> bool {
    let drafts = |model: &ModelFile| {
        let drafts = (model.model_specs().len()..model.specs().len())
            .map(|index| (model.specs()[index], model.encoding(index), model.records()[index].digest.get()));
        drafts.collect::<Vec<_>>()
    };
    drafts(a) == drafts(b)
}

/// Compares the numbers of a tensor; `None` when its bytes are the same.
fn tensor(a: &ModelFile, b: &ModelFile, index: usize) -> Result<Option<TensorDifference>, Error> {
    for model in [a, b] {
        if !model.has_digest(index) {
            let problem = Problem::new(model.path(), "its digest is wrong").tensor(model.specs()[index].name());
            return Err(problem.advice("the file is damaged, copy or pack it again").into());
        }
    }
    let is_stored_alike = a.encoding(index) == b.encoding(index) && a.bf12_table(index) == b.bf12_table(index);
    if is_stored_alike && a.tensor_bytes(index).are(b.tensor_bytes(index)) {
        return Ok(None);
    }
    let (mut of_a, mut of_b) = (Numbers::new(a, index), Numbers::new(b, index));
    let (mut bits_a, mut bits_b) = (of_a.memory(a.path())?, of_b.memory(b.path())?);
    let name = a.specs()[index].name();
    let is_recoded = a.encoding(index).name() != b.encoding(index).name();
    let loss = Loss::default();
    let mut found = TensorDifference { name, n_different: 0, n_elements: 0, largest: 0.0, is_recoded, loss };
    for piece in 0..of_a.n_pieces() {
        bits_a.clear();
        bits_b.clear();
        of_a.piece(piece, &mut bits_a);
        of_b.piece(piece, &mut bits_b);
        found.n_elements += bits_a.len() as u64;
        found.loss.squares += bits_a.iter().map(|&a| f64::from(f32::from_bits(a)).powi(2)).sum::<f64>();
        for (&a, &b) in bits_a.iter().zip(&bits_b).filter(|(a, b)| a != b) {
            found.n_different += 1;
            let difference = (f64::from(f32::from_bits(a)) - f64::from(f32::from_bits(b))).abs();
            found.loss.squared_errors += difference * difference;
            // NaN is larger than all numbers here, and stays.
            if !(found.largest.is_nan() || difference <= found.largest) {
                found.largest = difference;
            }
        }
    }
    Ok(Some(found))
}

/// For people.
fn text(a: &Path, b: &Path, difference: &Difference) -> String {
    let mut out = String::new();
    let (a, b) = (shown_path(a), shown_path(b));
    let same = if difference.is_empty() { "the same model" } else { "different models" };
    let _ = writeln!(out, "{}", escaped(&format!("{a} and {b}: {same}")));
    for (key, a, b) in &difference.config {
        let _ = writeln!(out, "{}", escaped(&format!("  {key:<24} {a} / {b}")));
    }
    for (i, line) in role_losses::lines(&difference.losses).iter().enumerate() {
        // Of many numbers that all differ a little the errors are worth more than a list.
        let _ = writeln!(out, "  {:<24} {line}", if i == 0 { "other encodings" } else { "" });
    }
    let listed: Vec<&TensorDifference> = difference.tensors.iter().filter(|tensor| !tensor.is_recoded).collect();
    for tensor in listed.iter().take(LISTED) {
        let _ = writeln!(
            out,
            "  {:<50} {} of {} numbers differ, by at most {:e}",
            tensor.name, tensor.n_different, tensor.n_elements, tensor.largest
        );
    }
    if listed.len() > LISTED {
        let _ = writeln!(out, "  and {} more tensors", listed.len() - LISTED);
    }
    let n = difference.tensors.len();
    match difference.n_compared {
        0 => out += "  tensors                  not compared: their shapes differ\n",
        compared => {
            let _ = writeln!(out, "  tensors                  {} of {compared} have the same numbers", compared - n);
        }
    }
    if difference.vocabulary {
        out += "  vocabulary               differs\n";
    }
    if let Some((a, b)) = &difference.storage {
        let _ = writeln!(out, "  stored as                {a} / {b}, which does not count");
    }
    if !difference.beside.is_empty() {
        let _ = writeln!(out, "  also different           {}, which does not count", difference.beside.join(", "));
    }
    out
}

/// For programs.
fn json_text(a: &Path, b: &Path, difference: &Difference) -> String {
    let tensor = |tensor: &TensorDifference| {
        json!({
            "name": tensor.name,
            "n_different": tensor.n_different,
            "n_elements": tensor.n_elements,
            "largest_difference": tensor.largest,
            "relative_rms_error": tensor.loss.relative_rms(),
        })
    };
    let config: serde_json::Map<String, Value> =
        difference.config.iter().map(|(key, a, b)| (key.clone(), json!([a, b]))).collect();
    let object = json!({
        "files": [shown_path(a), shown_path(b)],
        "same": difference.is_empty(),
        "config": config,
        "n_compared": difference.n_compared,
        "tensors": difference.tensors.iter().map(tensor).collect::<Vec<_>>(),
        "relative_rms_error": role_losses::total(&difference.losses).relative_rms(),
        "relative_rms_error_by_role": role_losses::json(&difference.losses),
        "vocabulary": !difference.vocabulary,
        "also_different": difference.beside,
        "stored_as": difference.storage,
    });
    json_line(&object) + "\n"
}
