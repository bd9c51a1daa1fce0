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
    file: String,
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
        let file = entry.file.to_string_lossy().into_owned();
        Some(Answer {
            // A request without the name of its task is of its file.
            task: choice.task.clone().unwrap_or_else(|| file.clone()),
            file,
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
    /// Number of answers, where the requests have it.
    n_choices: Option<u64>,
    /// Whether an answer has no score.
    has_failed: bool,
}

/// The scores of tasks.
#[derive(Default)]
pub struct Tasks {
    /// By name and file, and by the number of the question in JSON.
    tasks: BTreeMap<(String, String), BTreeMap<String, Question>>,
    /// Items that belong to no question.
    n_others: usize,
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
    /// Questions with no score for an answer without its question, where others have one.
    n_without_prior: usize,
    metrics: Vec<Metric>,
}

impl Tasks {
    /// Adds an item, with its scores if it has some.
    ///
    /// # Errors
    /// The file has the answer twice.
    pub fn add(&mut self, answer: Option<Answer>, total: Option<Total>) -> Result<(), Failure> {
        let Some(answer) = answer else {
            self.n_others += 1;
            return Ok(());
        };
        let questions = self.tasks.entry((answer.task.clone(), answer.file.clone())).or_default();
        let question = questions.entry(answer.choice.doc.clone()).or_default();
        let index = answer.choice.index;
        question.gold = answer.choice.gold;
        question.n_choices = question.n_choices.max(answer.choice.n_choices);
        let Some(total) = total else {
            question.has_failed = true;
            return Ok(());
        };
        match question.answers.insert(index, (answer, total)) {
            None => Ok(()),
            Some((Answer { file, choice, .. }, _)) => {
                let (file, doc) = (one_line(&file), one_line(&choice.doc));
                let problem = format!("{file}: question {doc} has answer {index} twice, expected each once");
                Err(Failure::Refused(format!("{problem}; correct the file")))
            }
        }
    }

    /// Prints the results, as a table or as JSON.
    ///
    /// # Errors
    /// No item is a request of a task, or no question has all its scores.
    pub fn print(&self, as_json: bool) -> Result<(), Failure> {
        if self.tasks.is_empty() {
            let problem =
                "no requests of tasks among the items, expected lines with \"request\", \"doc_id\" and \"idx\"";
            return Err(Failure::Refused(problem.into()));
        }
        match self.n_others {
            0 => {}
            1 => PROGRAM.note("one item belongs to no task and is not in the summary"),
            n => PROGRAM.note(format_args!("{n} items belong to no task and are not in the summary")),
        }
        let summaries = self.summaries();
        summaries.iter().for_each(Summary::note);
        if summaries.iter().all(|summary| summary.n_questions == 0) {
            let problem = "no question has a score for each of its answers, so that there is no result";
            return Err(Failure::Refused(problem.into()));
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
        let n_files = |task: &String| self.tasks.keys().filter(|(other, _)| other == task).count();
        // Files of one task are results of their own, such as that without examples and that with five.
        let name =
            |task: &String, file: &String| if n_files(task) > 1 { format!("{task} ({file})") } else { task.clone() };
        self.tasks.iter().map(|((task, file), questions)| Summary::of(name(task, file), questions)).collect()
    }
}

impl Summary {
    /// What is left out of the results.
    fn note(&self) {
        let task = one_line(&self.task);
        let of = |n: usize| if n == 1 { "1 question is".into() } else { format!("{n} questions are") };
        if self.n_incomplete > 0 {
            PROGRAM.note(format_args!("{task}: {} left out: an answer has no score", of(self.n_incomplete)));
        }
        if self.n_without_prior > 0 {
            let n = of(self.n_without_prior);
            PROGRAM
                .note(format_args!("{task}: {n} left out of acc_uncond: an answer has no score without the question"));
        }
    }

    fn of(task: String, questions: &BTreeMap<String, Question>) -> Summary {
        let number = |doc: &str| doc.parse::<u64>().ok();
        let without_context = |doc: &str| questions.get(&(number(doc)?.checked_add(WITHOUT_CONTEXT)?).to_string());
        // Requests without context belong to the questions that have one.
        let is_one = |doc: &str| {
            let with_context = number(doc).and_then(|number| number.checked_sub(WITHOUT_CONTEXT));
            !with_context.is_some_and(|number| questions.contains_key(&number.to_string()))
        };
        // Where the requests do not have their number, all questions have as many answers as one of them.
        let n_answers = |question: &Question| question.answers.keys().last().map_or(0, |at| at.saturating_add(1));
        let most = questions.values().map(n_answers).max().unwrap_or(0);
        let asked: Vec<(&String, &Question)> = questions.iter().filter(|(doc, _)| is_one(doc)).collect();
        let is_complete = |question: &Question| question.is_complete(question.n_choices.unwrap_or(most));
        let complete: Vec<(&String, &Question)> =
            asked.iter().copied().filter(|(_, question)| is_complete(question)).collect();
        let (n_questions, n_incomplete) = (complete.len(), asked.len() - complete.len());
        let mut metrics = Vec::new();
        let mut add =
            |name, values: Option<Vec<f64>>| metrics.extend(values.and_then(|values| Metric::of(name, &values)));
        let right = |likelihood: fn(&Answer, &Total) -> f64| {
            complete.iter().map(|(_, question)| question.is_right(likelihood)).collect()
        };
        add("acc", right(|_, total| -total.sum_nll));
        add("acc_norm", right(|answer, total| -total.sum_nll / answer.trimmed_characters as f64));
        add("acc_per_char", right(|answer, total| -total.sum_nll / answer.characters as f64));
        add("acc_per_token", right(|_, total| -total.sum_nll / total.n_scored as f64));
        let with_prior = complete.iter().filter_map(|(doc, question)| {
            let prior = without_context(doc).filter(|prior| prior.is_complete(question.answers.len() as u64))?;
            Some((question, prior))
        });
        let with_prior: Vec<_> = with_prior.collect();
        let beyond_prior = with_prior.iter().map(|(question, prior)| {
            let prior = |answer: &Answer| prior.answers.get(&answer.choice.index).map_or(f64::NAN, |of| of.1.sum_nll);
            question.is_right(|answer, total| prior(answer) - total.sum_nll)
        });
        add("acc_uncond", beyond_prior.collect());
        let of_right_answer = complete.iter().filter_map(|(_, question)| {
            let (answer, total) = question.answers.get(&question.gold.unwrap_or(0))?;
            Some(total.sum_nll / answer.bytes as f64 / LN_2)
        });
        add("bits_per_byte", Some(of_right_answer.collect()));
        let has_priors = questions.len() > asked.len();
        let n_without_prior = if has_priors { n_questions - with_prior.len() } else { 0 };
        Summary { task, n_questions, n_incomplete, n_without_prior, metrics }
    }
}

impl Question {
    /// Whether each of its `n_choices` answers has a score.
    fn is_complete(&self, n_choices: u64) -> bool {
        let finite = self.answers.values().all(|(_, total)| total.sum_nll.is_finite());
        finite && !self.has_failed && self.answers.len() as u64 == n_choices
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
