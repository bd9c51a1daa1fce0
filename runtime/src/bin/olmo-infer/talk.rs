//! `olmo-infer chat`: the loop of a conversation, in a terminal or with lines from standard input.

use crate::args::chat::ChatArgs;
use crate::failure::Failure;
use crate::lines::{Lines, Typed};
use crate::opened::{note_clock, refuse_no_guess, while_populating};
use crate::program::PROGRAM;
use crate::timing_line::guesses;
use crate::{prompts, transcript};
use olmo_infer::Model;
use olmo_infer::Options;
use olmo_infer::internals::cli::command_line;
use olmo_infer::internals::conversation::{Answer, Answering, Conversation, End, Unanswered};
use olmo_infer::internals::error::shown::for_terminal;
use olmo_infer::internals::error::{Error, display_path, one_line};
use olmo_infer::internals::file::sampling::{AuthorSampling, described};
use olmo_infer::internals::generate::batch_size::context_size;
use olmo_infer::internals::os::disk::SystemDisk;
use olmo_infer::internals::os::terminal;
use olmo_infer::internals::text::chat::{Chat, ChatError, Role};
use std::env;
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// With fewer positions left than this, or an eighth of them, a note is printed; of a small context it is half.
const FEW_POSITIONS: usize = 512;

const HELP: &str = "\
Type a text, and the model answers. Ctrl-C ends the answer, Ctrl-D the program.
  /system TEXT   set the system message, which is first in the conversation; without TEXT, remove it
  /undo          remove your last turn and its answer
  /retry         answer your last turn again, with the next seed
  /new           remove all turns; the system message stays
  /save FILE     write the conversation to FILE as JSON; /save! FILE replaces a file
  /help          print this
  /quit          end
A line that ends in a backslash continues in the next one. A line that begins with // is sent with a single /.";

/// Whether both ends of the program are a terminal.
pub fn is_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Talks until the input ends.
///
/// # Errors
/// What ends the program. In a terminal, turns and commands that fail do not.
pub fn run(args: &ChatArgs) -> Result<(), Failure> {
    let (threads, fewer_threads) = command_line::threads(args.threads);
    let model = Model::open_with(&args.model, args.load, threads)?;
    let file = model.file();
    let chat = prompts::chat(file)?;
    note_clock(file);
    refuse_no_guess(args.speculate, args.backend, file)?;
    file.check_complete()?;
    let path = display_path(&args.model);
    let problem = match (&args.system, &chat) {
        (Some(_), Chat { with_system: None, .. }) => {
            Some(format!("{}, so --system cannot be used", ChatError::NoSystem))
        }
        (None, Chat { alone: None, .. }) => Some(format!("{}; give one with --system", ChatError::NeedsSystem)),
        _ => None,
    };
    if let Some(problem) = problem {
        return Err(Failure::Usage(format!("{path}: {problem}")));
    }
    let options = Options { backend: args.backend, kv: args.kv, speculate: args.speculate, ..Options::new(1) };
    let positions = context_size(args.positions, file, model.network()?, &options).map_err(|error| match error {
        Error::TooManyPositions { asked, most } => {
            Failure::Refused(format!("--positions {asked}: the model has {most}, expected at most these"))
        }
        Error::ContextTooLarge { .. } => Failure::Refused(format!("{error}; ask for fewer with --positions")),
        error => error.into(),
    })?;
    let author = AuthorSampling::new(file)?;
    let sampling = args.sampling.resolve(author.as_ref());
    let answering = Answering { sampling, max_tokens: args.max_tokens, stops: args.stops.clone() };
    let mut conversation = Conversation::with_chat(&model, chat, Options { positions, ..options }, answering)?;
    if let Some(system) = &args.system {
        conversation.set_system(Some(system.clone())).map_err(|error| Failure::Usage(format!("{path}: {error}")))?;
    }
    let most = file.config().max_position_embeddings;
    if args.positions.is_none() && positions < most {
        PROGRAM.note(format_args!(
            "the context has {positions} positions, what fits the free memory; the model has {most}"
        ));
    }
    if let Some(line) = fewer_threads {
        PROGRAM.note(line);
    }
    if args.timing {
        let origin = args.sampling.origin(author.as_ref());
        PROGRAM.print_line(format_args!("sampling: {} ({origin})", described(&sampling)));
    }
    let in_terminal = is_terminal();
    if in_terminal {
        let model = one_line(&args.model.file_name().unwrap_or_default().to_string_lossy());
        PROGRAM.print_line(format_args!("{model}, {positions} positions; /help lists commands, Ctrl-D ends"));
    }
    let lines = if in_terminal { Lines::of_terminal()? } else { Lines::Input };
    let mut talk = Talk { args, model: &model, conversation, in_terminal };
    while_populating(file, args.speculate.draft, || talk.run(lines)).map(|_| ())
}

/// A conversation with a user.
struct Talk<'a> {
    args: &'a ChatArgs,
    model: &'a Model,
    conversation: Conversation,
    /// Whether a person can continue after a failure.
    in_terminal: bool,
}

/// What a text asks for.
#[derive(Debug, PartialEq, Eq)]
enum Request<'t> {
    Nothing,
    Ask(&'t str),
    System(&'t str),
    Undo,
    Retry,
    New,
    Save { path: &'t str, replace: bool },
    Help,
    Quit,
    Unknown(&'t str),
}

impl Request<'_> {
    fn of(text: &str) -> Request<'_> {
        let Some(command) = text.strip_prefix('/') else {
            return if text.trim().is_empty() { Request::Nothing } else { Request::Ask(text) };
        };
        if command.starts_with('/') {
            return Request::Ask(command);
        }
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        match (name, rest) {
            ("system", _) => Request::System(rest),
            ("save", _) => Request::Save { path: rest, replace: false },
            ("save!", _) => Request::Save { path: rest, replace: true },
            ("undo", "") => Request::Undo,
            ("retry", "") => Request::Retry,
            ("new", "") => Request::New,
            ("help", "") => Request::Help,
            ("quit", "") => Request::Quit,
            _ => Request::Unknown(text),
        }
    }
}

impl Talk<'_> {
    fn run(&mut self, lines: Lines) -> Result<(), Failure> {
        // To the end of the conversation: Ctrl-C that comes a moment after an answer must not lose it.
        terminal::catch_interrupts(self.in_terminal);
        let ended = self.converse(lines);
        terminal::catch_interrupts(false);
        ended
    }

    fn converse(&mut self, mut lines: Lines) -> Result<(), Failure> {
        let mut was_interrupt = false;
        loop {
            terminal::forget_interrupt();
            let typed = lines.next()?;
            // From here on it is about the answer.
            terminal::forget_interrupt();
            let is_interrupt = typed == Typed::Interrupt;
            match typed {
                Typed::End => return Ok(()),
                Typed::Interrupt if was_interrupt => return Ok(()),
                Typed::Interrupt => PROGRAM.print_line("Ctrl-C again, or Ctrl-D, ends"),
                Typed::NotText => PROGRAM.error("the line is not UTF-8 and is dropped; set the terminal to UTF-8"),
                Typed::Text(text) => match self.obey(Request::of(&text)) {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => return Ok(()),
                    Err(Failure::Refused(problem)) if self.in_terminal => PROGRAM.error(problem),
                    Err(failure) => return Err(failure),
                },
            }
            was_interrupt = is_interrupt;
        }
    }

    /// Does what was asked for; breaks at the end. What a person can do something about is [`Failure::Refused`].
    fn obey(&mut self, request: Request) -> Result<ControlFlow<()>, Failure> {
        let refused = |problem: String| Err(Failure::Refused(problem));
        match request {
            Request::Nothing => {}
            Request::Ask(text) => self.answer(|conversation, listen| conversation.ask(text, listen))?,
            Request::Retry => {
                if self.conversation.n_turns() == 0 {
                    return refused(Unanswered::NoTurn.to_string());
                }
                if self.conversation.answering().sampling.temperature == 0.0 {
                    PROGRAM.note("at temperature 0 an answer is always the same");
                }
                self.answer(|conversation, listen| conversation.retry(listen))?;
            }
            Request::System(text) => {
                let system = Some(text).filter(|text| !text.is_empty()).map(String::from);
                let had_system = self.conversation.messages().first().is_some_and(|first| first.role == Role::System);
                if system.is_none() && !had_system {
                    PROGRAM.note("there is no system message");
                    return Ok(ControlFlow::Continue(()));
                }
                let did = if system.is_some() { "set" } else { "removed" };
                self.conversation.set_system(system).map_err(|error| Failure::Refused(error.to_string()))?;
                PROGRAM.note(format_args!("system message {did}, from the beginning of the conversation"));
            }
            Request::Undo => {
                if !self.conversation.undo() {
                    return refused("there is no turn yet".into());
                }
                PROGRAM.note(format_args!("last turn removed, {} left", self.conversation.n_turns()));
            }
            Request::New if self.conversation.n_turns() == 0 => PROGRAM.note("there is no turn yet"),
            Request::New => {
                self.conversation.clear();
                PROGRAM.note("all turns removed");
            }
            Request::Save { path: "", .. } => return refused("/save needs the name of a file".into()),
            Request::Save { path: "-", .. } => {
                return refused(
                    "/save -: standard output has the answers; give the name of a file, or ./- for -".into(),
                );
            }
            Request::Save { path, replace } => self.save(path, replace)?,
            Request::Help => {
                let _lost = writeln!(io::stderr(), "{HELP}");
            }
            Request::Quit => return Ok(ControlFlow::Break(())),
            Request::Unknown(text) => {
                let line = one_line(text.lines().next().unwrap_or_default());
                return refused(format!(
                    "{line}: no such command; /help lists them, a line that begins with // is sent"
                ));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn save(&self, path: &str, replace: bool) -> Result<(), Failure> {
        if self.conversation.messages().is_empty() {
            return Err(Failure::Refused("there is nothing to save yet".into()));
        }
        let path = match (path.strip_prefix("~/"), env::home_dir()) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(path),
        };
        let inputs: [&Path; 1] = [&self.args.model];
        let saved = transcript::save(&SystemDisk, self.conversation.messages(), &path, replace, &inputs);
        // The user can give another path.
        saved.map_err(|failure| Failure::Refused(failure.to_string()))?;
        let n = self.conversation.messages().len();
        PROGRAM.note(format_args!("{n} messages saved to {}", display_path(&path)));
        Ok(())
    }

    /// Prints an answer while it is generated.
    fn answer(
        &mut self,
        ask: impl FnOnce(&mut Conversation, &mut dyn FnMut(&str) -> ControlFlow<()>) -> Result<Answer, Unanswered>,
    ) -> Result<(), Failure> {
        let mut printer = Printer { to_terminal: io::stdout().is_terminal(), ends_in_newline: true, failure: None };
        terminal::set_in_text(!self.in_terminal);
        let answer = ask(&mut self.conversation, &mut |text| printer.print(text));
        terminal::set_in_text(false);
        printer.finish()?;
        if let Err(Unanswered::Listener) = answer {
            PROGRAM.note("interrupted before the answer began; the conversation is what it was");
            return Ok(());
        }
        let answer = answer.map_err(|unanswered| self.failure(unanswered))?;
        self.model.file().check_unchanged()?;
        self.note_end(&answer);
        Ok(())
    }

    /// The failure of a turn, and what to do about it.
    fn failure(&self, unanswered: Unanswered) -> Failure {
        match unanswered {
            Unanswered::Failed(error) => match self.model.file().check_unchanged() {
                // Numbers that are not finite may come from there.
                Err(changed) => changed.into(),
                Ok(()) => {
                    let path = display_path(&self.args.model);
                    match error {
                        Error::NotFinite { .. } => Failure::Fatal(format!("{path}: {error}")),
                        error => error.into(),
                    }
                }
            },
            Unanswered::TooLong { .. } => Failure::Refused(format!(
                "{unanswered}; shorten it, make room with /undo, or begin another conversation with /new"
            )),
            Unanswered::Chat(ChatError::OneTurn(_)) => {
                Failure::Refused(format!("{unanswered}; begin another conversation with /new"))
            }
            Unanswered::Chat(error) => {
                let (ChatError::Reserved { index, .. } | ChatError::Blank { index }) = error else {
                    return Failure::Refused(error.to_string());
                };
                // The last message is no longer there.
                let advice = match self.conversation.messages().get(index) {
                    None => "change it",
                    Some(_) if index == 0 => "change it with /system or /new",
                    Some(_) => "use /retry, /undo or /new",
                };
                Failure::Refused(format!("{error}; {advice}"))
            }
            unanswered => Failure::Refused(unanswered.to_string()),
        }
    }

    /// Notes how an answer ended, unless the model ended it, and how long it took.
    fn note_end(&self, answer: &Answer) {
        match answer.end {
            End::MaxTokens => PROGRAM.note(format_args!("the answer ends at --max-tokens {}", answer.generated)),
            End::Listener => PROGRAM.note("interrupted; the answer so far is kept, /undo removes it"),
            End::Full => PROGRAM.note("the answer ends because the context is full; make room with /undo or /new"),
            // The model, or a text of --stop.
            _ => {}
        }
        let (left, positions) = (self.conversation.session().left(), self.conversation.session().options().positions);
        if answer.end != End::Full && left < FEW_POSITIONS.max(positions / 8).min(positions / 2) {
            PROGRAM.note(format_args!("{left} of {positions} positions are left; make room with /undo or /new"));
        }
        if self.args.timing {
            let is_sampled = self.conversation.answering().sampling.temperature > 0.0;
            let seed = if is_sampled { format!("; seed {}", answer.seed) } else { String::new() };
            let speed = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64().max(1e-9);
            let guesses = guesses(&answer.speculated, answer.decode);
            PROGRAM.print_line(format_args!(
                "{} tokens reused; {} in prefill, {:.2} s, {:.1} tok/s; {} generated, {:.2} s, {:.1} tok/s{guesses}{seed}",
                answer.reused,
                answer.evaluated,
                answer.prefill.as_secs_f64(),
                speed(answer.evaluated, answer.prefill),
                answer.generated,
                answer.decode.as_secs_f64(),
                speed(answer.generated, answer.decode),
            ));
        }
    }
}

/// Prints the pieces of an answer.
struct Printer {
    /// Whether a terminal could take control characters for its own, wherever the turns come from.
    to_terminal: bool,
    ends_in_newline: bool,
    /// Why standard output took no more.
    failure: Option<Failure>,
}

impl Printer {
    /// Prints a piece; breaks where nothing more is to come.
    fn print(&mut self, text: &str) -> ControlFlow<()> {
        if !text.is_empty() {
            let mut out = io::stdout().lock();
            let harmless = self.to_terminal.then(|| for_terminal(text));
            let written = out.write_all(harmless.as_deref().unwrap_or(text).as_bytes()).and_then(|()| out.flush());
            self.failure = written.err().map(Failure::from);
            self.ends_in_newline = text.ends_with('\n');
        }
        match self.failure.is_some() || terminal::was_interrupted() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Ends the line.
    fn finish(self) -> Result<(), Failure> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if !self.ends_in_newline {
            let mut out = io::stdout().lock();
            out.write_all(b"\n").and_then(|()| out.flush())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_a_slash_are_commands() {
        for (text, request) in [
            ("", Request::Nothing),
            (" \n", Request::Nothing),
            ("Hi", Request::Ask("Hi")),
            (" /undo", Request::Ask(" /undo")),
            ("//etc/fstab", Request::Ask("/etc/fstab")),
            ("/system", Request::System("")),
            ("/system  Be brief.\nVery. ", Request::System("Be brief.\nVery.")),
            ("/undo ", Request::Undo),
            ("/retry", Request::Retry),
            ("/new", Request::New),
            ("/save my file.json", Request::Save { path: "my file.json", replace: false }),
            ("/save! a", Request::Save { path: "a", replace: true }),
            ("/help", Request::Help),
            ("/quit", Request::Quit),
            ("/undo it", Request::Unknown("/undo it")),
            ("/etc/fstab is broken", Request::Unknown("/etc/fstab is broken")),
            ("/", Request::Unknown("/")),
        ] {
            assert_eq!(Request::of(text), request, "{text}");
        }
    }

    #[test]
    fn help_names_every_command() {
        for name in ["system", "undo", "retry", "new", "save", "save!", "help", "quit"] {
            assert!(HELP.contains(&format!("/{name}")), "{name}");
            assert!(!matches!(Request::of(&format!("/{name}")), Request::Unknown(_)), "{name}");
        }
    }
}
