//! A line of a file of JSON lines: what it asks to score.

use crate::json_object::Object;
use olmo_infer::internals::error::one_line;
use olmo_infer::internals::error::shown::json_line;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Most characters of a line in a message.
const MOST_SHOWN: usize = 200;

/// What is scored.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Ids, all after the first.
    Ids(Vec<u32>),
    /// A text, all of it.
    Text(String),
    /// A continuation, as it follows the context.
    Pair { context: String, continuation: String },
}

/// The place of a line in a task, for a summary.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Name of the task; `None` where the line has none.
    pub task: Option<String>,
    /// The question, in JSON.
    pub doc: String,
    /// Which of its answers is scored.
    pub index: u64,
    /// The right one; `None` where nothing is to be chosen.
    pub gold: Option<u64>,
    /// Number of answers, where it is known.
    pub n_choices: Option<u64>,
}

/// A line.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub content: Content,
    /// What the result repeats, as pairs of JSON: `"id":7`.
    pub labels: String,
    /// For requests of Ai2's evaluation.
    pub choice: Option<Choice>,
}

/// The keys that matter. Data sets have many others.
#[derive(Deserialize)]
struct Line<'a> {
    text: Option<String>,
    tokens: Option<Vec<u32>>,
    context: Option<String>,
    continuation: Option<String>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    // Those of Ai2's evaluation. Data sets may have others of these names.
    #[serde(borrow)]
    request_type: Option<&'a RawValue>,
    #[serde(borrow)]
    request: Option<&'a RawValue>,
    #[serde(borrow)]
    doc: Option<&'a RawValue>,
    #[serde(borrow)]
    doc_id: Option<&'a RawValue>,
    #[serde(borrow)]
    idx: Option<&'a RawValue>,
    #[serde(borrow)]
    label: Option<&'a RawValue>,
    #[serde(borrow)]
    task_name: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Pair {
    context: Option<String>,
    continuation: Option<String>,
}

/// The parts of a document that a summary needs.
#[derive(Deserialize)]
struct Doc<'a> {
    #[serde(borrow)]
    gold: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<&'a RawValue>,
}

impl Request {
    /// Parses a line of JSON.
    ///
    /// # Errors
    /// What is wrong with it, and what is expected.
    pub fn parse(line: &str) -> Result<Request, String> {
        const EXPECTED: &str =
            "expected {\"text\": ...}, {\"tokens\": [...]} or {\"context\": ..., \"continuation\": ...}";
        let not_a_request = |error: serde_json::Error| {
            let problem = shortened(&error.to_string().replace(" at line 1 column ", " at column "));
            format!("not a request: {problem}; {EXPECTED}")
        };
        let Object(line): Object<Line> = serde_json::from_str(line).map_err(not_a_request)?;
        let labels = line.labels();
        let choice = line.choice();
        let (context, continuation) = match line.pair() {
            Some(_) if line.context.is_some() || line.continuation.is_some() => {
                return Err(format!("has a \"request\" and other keys of one, {EXPECTED}"));
            }
            Some(pair) => {
                let Object(Pair { context, continuation }) = serde_json::from_str(pair.get()).map_err(not_a_request)?;
                (context, continuation)
            }
            None => (line.context, line.continuation),
        };
        let content = match (line.text, line.tokens, context, continuation) {
            (Some(text), None, None, None) => Content::Text(text),
            (None, Some(ids), None, None) if ids.is_empty() => return Err(format!("has no tokens, {EXPECTED}")),
            (None, Some(ids), None, None) => Content::Ids(ids),
            (None, None, Some(context), Some(continuation)) => Content::Pair { context, continuation },
            (None, None, _, None) if line.request_type.is_some() => {
                let kind = shortened(&one_line(line.request_type.map_or("", RawValue::get)));
                return Err(format!("a request of type {kind} without a continuation, expected a loglikelihood"));
            }
            (None, None, None, None) => return Err(format!("nothing to score, {EXPECTED}")),
            (None, None, ..) => return Err(format!("half of a pair, {EXPECTED}")),
            _ => return Err(format!("more than one thing to score, {EXPECTED}")),
        };
        Ok(Request { content, labels, choice })
    }
}

/// The first characters of a text.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(MOST_SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}

/// A value without display controls. Tabs and carriage returns can only be between its parts.
fn on_a_line(value: &RawValue) -> String {
    json_line(&value.get().replace(['\t', '\r'], " "))
}

impl<'a> Line<'a> {
    /// The pair of a request of Ai2's evaluation.
    fn pair(&self) -> Option<&'a RawValue> {
        self.request.filter(|request| request.get().starts_with('{'))
    }

    fn labels(&self) -> String {
        let mut labels = String::new();
        let mut add = |key: &str, value: &str| labels.push_str(&format!(",\"{key}\":{value}"));
        if let Some(id) = self.id {
            add("id", &on_a_line(id));
        }
        if self.pair().is_some() {
            for (key, value) in [("task_name", self.task_name), ("doc_id", self.doc_id), ("idx", self.idx)] {
                if let Some(value) = value {
                    add(key, &on_a_line(value));
                }
            }
        }
        labels
    }

    fn choice(&self) -> Option<Choice> {
        self.pair()?;
        let number = |value: Option<&RawValue>| value?.get().parse().ok();
        let doc: Option<Object<Doc>> = self.doc.and_then(|doc| serde_json::from_str(doc.get()).ok());
        let gold = doc.as_ref().and_then(|doc| number(doc.0.gold));
        let choices = doc.and_then(|doc| serde_json::from_str::<Vec<&RawValue>>(doc.0.choices?.get()).ok());
        Some(Choice {
            task: self.task_name.and_then(|name| serde_json::from_str(name.get()).ok()),
            doc: self.doc_id?.get().to_string(),
            index: number(self.idx)?,
            gold: number(self.label).or(gold),
            n_choices: choices.map(|choices| choices.len() as u64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(line: &str) -> Result<Content, String> {
        Request::parse(line).map(|request| request.content)
    }

    #[test]
    fn lines_have_one_thing_to_score() {
        let text = |text: &str| Ok(Content::Text(text.into()));
        let pair = |a: &str, b: &str| Ok(Content::Pair { context: a.into(), continuation: b.into() });
        assert_eq!(content("{\"text\":\"a\\u00e9\\n\",\"meta\":{\"x\":[1]}}"), text("aé\n"));
        assert_eq!(content("{\"text\":\"\"}"), text(""));
        assert_eq!(content("{\"tokens\":[1,2]}"), Ok(Content::Ids(vec![1, 2])));
        assert_eq!(content("{\"continuation\":\" b\",\"context\":\"a\"}"), pair("a", " b"));
        let others = "{\"text\":\"a\",\"request\":\"GET\",\"request_type\":1,\"task_name\":[],\"doc\":2,\"idx\":\"x\"}";
        assert_eq!(content(others), text("a"));
        assert_eq!(content("{\"request\":{\"context\":\"a\",\"continuation\":\"b\",\"stop\":[]}}"), pair("a", "b"));
        for (line, says) in [
            ("", "EOF"),
            ("[\"a\"]", "expected an object"),
            ("{\"text\":1}", "expected a string"),
            ("{\"tokens\":[-1]}", "invalid value: integer `-1`"),
            ("{\"tokens\":[4294967296]}", "expected u32"),
            ("{\"tokens\":[]}", "has no tokens"),
            ("{\"text\":\"a\",\"text\":\"b\"}", "duplicate field `text`"),
            ("{\"text\":\"a\",\"tokens\":[1]}", "more than one thing"),
            ("{\"text\":\"a\",\"continuation\":\"b\"}", "more than one thing"),
            ("{\"context\":\"a\"}", "half of a pair"),
            ("{\"continuation\":\"a\"}", "half of a pair"),
            ("{\"id\":3}", "nothing to score"),
            ("{\"text\":null}", "nothing to score"),
            ("{\"text\":\"\\ud800\"}", "end of hex escape"),
            ("{\"request\":[\"a\",\"b\"]}", "nothing to score"),
            ("{\"request\":{\"context\":1,\"continuation\":\"b\"}}", "expected a string"),
            ("{\"request\":{\"context\":\"a\",\"continuation\":\"b\"},\"context\":\"c\"}", "and other keys of one"),
            (
                "{\"request_type\":\"generate_until\",\"request\":{\"context\":\"a\"}}",
                "of type \"generate_until\" without",
            ),
            ("{\"text\":\"a\"} {}", "trailing characters"),
        ] {
            let problem = content(line).expect_err(line);
            assert!(problem.contains(says) && !problem.contains('\n'), "{line}: {problem}");
        }
        let long = content(&format!("{{\"tokens\":\"{}\"}}", "é".repeat(5000))).expect_err("no list");
        assert!(long.contains("...; expected {") && long.len() < 1000, "{long}");
    }

    #[test]
    fn ids_are_handed_through_as_they_are() {
        let labels = |line: &str| Request::parse(line).expect(line).labels;
        assert_eq!(labels("{\"text\":\"a\"}"), "");
        assert_eq!(labels("{\"id\" : 1e400,\"text\":\"a\"}"), ",\"id\":1e400");
        assert_eq!(labels("{\"text\":\"a\",\"id\":[1,\t2,\r3]}"), ",\"id\":[1, 2, 3]");
        assert_eq!(labels("{\"text\":\"a\",\"id\":{\"b\": [null]}}"), ",\"id\":{\"b\": [null]}");
        assert_eq!(labels("{\"text\":\"a\",\"id\":\"\u{202e}\\u001b\"}"), ",\"id\":\"\\u202e\\u001b\"");
        let request =
            "{\"request\":{\"context\":\"a\",\"continuation\":\"b\"},\"doc_id\":7,\"idx\":2,\"task_name\":\"t\"}";
        assert_eq!(labels(request), ",\"task_name\":\"t\",\"doc_id\":7,\"idx\":2");
    }

    #[test]
    fn requests_of_evaluations_have_their_place() {
        let choice = |rest: &str| {
            let line = format!("{{\"request\":{{\"context\":\"a\",\"continuation\":\"b\"}},{rest}}}");
            Request::parse(&line).expect("a request").choice
        };
        let of =
            |gold, n_choices| Some(Choice { task: Some("t".into()), doc: "\"q\"".into(), index: 1, gold, n_choices });
        let place = "\"task_name\":\"t\",\"doc_id\":\"q\",\"idx\":1";
        assert_eq!(choice(&format!("{place},\"label\":3")), of(Some(3), None));
        assert_eq!(choice(&format!("{place},\"doc\":{{\"gold\":2,\"choices\":[\"a\",{{}}]}}")), of(Some(2), Some(2)));
        assert_eq!(choice(&format!("{place},\"label\":[\"a\"],\"doc\":{{\"gold\":\"a\"}}")), of(None, None));
        assert_eq!(choice("\"doc_id\":1"), None);
    }
}
