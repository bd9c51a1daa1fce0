//! The parameters of the rotary embedding, in all their spellings.
//!
//! transformers 4.x writes `rope_theta` and `rope_scaling` at the top level; 5.0 to 5.12 one flat `rope_parameters`;
//! 5.13 and later, for Olmo-3, one `rope_parameters` per attention type. In every spelling YaRN applies to the
//! full-attention layers only: the models were trained so, though transformers 5.0 to 5.12 computed otherwise.
//!
//! A file that was saved again can state a value in several of these spellings. It is accepted if they agree. If they
//! do not, versions of transformers read it differently, and it is rejected.

use crate::error::Problem;
use crate::json::keys::Keys;
use crate::model::settings::{Flags, Origin, Origins};
use olmo_infer::internals::format::config::{Architecture, Yarn};
use serde_json::Value;
use std::fmt::Display;

/// Base that transformers 5.13 and later use for an Olmo-3 attention type without one.
const NESTED_THETA: f64 = 500_000.0;
/// Largest relative difference of equal attention factors: one can be stated and the other computed.
const SAME_FACTOR: f64 = 1e-9;

/// Rotary embedding of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of full-attention layers.
    pub theta: f64,
    /// Base of sliding layers.
    pub theta_sliding: f64,
    /// Scaling of full-attention layers.
    pub yarn: Option<Yarn>,
}

/// The values of one spelling; `None` for an absent one.
#[derive(Clone, Debug, Default, PartialEq)]
struct Spelling {
    theta: Option<f64>,
    theta_sliding: Option<f64>,
    /// `Some(None)`: explicitly no scaling.
    yarn: Option<Option<Yarn>>,
    /// Whether it has an object per attention type.
    is_nested: bool,
}

/// Reads both spellings and the flags, which must agree where they overlap.
pub(crate) fn read(
    at: &Keys<'_>,
    architecture: Architecture,
    flags: &Flags,
    max_positions: usize,
    origins: &mut Origins,
) -> Result<Rope, Problem> {
    if architecture == Architecture::OlmoHybrid && is_without(at)? {
        if let Some(theta) = flags.rope_theta {
            return Err(Problem::new(at.path, "rope_theta is null, which is a model without RoPE")
                .expected(format!("{theta} as set by --rope-theta"))
                .advice("correct one of them or leave out --rope-theta"));
        }
        origins.note("rope_theta", Origin::ConfigJson);
        return Ok(Rope { theta: 0.0, theta_sliding: 0.0, yarn: None });
    }
    let old = top_level(at, max_positions)?;
    let new = rope_parameters(at, architecture, max_positions)?;
    let theta = agreed(at, "rope_theta", old.theta, new.theta)?;
    let theta =
        crate::model::settings::merged(at.path, "rope_theta", "--rope-theta", theta, flags.rope_theta, origins)?
            .ok_or_else(|| at.missing("rope_theta", Some("--rope-theta")))?;
    let theta_sliding = match (new.theta_sliding, old.theta) {
        (Some(new), Some(old)) if new != old => return Err(disagree(at, "rope_theta", old, new)),
        (Some(sliding), _) => sliding,
        // Where the form per attention type omits a base, transformers uses its default and not this one.
        (None, _) if architecture == Architecture::Olmo3 && new.is_nested && theta != NESTED_THETA && slides(at) => {
            let sliding = Keys { prefix: "rope_parameters.sliding_attention.", ..*at };
            return Err(sliding.missing("rope_theta", None));
        }
        (None, _) => theta,
    };
    let yarn = match (old.yarn, new.yarn) {
        (Some(old), Some(new)) if !same(&old, &new) => {
            let found = format!("rope_scaling ({}) and rope_parameters ({}) disagree", name(&old), name(&new));
            return Err(Problem::new(at.path, found).expected("one of them").advice("remove the wrong one"));
        }
        (old, new) => new.or(old),
    };
    let flag = yarn_of_flags(flags, max_positions);
    let yarn = match (yarn, flag) {
        (Some(json), Some(flag)) if json != flag => {
            let found = if json.is_some() { "YaRN with other values" } else { "no rope scaling" };
            return Err(Problem::new(at.path, found)
                .expected("the values of the --yarn flags")
                .advice("correct one of them or leave out the --yarn flags"));
        }
        (Some(json), _) => {
            origins.note("rope_scaling", Origin::ConfigJson);
            json
        }
        (None, Some(flag)) => {
            origins.note("rope_scaling", Origin::Flag);
            flag
        }
        (None, None) => {
            origins.note("rope_scaling", Origin::Rule);
            None
        }
    };
    Ok(Rope { theta, theta_sliding, yarn })
}

/// Whether an Olmo-Hybrid is without RoPE: `rope_theta` is null at the top level or in `rope_parameters`. Where neither
/// has the key, transformers computes with a base that no released model has, so one of them must state it.
fn is_without(at: &Keys<'_>) -> Result<bool, Problem> {
    let inner = at.keys("rope_parameters", "rope_parameters.")?;
    let inner = inner.as_ref().and_then(|keys| keys.object.get("rope_theta"));
    let top = at.object.get("rope_theta");
    match (top, inner) {
        (Some(Value::Null), None | Some(Value::Null)) | (None, Some(Value::Null)) => Ok(true),
        (Some(Value::Null), Some(theta)) | (Some(theta), Some(Value::Null)) => {
            Err(Problem::new(at.path, format!("rope_theta is null in one place and {theta} in another"))
                .expected("the same in both")
                .advice("remove the wrong one"))
        }
        (None, None) => Err(Problem::new(at.path, "no rope_theta")
            .expected("null for a model without RoPE, as the released Olmo-Hybrid, or the base")
            .advice("add it: transformers takes a missing one for 10000")),
        _ => Ok(false),
    }
}

/// YaRN as set by the flags: `None` without such flags, `Some(None)` for `--no-yarn`.
pub fn yarn_of_flags(flags: &Flags, max_positions: usize) -> Option<Option<Yarn>> {
    if flags.no_yarn {
        return Some(None);
    }
    let factor = flags.yarn_factor?;
    Some(Some(Yarn {
        factor,
        original_max_position_embeddings: flags.yarn_original_positions.unwrap_or(max_positions),
        beta_fast: flags.yarn_beta_fast.unwrap_or(32.0),
        beta_slow: flags.yarn_beta_slow.unwrap_or(1.0),
        attention_factor: flags.yarn_attention_factor.unwrap_or_else(|| mscale(factor, 1.0)),
        truncate: true,
    }))
}

/// transformers 4.x: `rope_theta` and `rope_scaling`. A null `rope_scaling` counts as absent, as later versions write
/// it next to `rope_parameters`.
fn top_level(at: &Keys<'_>, max_positions: usize) -> Result<Spelling, Problem> {
    let theta = at.real("rope_theta")?;
    let Some(keys) = at.keys("rope_scaling", "rope_scaling.")? else {
        return Ok(Spelling { theta, ..Spelling::default() });
    };
    if let Some((key, value)) = keys.object.iter().find(|(_, value)| value.is_object()) {
        return Err(keys.bad(key, value, "a number or text").advice("only rope_parameters may have objects"));
    }
    let inner = keys.real("rope_theta")?;
    if let (Some(top), Some(inner)) = (theta, inner)
        && top != inner
    {
        return Err(contradiction(at, ("rope_theta", top), ("rope_scaling.rope_theta", inner)));
    }
    // transformers 5 reads it there too, regardless of other keys.
    Ok(Spelling { theta: theta.or(inner), yarn: Some(scaling(&keys, max_positions)?), ..Spelling::default() })
}

/// transformers 5.x: `rope_parameters`, flat or per attention type. A flat one that 5.13 or later has loaded and saved
/// again is both: those versions compute from the objects alone, and keep the flat keys.
fn rope_parameters(at: &Keys<'_>, architecture: Architecture, max_positions: usize) -> Result<Spelling, Problem> {
    let Some(flat) = at.keys("rope_parameters", "rope_parameters.")? else { return Ok(Spelling::default()) };
    let known = ["full_attention", "sliding_attention"];
    let nested = |(key, value): &(&String, &Value)| value.is_object() && !known.contains(&key.as_str());
    if let Some((key, value)) = flat.object.iter().find(nested) {
        return Err(flat.bad(key, value, "only full_attention and sliding_attention"));
    }
    let full = flat.keys("full_attention", "rope_parameters.full_attention.")?;
    let sliding = flat.keys("sliding_attention", "rope_parameters.sliding_attention.")?;
    let flat_theta = flat.real("rope_theta")?;
    let Some(full) = full else {
        if sliding.is_some() {
            return Err(flat.missing("full_attention", None));
        }
        let yarn = Some(scaling(&flat, max_positions)?);
        return Ok(Spelling { theta: flat_theta, yarn, ..Spelling::default() });
    };
    if architecture != Architecture::Olmo3 && flat_theta.is_none() {
        return Err(Problem::new(at.path, "rope_parameters has full_attention")
            .expected(format!("no attention types in an {} model", architecture.name()))
            .advice("write its keys into rope_parameters itself"));
    }
    let theta = full.real("rope_theta")?;
    let yarn = scaling(&full, max_positions)?;
    let theta_sliding = match &sliding {
        None => None,
        Some(keys) => {
            if scaling(keys, max_positions)?.is_some() {
                return Err(keys.bad("rope_type", &"yarn".into(), "default: no released model scales sliding layers"));
            }
            keys.real("rope_theta")?
        }
    };
    if let Some(flat_theta) = flat_theta {
        for (keys, theta) in [(Some(&full), theta), (sliding.as_ref(), theta_sliding)] {
            match (keys, theta) {
                (Some(keys), None) => return Err(keys.missing("rope_theta", None)),
                (Some(keys), Some(theta)) if theta != flat_theta => {
                    let key = format!("{}rope_theta", keys.prefix);
                    return Err(contradiction(at, ("rope_parameters.rope_theta", flat_theta), (&key, theta)));
                }
                _ => {}
            }
        }
    }
    if ["rope_type", "type", "factor"].iter().any(|key| flat.get(key).is_some()) {
        let flat_yarn = scaling(&flat, max_positions)?;
        if !same(&flat_yarn, &yarn) {
            let others = if flat_yarn.is_some() && yarn.is_some() { " with other values" } else { "" };
            let found = (name(&flat_yarn), format!("{}{others}", name(&yarn)));
            let flat = ("rope_parameters.rope_type", found.0);
            return Err(contradiction(at, flat, ("rope_parameters.full_attention.rope_type", &found.1)));
        }
    }
    Ok(Spelling { theta, theta_sliding, yarn: Some(yarn), is_nested: true })
}

/// Whether a layer of an Olmo-3 has a sliding window; `layer_types` is checked later.
fn slides(at: &Keys<'_>) -> bool {
    let sliding = |list: &Vec<Value>| list.iter().any(|kind| kind == "sliding_attention");
    at.get("layer_types").and_then(Value::as_array).is_none_or(sliding)
}

fn name(yarn: &Option<Yarn>) -> &'static str {
    if yarn.is_some() { "yarn" } else { "default" }
}

/// Whether two spellings mean the same scaling.
fn same(a: &Option<Yarn>, b: &Option<Yarn>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return a.is_none() && b.is_none() };
    let difference = (a.attention_factor - b.attention_factor).abs();
    difference <= SAME_FACTOR * a.attention_factor.abs()
        && *a == Yarn { attention_factor: a.attention_factor, ..b.clone() }
}

/// The error for two keys that contradict each other.
fn contradiction<A: Display, B: Display>(at: &Keys<'_>, a: (&str, A), b: (&str, B)) -> Problem {
    Problem::new(at.path, format!("{} is {} and {} is {}", a.0, a.1, b.0, b.1))
        .expected("the same in both")
        .advice("remove the wrong one")
}

/// The scaling that an object describes.
fn scaling(keys: &Keys<'_>, max_positions: usize) -> Result<Option<Yarn>, Problem> {
    refuse_partial_rotation(keys)?;
    let kind = match (keys.text("rope_type")?, keys.text("type")?) {
        (Some(new), Some(old)) if new != old => {
            return Err(keys.bad("type", &old.into(), &format!("{new} to match rope_type")));
        }
        (new, old) => new.or(old),
    };
    match kind {
        Some("default") => return Ok(None),
        Some("yarn") => {}
        Some(other) => {
            return Err(keys
                .bad("rope_type", &other.into(), "default or yarn")
                .advice("no released OLMo uses another"));
        }
        None if keys.get("factor").is_none() => return Ok(None),
        None => return Err(keys.missing("rope_type", None)),
    }
    let factor = keys.real("factor")?.ok_or_else(|| keys.missing("factor", None))?;
    let attention_factor = match (keys.real("attention_factor")?, keys.real("mscale")?, keys.real("mscale_all_dim")?) {
        (Some(given), _, _) => given,
        // A zero counts as absent, as in transformers.
        (None, Some(one), Some(all)) if one != 0.0 && all != 0.0 => mscale(factor, one) / mscale(factor, all),
        _ => mscale(factor, 1.0),
    };
    Ok(Some(Yarn {
        factor,
        original_max_position_embeddings: keys.count("original_max_position_embeddings")?.unwrap_or(max_positions),
        beta_fast: keys.real("beta_fast")?.unwrap_or(32.0),
        beta_slow: keys.real("beta_slow")?.unwrap_or(1.0),
        attention_factor,
        truncate: keys.boolean("truncate")?.unwrap_or(true),
    }))
}

/// YaRN's factor on cos and sin: `0.1 * m * ln(s) + 1`, or 1 without stretching (`modeling_rope_utils.py`). The value
/// is stored in the file, so the logarithm is that of libm, which is the same on every machine.
pub(crate) fn mscale(factor: f64, m: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * m * libm::log(factor) + 1.0 }
}

fn agreed(at: &Keys<'_>, key: &str, old: Option<f64>, new: Option<f64>) -> Result<Option<f64>, Problem> {
    match (old, new) {
        (Some(old), Some(new)) if old != new => Err(disagree(at, key, old, new)),
        (old, new) => Ok(old.or(new)),
    }
}

fn disagree(at: &Keys<'_>, key: &str, old: f64, new: f64) -> Problem {
    let place = if at.object.contains_key(key) { "at the top level" } else { "in rope_scaling" };
    Problem::new(at.path, format!("{key} is {old} {place} and {new} in rope_parameters"))
        .expected("the same in both")
        .advice("remove the wrong one")
}

/// Rejects rotation of only a part of each head.
pub(crate) fn refuse_partial_rotation(keys: &Keys<'_>) -> Result<(), Problem> {
    match keys.get("partial_rotary_factor") {
        Some(value) if value.as_f64() != Some(1.0) => {
            Err(keys.bad("partial_rotary_factor", value, "1 or null").advice("OLMo models rotate all of a head"))
        }
        _ => Ok(()),
    }
}
