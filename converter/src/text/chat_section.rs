//! Serializes the section `CHAT`.

use olmo_infer::internals::format::{
    CHAT_BLANK, CHAT_DATES, CHAT_PIECES, CHAT_UNUSABLE, CHAT_WITH_SYSTEM, CHAT_WITHOUT_SYSTEM, ChatHead, ChatStyle,
};
use olmo_infer::internals::text::chat::{Chat, N_TEXTS, Style};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromZeros, IntoBytes};

/// The section of a chat format.
pub fn section(chat: &Chat) -> Vec<u8> {
    let flag = |flag: u32, is_set: bool| if is_set { flag } else { 0 };
    let head = ChatHead {
        kind: U32::new(CHAT_PIECES),
        flags: U32::new(
            flag(CHAT_WITHOUT_SYSTEM, chat.alone.is_some())
                | flag(CHAT_WITH_SYSTEM, chat.with_system.is_some())
                | flag(CHAT_BLANK, chat.takes_blank)
                | flag(CHAT_DATES, chat.has_dates),
        ),
        n_reserved_texts: U32::new(chat.reserved.len() as u32),
        reason_bytes: U32::new(0),
        think_end_bytes: length(&chat.think_end),
        reserved: U32::new(0),
    };
    let styles = || chat.alone.iter().chain(&chat.with_system);
    let heads: Vec<ChatStyle> = styles().map(style_head).collect();
    let lengths: Vec<U32> = chat.reserved.iter().map(|text| length(text)).collect();
    let mut texts = chat.think_end.clone();
    for style in styles() {
        texts.extend(style.texts());
        texts += style.one_turn.as_deref().unwrap_or_default();
    }
    texts.extend(chat.reserved.iter().map(String::as_str));
    [head.as_bytes(), heads.as_bytes(), lengths.as_bytes(), texts.as_bytes()].concat()
}

/// The section of an unusable template, which stores the reason.
pub fn unusable(why: &str) -> Vec<u8> {
    let mut head = ChatHead::new_zeroed();
    head.kind = U32::new(CHAT_UNUSABLE);
    head.reason_bytes = length(why);
    [head.as_bytes(), why.as_bytes()].concat()
}

fn style_head(style: &Style) -> ChatStyle {
    let texts: [&str; N_TEXTS] = style.texts();
    ChatStyle {
        rules: style.rules().map(|rule| U16::new(rule.code())),
        text_bytes: texts.map(length),
        one_turn_bytes: length(style.one_turn.as_deref().unwrap_or_default()),
    }
}

/// Texts are shorter than 4 GiB: the output of a template is limited.
fn length(text: &str) -> U32 {
    U32::new(text.len() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_infer::internals::text::chat::{Cut, NoChat, Rule, Strip};

    /// A chat format in which every field differs.
    fn chat() -> Chat {
        let style = |name: &str, one_turn: Option<&str>| {
            let text = |field: &str, i: usize| format!("{name} {field} {i} é");
            let rules: Vec<Rule> = Rule::all().collect();
            Style {
                open: std::array::from_fn(|i| text("open", i)),
                after_system: std::array::from_fn(|i| text("after system", i)),
                ask: std::array::from_fn(|i| text("ask \0%Y\0", i)),
                reply: std::array::from_fn(|i| text("reply", i)),
                next: std::array::from_fn(|i| text("next", i)),
                system: std::array::from_fn(|i| rules[i]),
                last_user: std::array::from_fn(|i| rules[2 + i]),
                user: std::array::from_fn(|i| rules[20 + i]),
                assistant: std::array::from_fn(|i| rules[100 + i]),
                one_turn: one_turn.map(String::from),
            }
        };
        Chat {
            alone: Some(style("alone", None)),
            with_system: Some(style("system", Some("the reason"))),
            think_end: "</think>".into(),
            reserved: vec!["/no_think".into(), "[INST]".into()],
            takes_blank: true,
            has_dates: true,
        }
    }

    #[test]
    fn section_round_trips() {
        let whole = chat();
        assert_eq!(Chat::in_section(&section(&whole)).as_ref(), Ok(&whole));
        for part in [
            Chat { with_system: None, ..chat() },
            Chat { alone: None, takes_blank: false, ..chat() },
            Chat { reserved: Vec::new(), ..chat() },
        ] {
            assert_eq!(Chat::in_section(&section(&part)).as_ref(), Ok(&part));
        }
        assert_eq!(Chat::in_section(&unusable("why")), Err(NoChat::Unusable("why".into())));
    }

    /// Row X3, chat formats.
    #[test]
    fn rejects_truncated_extended_and_invalid_sections() {
        let good = section(&chat());
        for n in 0..good.len() {
            assert_eq!(Chat::in_section(&good[..n]), Err(NoChat::Damaged), "{n} bytes");
        }
        assert_eq!(Chat::in_section(&[good.as_slice(), b"x"].concat()), Err(NoChat::Damaged));
        let no_style = Chat { alone: None, with_system: None, ..chat() };
        let no_think_end = Chat { think_end: String::new(), ..chat() };
        let no_dates = Chat { has_dates: false, ..chat() };
        let empty_reserved = Chat { reserved: vec![String::new()], ..chat() };
        let mut bad_date = chat();
        bad_date.alone.as_mut().expect("a style").ask[1] = "\0%Q\0".into();
        let mut open_date = chat();
        open_date.alone.as_mut().expect("a style").next[3] = "\0%Y".into();
        for (i, bad) in [no_style, no_think_end, no_dates, empty_reserved, bad_date, open_date].iter().enumerate() {
            assert_eq!(Chat::in_section(&section(bad)), Err(NoChat::Damaged), "case {i}");
        }
        // Kind, flags, reason, reserved field, a rule.
        for (at, byte) in [(0, 2), (4, 0x1f), (12, 1), (20, 1), (24, 0x77), (25, 9)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(Chat::in_section(&bad), Err(NoChat::Damaged), "byte {at}");
        }
    }

    #[test]
    fn rule_codes_are_unique() {
        let rules: Vec<Rule> = Rule::all().collect();
        assert_eq!(rules.len(), 105);
        for rule in &rules {
            assert_eq!(Rule::with_code(rule.code()).as_ref(), Some(rule));
        }
        let rule = Rule { cut: Cut::ToLast, strip_cut: Strip::NewlinesLeft, strip: Strip::Right };
        assert_eq!(rule.apply("a</t>b</t>\n\n c ", "</t>"), " c");
        assert_eq!(Rule { cut: Cut::ToFirst, ..rule }.apply("a</t>b</t>c", "</t>"), "b</t>c");
        assert_eq!(rule.apply("\na ", "</t>"), "\na");
    }
}
