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

const QUESTIONS: [(&str, &[&str], usize); 12] = [
    ("Four score and", &[" seven years ago", " eight", " x"], 0),
    ("our fathers brought forth", &[" a", " on this continent", " upon this continent"], 2),
    ("conceived in", &[" Liberty", " é"], 1),
    ("Now we are engaged in a great", &[" civil war", " war", " w"], 0),
    ("dedicated to the", &["  proposition", " work"], 1),
    ("It is for us", &[" é é é é", " xyz"], 0),
    ("a", &["  b", " cc ddd"], 0),
    ("the", &[" world x", " zzz", "  nation"], 2),
    ("that", &[" é", " qq"], 0),
    ("we", &[" can", "  not so long as this", "é"], 2),
    ("shall", &[" not perish", " é"], 1),
    ("xyz", &[" q", " é"], 1),
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
    assert_eq!(
        (&found["task"], &found["questions"], &found["incomplete"]),
        (&json!("speech"), &json!(QUESTIONS.len()), &json!(0))
    );
    let results = [
        ("acc", right(&|doc, i, _| scores[&(doc, i)].0)),
        ("acc_norm", right(&|doc, i, text| scores[&(doc, i)].0 / length(text.strip_prefix(' ').unwrap_or(text)))),
        ("acc_per_char", right(&|doc, i, text| scores[&(doc, i)].0 / length(text))),
        ("acc_per_token", right(&|doc, i, _| scores[&(doc, i)].0 / scores[&(doc, i)].1)),
        ("acc_uncond", right(&|doc, i, _| scores[&(doc, i)].0 - scores[&(doc + 1_000_000, i)].0)),
    ];
    for (key, expected) in results {
        assert_close(found, key, expected);
    }
    // The measures differ on these questions, so that none is taken for another, or for one without all leading spaces.
    let trimmed = right(&|doc, i, text| scores[&(doc, i)].0 / length(text.trim_start()));
    let mut means: Vec<f64> = results.iter().map(|result| result.1.0).chain([trimmed.0]).collect();
    means.sort_by(f64::total_cmp);
    assert!(means.windows(2).all(|pair| pair[0] < pair[1]), "{means:?}");
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
    let acc = format!("speech         12  acc               {:.4}    {:.4}\n", results[0].1.0, results[0].1.1);
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
    assert_eq!((&found[0]["questions"], &found[0]["incomplete"]), (&json!(QUESTIONS.len() - 1), &json!(1)));
    let keys: Vec<&String> = found[1].as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["task", "questions", "incomplete", "bits_per_byte", "bits_per_byte_stderr"]);
    assert_eq!(found[1]["bits_per_byte_stderr"], Value::Null);
    // An answer that cannot be scored is one that has no score.
    let bad = whole.replacen("\"continuation\":\" seven years ago\"", "\"continuation\":\"\"", 1);
    let finished = demo.score(&[&demo.file("bad.jsonl", bad)], &["--tasks", "--json"]);
    assert_eq!(finished.code, Some(1));
    assert_eq!(objects(&finished.stdout)[0]["incomplete"], json!(1));
    let twice = demo.score(&[&demo.file("twice.jsonl", whole.repeat(2))], &["--tasks"]);
    let says = "twice.jsonl: question 0 has answer 0 twice, expected each once; correct the file";
    assert!(twice.refused(1).contains(says), "{}", twice.stderr);
    // Files of one task have results of their own.
    let (a, b): (&Path, &Path) = (&demo.file("a.jsonl", &whole), &demo.file("b.jsonl", requests("a", true)));
    let found = objects(demo.score(&[a, b], &["--tasks", "--json"]).ok());
    let names: Vec<&str> = found.iter().map(|object| object["task"].as_str().expect("a name")).collect();
    assert_eq!(names, [format!("a ({})", a.display()), format!("a ({})", b.display())]);
    assert_eq!(found[0]["acc"], found[1]["acc"]);
    assert!(found[0].get("acc_uncond").is_none() && found[1].get("acc_uncond").is_some());
    // Nothing is a result.
    let first = demo.file("first.jsonl", whole.lines().next().expect("a line"));
    let nothing = demo.score(&[&first], &["--tasks"]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(1), ""));
    assert!(nothing.stderr.contains("no question has a score for each of its answers"), "{}", nothing.stderr);
    let shard = demo.score(&[&first], &["--tasks", "--shard", "0/2"]);
    assert!(shard.refused(2).contains("--tasks is of all items; score the shards with --output"), "{}", shard.stderr);
    let none = demo.score(&[&demo.file("none.jsonl", other)], &["--tasks"]);
    assert!(none.refused(1).contains("no requests of tasks among the items"), "{}", none.stderr);
}

/// Requests without their answers, as those of winogrande.
#[test]
fn questions_have_as_many_answers_as_the_others() {
    let demo = Demo::new("score-tasks-choices");
    let lines = |n_of_last: usize, label: u64| -> String {
        let answers =
            [(0, 3), (1, 3), (u64::MAX, n_of_last)].into_iter().flat_map(|(doc, n)| (0..n).map(move |i| (doc, i)));
        let line = |(doc, i)| {
            let request = json!({"context": "Four score", "continuation": " and seven".repeat(i + 1)});
            format!("{}\n", json!({"request": request, "doc_id": doc, "idx": i, "label": label}))
        };
        answers.map(line).collect()
    };
    let score = |n, label| {
        let file = demo.file("t.jsonl", lines(n, label));
        let finished = demo.score(&[&file], &["--tasks", "--json"]);
        (objects(finished.ok()).remove(0), finished.stderr)
    };
    for n in 1..3 {
        let (found, stderr) = score(n, 0);
        assert_eq!((&found["questions"], &found["incomplete"]), (&json!(2), &json!(1)));
        assert!(stderr.contains("1 question is left out: an answer has no score"), "{stderr}");
        assert_eq!(found["acc"], json!(1.0));
    }
    let (found, stderr) = score(3, 0);
    assert_eq!((&found["questions"], stderr.as_str()), (&json!(3), ""));
    // An answer that is not there is right nowhere.
    let (found, _) = score(3, 7);
    assert_eq!((&found["questions"], &found["acc"], found.get("bits_per_byte")), (&json!(3), &json!(0.0), None));
}
