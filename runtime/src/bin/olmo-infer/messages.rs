//! `messages.json`: a conversation as a JSON list of `{"role": ..., "content": ...}`.

use crate::failure::Failure;
use crate::json_object::Object;
use olmo_infer::internals::error::display_path;
use olmo_infer::internals::text::chat::{Message, Role};
use serde::Deserialize;
use std::path::Path;

/// A message as stored in the file. Other keys would change what a chat template writes, and are refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    role: String,
    content: String,
}

/// The messages in `text`, the content of the file at `path`.
///
/// # Errors
/// It is not such a list, or a role is unknown.
pub fn parse(path: &Path, text: &str) -> Result<Vec<Message>, Failure> {
    let refused = |found: String| Failure::Refused(format!("{}: {found}", display_path(path)));
    let expected = "expected a list of {\"role\": \"user\", \"content\": \"...\"}";
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let entries: Vec<Object<Entry>> =
        serde_json::from_str(text).map_err(|error| refused(format!("not a conversation: {error}; {expected}")))?;
    if entries.is_empty() {
        return Err(refused(format!("no messages, {expected}")));
    }
    let message = |(index, Object(entry)): (usize, Object<Entry>)| {
        let role = Role::ALL.into_iter().find(|role| role.name() == entry.role);
        let role = role.ok_or_else(|| {
            let role = olmo_infer::internals::error::one_line(&entry.role);
            refused(format!("message {index} has the role \"{role}\", expected system, user or assistant"))
        })?;
        Ok(Message::new(role, entry.content))
    };
    entries.into_iter().enumerate().map(message).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Message>, String> {
        parse(Path::new("m.json"), text).map_err(|failure| failure.to_string())
    }

    #[test]
    fn messages_have_roles_and_contents() {
        let text = "[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"content\":\"a\\n\\u00e9\",\"role\":\"user\"}]";
        let expected = vec![Message::new(Role::System, "Be brief."), Message::new(Role::User, "a\né")];
        assert_eq!(parsed(text).as_ref(), Ok(&expected));
        assert_eq!(parsed(&format!("\u{feff}{text}\n")).as_ref(), Ok(&expected));
    }

    #[test]
    fn rejects_what_is_not_a_conversation() {
        for (text, says) in [
            ("", "m.json: not a conversation: EOF"),
            ("[]", "m.json: no messages"),
            ("{\"role\":\"user\",\"content\":\"a\"}", "m.json: not a conversation: invalid type: map"),
            ("[[\"user\",\"a\"]]", "invalid type: sequence, expected an object"),
            ("[{\"role\":\"user\"}]", "missing field `content`"),
            ("[{\"role\":\"user\",\"content\":\"a\",\"name\":\"b\"}]", "unknown field `name`"),
            ("[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}]", "expected a string"),
            ("[{\"role\":\"user\",\"content\":null}]", "expected a string"),
            ("[{\"role\":\"user\",\"role\":\"user\",\"content\":\"a\"}]", "duplicate field `role`"),
            ("[{\"role\":\"tool\",\"content\":\"a\"}]", "message 0 has the role \"tool\", expected system, user or"),
            ("[{\"role\":\"user\",\"content\":\"a\"}] x", "trailing characters"),
        ] {
            let problem = parsed(text).expect_err(text);
            assert!(problem.contains(says) && !problem.contains('\n'), "{text}: {problem}");
        }
    }
}
