//! The results of multiple-choice tasks, from the scores of their answers.

use crate::failure::Failure;
use crate::program::PROGRAM;
use crate::score::inputs::Entry;
use crate::score::request::{Choice, Content, Request};
use crate::score::score_file::Total;
use olmo_infer::internals::cli::json::json_string;
use olmo_infer::internals::error::one_line;
use serde_json::Value;
use std::collections::BTreeMap;
use std::f64::consts::LN_2;
use std::io::{self, Write};

/// Ai2's requests without their context have the number of their question and this.
const WITHOUT_CONTEXT: u64 = 1_000_000;

/// An answer to a question of a task, before its score is known.
#[derive(Clone, Debug)]
pub struct Answer {
    task: String,
    choice: Choice,
    characters: u64,
    /// Without a space at the beginning.
    trimmed_characters: u64,
    bytes: u64,
}

impl Answer {
    /// That of a request; `None` for other items.
    pub fn of(entry: &Entry) -> Option<Answer> {
        let Ok(Request { content: Content::Pair { continuation, .. }, choice: Some(choice), .. }) = &entry.request
        else {
            return None;
        };
        let characters = continuation.chars().count() as u64;
        Some(Answer {
            // A request without the name of its task is of its file.
            task: choice.task.clone().unwrap_or_else(|| entry.file.to_string_lossy().into_owned()),
            choice: choice.clone(),
            characters,
            trimmed_characters: characters - u64::from(continuation.starts_with(' ')),
            bytes: continuation.len() as u64,
        })
    }
}

/// A question: its answers by their numbers.
#[derive(Default)]
struct Question {
    answers: BTreeMap<u64, (Answer, Total)>,
    gold: Option<u64>,
    n_choices: Option<u64>,
}

/// The scores of tasks.
#[derive(Default)]
pub struct Tasks {
    /// By name, and by the number of the question in JSON.
    tasks: BTreeMap<String, BTreeMap<String, Question>>,
    /// Items that belong to no question.
    n_others: usize,
    /// Answers that were scored twice.
    n_repeated: usize,
}

/// A mean over questions with its standard error.
#[derive(Clone, Debug, PartialEq)]
struct Metric {
    name: &'static str,
    mean: f64,
    /// Of the mean, by the sample's standard deviation; `None` for one question.
    error: Option<f64>,
}

/// The results of a task.
#[derive(Clone, Debug, PartialEq)]
struct Summary {
    task: String,
    /// Questions whose answers all have scores.
    n_questions: usize,
    /// Questions that were left out because an answer has no score.
    n_incomplete: usize,
    metrics: Vec<Metric>,
}

impl Tasks {
    /// Adds an item, with its scores if it has some.
    pub fn add(&mut self, answer: Option<Answer>, total: Option<Total>) {
        let Some(answer) = answer else {
            self.n_others += 1;
            return;
        };
        let questions = self.tasks.entry(answer.task.clone()).or_default();
        let question = questions.entry(answer.choice.doc.clone()).or_default();
        question.gold = answer.choice.gold;
        question.n_choices = question.n_choices.max(answer.choice.n_choices);
        match total {
            // An answer without a score.
            None => question.n_choices = Some(u64::MAX),
            Some(total) => {
                let before = question.answers.insert(answer.choice.index, (answer, total));
                self.n_repeated += usize::from(before.is_some());
            }
        }
    }

    /// Prints the results, as a table or as JSON.
    ///
    /// # Errors
    /// No item is a request of a task, or an answer has two scores.
    pub fn print(&self, as_json: bool) -> Result<(), Failure> {
        if self.tasks.is_empty() {
            let problem =
                "no requests of tasks among the items, expected lines with \"request\", \"doc_id\" and \"idx\"";
            return Err(Failure::Refused(problem.into()));
        }
        if self.n_repeated > 0 {
            let n = self.n_repeated;
            let problem = format!("{n} answers of a task have two scores, expected one; name each of its files once");
            return Err(Failure::Refused(problem));
        }
        match self.n_others {
            0 => {}
            1 => PROGRAM.note("one item belongs to no task and is not in the summary"),
            n => PROGRAM.note(format_args!("{n} items belong to no task and are not in the summary")),
        }
        let summaries = self.summaries();
        for Summary { task, n_incomplete, .. } in summaries.iter().filter(|summary| summary.n_incomplete > 0) {
            let task = one_line(task);
            let questions = if *n_incomplete == 1 { "question is" } else { "questions are" };
            PROGRAM.note(format_args!("{task}: {n_incomplete} {questions} left out: an answer has no score"));
        }
        let mut out = io::stdout().lock();
        match as_json {
            true => summaries.iter().try_for_each(|summary| write_json(&mut out, summary))?,
            false => write_table(&mut out, &summaries)?,
        }
        Ok(out.flush()?)
    }

    /// The results, by task.
    fn summaries(&self) -> Vec<Summary> {
        self.tasks.iter().map(|(task, questions)| summary(task, questions)).collect()
    }
}

fn summary(task: &str, questions: &BTreeMap<String, Question>) -> Summary {
    let number = |doc: &str| doc.parse::<u64>().ok();
    let without_context = |doc: &str| questions.get(&(number(doc)? + WITHOUT_CONTEXT).to_string());
    // Requests without context belong to the questions that have one.
    let is_one = |doc: &str| {
        let with_context = number(doc).and_then(|number| number.checked_sub(WITHOUT_CONTEXT));
        !with_context.is_some_and(|number| questions.contains_key(&number.to_string()))
    };
    let asked: Vec<(&String, &Question)> = questions.iter().filter(|(doc, _)| is_one(doc)).collect();
    let complete: Vec<(&String, &Question)> =
        asked.iter().copied().filter(|(_, question)| question.is_complete()).collect();
    let (n_questions, n_incomplete) = (complete.len(), asked.len() - complete.len());
    let mut metrics = Vec::new();
    let mut add = |name, values: Option<Vec<f64>>| metrics.extend(values.and_then(|values| Metric::of(name, &values)));
    let right = |likelihood: fn(&Answer, &Total) -> f64| {
        complete.iter().map(|(_, question)| question.is_right(likelihood)).collect()
    };
    add("acc", right(|_, total| -total.sum_nll));
    add("acc_norm", right(|answer, total| -total.sum_nll / answer.trimmed_characters as f64));
    add("acc_per_char", right(|answer, total| -total.sum_nll / answer.characters as f64));
    add("acc_per_token", right(|_, total| -total.sum_nll / total.n_scored as f64));
    let beyond_prior = complete.iter().map(|(doc, question)| {
        let prior =
            without_context(doc).filter(|prior| question.answers.keys().all(|at| prior.answers.contains_key(at)))?;
        question.is_right(|answer, total| prior.answers[&answer.choice.index].1.sum_nll - total.sum_nll)
    });
    add("acc_uncond", beyond_prior.collect());
    let of_right_answer = complete.iter().map(|(_, question)| {
        let (answer, total) = question.answers.get(&question.gold.unwrap_or(0))?;
        Some(total.sum_nll / answer.bytes as f64 / LN_2)
    });
    add("bits_per_byte", of_right_answer.collect());
    Summary { task: task.to_string(), n_questions, n_incomplete, metrics }
}

impl Question {
    /// Whether each of its answers has a score.
    fn is_complete(&self) -> bool {
        let n = self.answers.len() as u64;
        let gold = self.gold.unwrap_or(0);
        let finite = self.answers.values().all(|(_, total)| total.sum_nll.is_finite());
        finite && self.answers.contains_key(&gold) && self.n_choices.unwrap_or(n) == n
    }

    /// 1 where the right answer is the likeliest, 0 where it is not; of equal ones the first counts. `None` where there
    /// is nothing to choose.
    fn is_right(&self, likelihood: impl Fn(&Answer, &Total) -> f64) -> Option<f64> {
        let gold = self.gold.filter(|_| self.answers.len() > 1)?;
        let mut best: Option<(u64, f64)> = None;
        for (&at, (answer, total)) in &self.answers {
            let found = likelihood(answer, total);
            if best.is_none_or(|(_, most)| found > most) {
                best = Some((at, found));
            }
        }
        best.map(|(at, _)| f64::from(u8::from(at == gold)))
    }
}

impl Metric {
    fn of(name: &'static str, values: &[f64]) -> Option<Metric> {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
        let error = (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt());
        (!values.is_empty()).then_some(Metric { name, mean, error })
    }
}

/// Writes the results as a table.
fn write_table(out: &mut dyn Write, summaries: &[Summary]) -> io::Result<()> {
    let names: Vec<String> = summaries.iter().map(|summary| one_line(&summary.task)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(4);
    writeln!(out, "{:width$}  {:>9}  {:14}  {:>8}  {:>8}", "task", "questions", "metric", "value", "stderr")?;
    for (summary, name) in summaries.iter().zip(&names) {
        for Metric { name: metric, mean, error } in &summary.metrics {
            let error = error.map_or("-".into(), |error| format!("{error:.4}"));
            writeln!(out, "{name:width$}  {:>9}  {metric:14}  {mean:>8.4}  {error:>8}", summary.n_questions)?;
        }
        if summary.metrics.is_empty() {
            writeln!(out, "{name:width$}  {:>9}  {:14}  {:>8}  {:>8}", summary.n_questions, "-", "-", "-")?;
        }
    }
    Ok(())
}

/// Writes a result as a line of JSON.
fn write_json(out: &mut dyn Write, summary: &Summary) -> io::Result<()> {
    write!(out, "{{\"task\":")?;
    json_string(out, &summary.task)?;
    write!(out, ",\"questions\":{},\"incomplete\":{}", summary.n_questions, summary.n_incomplete)?;
    for Metric { name, mean, error } in &summary.metrics {
        write!(out, ",\"{name}\":{},\"{name}_stderr\":{}", Value::from(*mean), Value::from(*error))?;
    }
    writeln!(out, "}}")
}
