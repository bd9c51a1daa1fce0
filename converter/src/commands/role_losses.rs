//! What the matrices of each role lose in their encodings.

use crate::encode::loss::Loss;
use crate::write::pattern::role_word;
use olmo_infer::internals::format::tensors::TensorSpec;
use serde_json::{Map, Value};

/// How many roles a line lists.
const ROLES_IN_A_LINE: usize = 4;

/// The matrices of a role.
#[derive(Clone, Debug, PartialEq)]
pub struct RoleLoss {
    /// Its word, such as `q_proj`.
    pub role: String,
    /// What they lose together.
    pub loss: Loss,
}

/// Adds the losses of tensors up, role by role, in the order of their first tensors.
pub fn of_roles<'a>(tensors: impl Iterator<Item = (&'a TensorSpec, Loss)>) -> Vec<RoleLoss> {
    let mut losses: Vec<RoleLoss> = Vec::new();
    for (spec, loss) in tensors {
        let role = role_word(spec);
        match losses.iter_mut().find(|of| of.role == role) {
            Some(of) => of.loss.add(&loss),
            None => losses.push(RoleLoss { role, loss }),
        }
    }
    losses
}

/// What all of them lose together.
pub fn total(losses: &[RoleLoss]) -> Loss {
    losses.iter().fold(Loss::default(), |mut total, of| {
        total.add(&of.loss);
        total
    })
}

/// For people: the error of all, then those of the roles, a few in a line; no line where nothing is lost.
pub fn lines(losses: &[RoleLoss]) -> Vec<String> {
    if total(losses).squared_errors == 0.0 {
        return Vec::new();
    }
    let percent = |loss: &Loss| format!("{:.2} %", 100.0 * loss.relative_rms());
    let first = format!("{} relative RMS error", percent(&total(losses)));
    let of_roles = losses.chunks(ROLES_IN_A_LINE).map(|some| {
        let some: Vec<String> = some.iter().map(|of| format!("{} {}", of.role, percent(&of.loss))).collect();
        some.join(", ")
    });
    std::iter::once(first).chain(of_roles).collect()
}

/// For programs: relative RMS errors by role.
pub fn json(losses: &[RoleLoss]) -> Map<String, Value> {
    losses.iter().map(|of| (of.role.clone(), of.loss.relative_rms().into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_infer::internals::format::tensors::Role;

    #[test]
    fn roles_are_added_up_over_layers() {
        let spec = |role, layer| TensorSpec {
            role,
            layer: Some(layer),
            expert: None,
            rows: 1,
            columns: Some(1),
            is_draft: false,
        };
        let specs = [spec(Role::QProj, 0), spec(Role::DownProj, 0), spec(Role::QProj, 1)];
        let losses = [(3.0, 0.5), (4.0, 4.0), (5.0, 1.5)];
        let losses = losses.map(|(squares, squared_errors)| Loss { squares, squared_errors });
        let losses = of_roles(specs.iter().zip(losses));
        assert_eq!(lines(&losses), ["70.71 % relative RMS error", "q_proj 50.00 %, down_proj 100.00 %"]);
        assert_eq!(json(&losses)["q_proj"], 0.5);
        let kept = [RoleLoss { role: "q_proj".into(), loss: Loss { squares: 1.0, squared_errors: 0.0 } }];
        assert!(lines(&kept).is_empty() && lines(&[]).is_empty());
    }
}
