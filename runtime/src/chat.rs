//! The texts around the turns of a conversation, as the model's chat template has them.
//!
//! The converter has rendered the template, so that nothing here needs an interpreter of templates. The texts are
//! copied before they are looked at: text that lies in a mapped file would stop being UTF-8 when the file is changed.

use crate::error::Error;
use crate::format::{ChatHead, section};
use crate::model_file::ModelFile;
use zerocopy::FromBytes;

/// A conversation of one turn: what stands before, between and after the texts of a system and a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chat {
    /// Before and after a user's turn without a system's text.
    pub alone: [String; 2],
    /// Before a system's text, between it and the user's turn, and after that; `None` where the model takes none.
    pub with_system: Option<[String; 3]>,
}

impl Chat {
    /// The texts in `file`; `None` when it has none. Checks the digest.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the section is not what the format describes.
    pub fn new(file: &ModelFile) -> Result<Option<Chat>, Error> {
        let Some(bytes) = file.checked_section(section::CHAT)? else { return Ok(None) };
        let damaged = || Error::Damaged {
            path: file.path().to_path_buf(),
            place: "chat texts".into(),
            found: format!("{} bytes", bytes.len()),
            expected: "five texts in UTF-8 of the lengths that their head gives".into(),
        };
        Chat::in_section(bytes).ok_or_else(damaged).map(Some)
    }

    /// The texts in the bytes of a section; `None` when they are not what the format describes.
    pub fn in_section(bytes: &[u8]) -> Option<Chat> {
        let (head, mut rest) = ChatHead::ref_from_prefix(bytes).ok()?;
        let lengths =
            [head.before_user, head.after_user, head.before_system, head.after_system, head.after_user_of_system];
        let mut texts = [const { String::new() }; 5];
        for (text, length) in texts.iter_mut().zip(lengths) {
            let (this, others) = rest.split_at_checked(length.get() as usize)?;
            (*text, rest) = (String::from_utf8(this.to_vec()).ok()?, others);
        }
        let [before, after, system @ ..] = texts;
        let with_system = (!system.iter().all(|text| text.is_empty())).then_some(system);
        (rest.is_empty() && head.reserved.get() == 0).then_some(Chat { alone: [before, after], with_system })
    }

    /// The text that asks for an answer to `user`; `None` for a system's text where the model takes none.
    pub fn prompt(&self, system: Option<&str>, user: &str) -> Option<String> {
        match (system, &self.with_system) {
            (None, _) => Some([&self.alone[0], user, &self.alone[1]].concat()),
            (Some(system), Some([before, between, after])) => Some([before, system, between, user, after].concat()),
            (Some(_), None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;
    use zerocopy::little_endian::U32;

    fn section(texts: [&str; 5]) -> Vec<u8> {
        let [before_user, after_user, before_system, after_system, after_user_of_system] =
            texts.map(|text| U32::new(text.len() as u32));
        let head = ChatHead {
            before_user,
            after_user,
            before_system,
            after_system,
            after_user_of_system,
            reserved: U32::new(0),
        };
        [head.as_bytes(), texts.concat().as_bytes()].concat()
    }

    #[test]
    fn turns_stand_between_the_texts() {
        let bytes = section(["<u>", "<a>", "<s>", "</s><u>", "<a>"]);
        let chat = Chat::in_section(&bytes).expect("a section");
        assert_eq!(chat.prompt(None, "Hi").as_deref(), Some("<u>Hi<a>"));
        assert_eq!(chat.prompt(Some("Be brief."), "Hi").as_deref(), Some("<s>Be brief.</s><u>Hi<a>"));
        let bytes = section(["<u>", "", "", "", ""]);
        let chat = Chat::in_section(&bytes).expect("a section");
        assert_eq!(chat.prompt(Some("Be brief."), "Hi"), None);
        assert_eq!(chat.prompt(None, "").as_deref(), Some("<u>"));
    }

    #[test]
    fn lengths_that_do_not_add_up_are_refused() {
        let good = section(["<u>", "é", "", "", ""]);
        assert!(Chat::in_section(&good).is_some());
        for bad in [&good[..good.len() - 1], &good[..10], &[&good[..], b"x"].concat()] {
            assert_eq!(Chat::in_section(bad), None);
        }
        for (at, byte) in [(0, 4), (20, 1), (3, 0xff), (27, 0xff)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(Chat::in_section(&bad), None, "byte {at}");
        }
    }
}
