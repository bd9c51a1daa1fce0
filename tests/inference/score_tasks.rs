//! `olmo-infer score --tasks`: accuracies of multiple-choice tasks, recomputed here from the lines of their answers.

use crate::score_requests::{Demo, gzip, objects};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// A request, as Ai2's evaluation writes it.
fn request(task: &str, doc: u64, index: usize, gold: Value, (context, answers): (&str, &[&str])) -> String {
    let request = json!({
        "request_type": "loglikelihood", "doc": {"query": context, "choices": answers, "gold": gold},
        "request": {"context": context, "continuation": answers[index]},
        "idx": index, "task_name": task, "doc_id": doc, "label": gold,
    });
    format!("{request}\n")
}

const QUESTIONS: [(&str, &[&str], usize); 4] = [
    ("Four score and", &[" seven years ago", " eight", " x"], 0),
    ("our fathers brought forth", &[" a", " on this continent", " upon this continent"], 2),
    ("conceived in", &[" Liberty", " é"], 1),
    ("Now we are engaged in a great", &[" civil war", " war", " w"], 0),
];

fn requests(task: &str, with_priors: bool) -> String {
    let mut lines = String::new();
    for offset in [0, 1_000_000].into_iter().take(1 + usize::from(with_priors)) {
        for (doc, (context, answers, gold)) in QUESTIONS.iter().enumerate() {
            let context = if offset == 0 { context } else { "Answer:" };
            for index in 0..answers.len() {
                lines += &request(task, doc as u64 + offset, index, json!(gold), (context, answers));
            }
        }
    }
    lines
}

/// The mean of numbers and its standard error.
fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt() / n.sqrt())
}

fn assert_close(found: &Value, key: &str, (mean, error): (f64, f64)) {
    for (key, expected) in [(key.to_string(), mean), (format!("{key}_stderr"), error)] {
        let found = found[&key].as_f64().unwrap_or_else(|| panic!("{key} in {found}"));
        assert!((found - expected).abs() < 1e-12, "{key}: {found} {expected}");
    }
}

#[test]
fn accuracies_are_those_of_the_likeliest_answers() {
    let demo = Demo::new("score-tasks");
    let file = demo.file("t.jsonl.gz", gzip(requests("speech", true).as_bytes()));
    let output = demo.folder.join("o.jsonl");
    let flags = ["--tasks", "--json", "--output", output.to_str().expect("UTF-8")];
    let finished = demo.score(&[&file], &flags);
    let found = objects(finished.ok());
    assert_eq!((found.len(), finished.stderr.as_str()), (1, ""));
    let mut scores: BTreeMap<(u64, usize), (f64, f64)> = BTreeMap::new();
    for line in objects(&std::fs::read_to_string(&output).expect("lines")) {
        assert_eq!(line["task_name"], "speech");
        let index = line["idx"].as_u64().expect("a number") as usize;
        let score = (-line["sum_nll"].as_f64().expect("a sum"), line["scored"].as_f64().expect("a number"));
        scores.insert((line["doc_id"].as_u64().expect("a number"), index), score);
    }
    let right = |value: &dyn Fn(u64, usize, &str) -> f64| -> (f64, f64) {
        let is_right = QUESTIONS.iter().enumerate().map(|(doc, (_, answers, gold))| {
            let values: Vec<f64> = answers.iter().enumerate().map(|(i, text)| value(doc as u64, i, text)).collect();
            let best = (0..values.len()).rev().max_by(|&a, &b| values[a].total_cmp(&values[b])).expect("answers");
            f64::from(u8::from(best == *gold))
        });
        mean(&is_right.collect::<Vec<f64>>())
    };
    let length = |text: &str| text.chars().count() as f64;
    let found = &found[0];
    assert_eq!((&found["task"], &found["questions"], &found["incomplete"]), (&json!("speech"), &json!(4), &json!(0)));
    let results = [
        ("acc", right(&|doc, i, _| scores[&(doc, i)].0)),
        ("acc_norm", right(&|doc, i, text| scores[&(doc, i)].0 / length(text.trim_start()))),
        ("acc_per_char", right(&|doc, i, text| scores[&(doc, i)].0 / length(text))),
        ("acc_per_token", right(&|doc, i, _| scores[&(doc, i)].0 / scores[&(doc, i)].1)),
        ("acc_uncond", right(&|doc, i, _| scores[&(doc, i)].0 - scores[&(doc + 1_000_000, i)].0)),
    ];
    for (key, expected) in results {
        assert_close(found, key, expected);
    }
    // The measures differ on these questions, so that none is taken for another.
    assert!(results[0].1 != results[1].1, "{results:?}");
    let bits = QUESTIONS
        .iter()
        .enumerate()
        .map(|(doc, (_, answers, gold))| -scores[&(doc as u64, *gold)].0 / answers[*gold].len() as f64 / 2f64.ln());
    assert_close(found, "bits_per_byte", mean(&bits.collect::<Vec<f64>>()));
    // The same from an earlier run, and from lines that come in another order.
    assert_eq!(demo.score(&[&file], &flags).stdout, finished.stdout);
    let turned: String = requests("speech", true).lines().rev().map(|line| format!("{line}\n")).collect();
    let turned = demo.file("turned.jsonl", turned);
    assert_eq!(demo.score(&[&turned], &["--tasks", "--json"]).stdout, finished.stdout);
    let table = demo.score(&[&turned], &["--tasks"]);
    let acc = format!("speech          4  acc               {:.4}    {:.4}\n", results[0].1.0, results[0].1.1);
    assert!(table.ok().starts_with("task    questions  metric             value    stderr\n"), "{}", table.stdout);
    assert!(table.stdout.contains(&acc), "{}", table.stdout);
}

#[test]
fn questions_without_all_answers_are_left_out() {
    let demo = Demo::new("score-tasks-cut");
    let whole = requests("a", false);
    let n_lines = whole.lines().count();
    let cut: String = whole.lines().take(n_lines - 1).map(|line| format!("{line}\n")).collect();
    let other = "{\"text\":\"Four\"}\n";
    // A task whose answers are texts: nothing is chosen.
    let open = request("open", 0, 0, Value::Null, ("Four", &[" score"]));
    let file = demo.file("t.jsonl", cut + other + &open);
    let finished = demo.score(&[&file], &["--tasks", "--json"]);
    let found = objects(finished.ok());
    let notes = "olmo-infer: note: one item belongs to no task and is not in the summary\n\
                 olmo-infer: note: a: 1 question is left out: an answer has no score\n";
    assert_eq!(finished.stderr, notes);
    assert_eq!((&found[0]["questions"], &found[0]["incomplete"]), (&json!(3), &json!(1)));
    let keys: Vec<&String> = found[1].as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["task", "questions", "incomplete", "bits_per_byte", "bits_per_byte_stderr"]);
    assert_eq!(found[1]["bits_per_byte_stderr"], Value::Null);
    // An answer that cannot be scored is one that has no score.
    let bad = whole.replacen("\"continuation\":\" seven years ago\"", "\"continuation\":\"\"", 1);
    let finished = demo.score(&[&demo.file("bad.jsonl", bad)], &["--tasks", "--json"]);
    assert_eq!(finished.code, Some(1));
    assert_eq!(objects(&finished.stdout)[0]["incomplete"], json!(1));
    let (a, b): (&Path, &Path) = (&demo.file("a.jsonl", &whole), &demo.file("b.jsonl", &whole));
    let says = format!("{n_lines} answers of a task have two scores, expected one; name each of its files once");
    let twice = demo.score(&[a, b], &["--tasks"]);
    assert!(twice.refused(1).contains(&says), "{}", twice.stderr);
    let none = demo.score(&[&demo.file("none.jsonl", other)], &["--tasks"]);
    assert!(none.refused(1).contains("no requests of tasks among the items"), "{}", none.stderr);
}
