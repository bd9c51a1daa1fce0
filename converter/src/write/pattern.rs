//! Patterns that name tensors of a model.

use olmo_infer::internals::format::tensors::TensorSpec;

/// Whether `pattern` names a tensor: a run of whole parts of its name between dots, with `*` for any
/// characters. `q_proj` names that matrix of every layer, `layers.1` all of layer 1, and `*` everything.
pub fn names(pattern: &str, tensor: &str) -> bool {
    let pattern = format!("*.{pattern}.*");
    is_like(pattern.as_bytes(), format!(".{tensor}.").as_bytes())
}

/// Whether `text` is `pattern` with some text for every `*`.
fn is_like(pattern: &[u8], text: &[u8]) -> bool {
    let (mut in_pattern, mut in_text) = (0, 0);
    // The last star, and where the text after its part begins.
    let mut star: Option<(usize, usize)> = None;
    while in_text < text.len() {
        match pattern.get(in_pattern) {
            Some(b'*') => {
                star = Some((in_pattern, in_text));
                in_pattern += 1;
            }
            Some(byte) if *byte == text[in_text] => (in_pattern, in_text) = (in_pattern + 1, in_text + 1),
            // The last star takes one byte more.
            _ => match star {
                None => return false,
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (in_pattern, in_text) = (at + 1, from + 1);
                }
            },
        }
    }
    pattern[in_pattern..].iter().all(|&byte| byte == b'*')
}

/// The word for what a tensor is for, such as `q_proj`.
pub fn role_word(spec: &TensorSpec) -> String {
    let name = spec.name();
    let name = name.strip_suffix(".weight").unwrap_or(&name);
    name.rsplit('.').next().unwrap_or(name).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_whole_parts() {
        let q_proj = "model.layers.1.self_attn.q_proj.weight";
        for pattern in [
            q_proj,
            "*",
            "q_proj",
            "self_attn",
            "layers.1",
            "layers.1.*",
            "layers.*.q_proj",
            "model.*.weight",
            "*q_proj*",
            "q_*",
            "*_proj",
            "layers.1.*.q_proj.weight",
            "***",
        ] {
            assert!(names(pattern, q_proj), "{pattern}");
        }
        for pattern in [
            "",
            ".",
            "proj",
            "q_pro",
            "layers",
            "layers.11",
            "ayers.1.*.",
            "layers.*.k_proj",
            "q_proj.",
            "model.q_proj",
            "Q_PROJ",
        ] {
            assert_eq!(names(pattern, q_proj), pattern == "layers", "{pattern}");
        }
        assert!(!names("layers.1", "model.layers.11.self_attn.q_proj.weight"));
        assert!(names("lm_head", "lm_head.weight") && !names("lm_head", "model.embed_tokens.weight"));
    }

    #[test]
    fn stars_take_as_much_as_they_must() {
        assert!(is_like(b"a*b*c", b"abbbcbc") && !is_like(b"a*b*c", b"abbbcb"));
        assert!(is_like(b"*", b"") && is_like(b"", b"") && !is_like(b"", b"a"));
        // The time is at most the product of the lengths.
        let many = [b"*a".repeat(500).as_slice(), b"b"].concat();
        assert!(!is_like(&many, &b"a".repeat(5000)));
    }
}
