//! `olmo-infer chat` in a terminal: keys are typed, and what is on the screen is read.

use crate::{INFER, PACK};
use olmo_infer::internals::error::shown;
use olmo_tests::chats::{PLAIN, demo_chat};
use olmo_tests::terminals::{pty, screen};
use olmo_tests::{TempDir, finish, repository, run, skipped};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// After this time what is awaited does not come.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a pipe of Linux holds.
const PIPE_BYTES: usize = 1 << 16;

const CTRL_C: &str = "\u{3}";
const CTRL_D: &str = "\u{4}";
const BACKSPACE: &str = "\u{7f}";
const LEFT: &str = "\u{1b}[D";
const UP: &str = "\u{1b}[A";
/// What rustyline writes before and after a line, so that the terminal marks pasted text.
const PASTE_ON: &str = "\u{1b}[?2004h";
const PASTE_OFF: &str = "\u{1b}[?2004l";

/// A program in a terminal.
struct Terminal {
    child: Child,
    keyboard: File,
    /// The program's side, to look at its modes.
    line: OwnedFd,
    before: Termios,
    /// All that was written so far.
    screen: Arc<Mutex<Vec<u8>>>,
    /// How much of it was looked at.
    seen: usize,
}

impl Terminal {
    /// Runs olmo-infer with these arguments; `None`, loudly, where no program gives it a terminal of its own.
    fn start(term: &str, arguments: &[&str]) -> Option<Terminal> {
        Terminal::start_with(None, term, arguments)
    }

    /// As [`Terminal::start`], with standard error there instead.
    fn start_with(stderr: Option<Stdio>, term: &str, arguments: &[&str]) -> Option<Terminal> {
        let is_there = Command::new("setsid").arg("--version").output().is_ok_and(|output| output.status.success());
        if !is_there {
            skipped("conversations in a terminal were not tested: setsid (of util-linux) is not installed");
            return None;
        }
        let (keyboard, line) = pty();
        tcsetwinsize(&line, Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).expect("a size");
        let before = tcgetattr(&line).expect("modes");
        let end = || Stdio::from(line.try_clone().expect("a descriptor"));
        let mut command = Command::new("setsid");
        // The signals that the caller of the tests ignores are not ignored.
        command.args(["--ctty", "env", "--default-signal", INFER]).args(arguments).env("TERM", term);
        let child = command.stdin(end()).stdout(end()).stderr(stderr.unwrap_or_else(end)).spawn().expect("starts");
        drop(command);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, written) = (keyboard.try_clone().expect("a descriptor"), Arc::clone(&screen));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n) = reader.read(&mut bytes) {
                if n == 0 {
                    break;
                }
                written.lock().expect("no panic").extend(&bytes[..n]);
            }
        });
        Some(Terminal { child, keyboard, line, before, screen, seen: 0 })
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().expect("no panic")).into_owned()
    }

    fn type_keys(&mut self, keys: &str) {
        self.type_bytes(keys.as_bytes());
    }

    fn type_bytes(&mut self, bytes: &[u8]) {
        self.keyboard.write_all(bytes).expect("typed");
    }

    /// Waits for a text behind the one that was awaited last, and yields what is before it.
    #[track_caller]
    fn expect(&mut self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let screen = self.screen();
            // Lossy text may change at its end while a character comes.
            let rest = screen.get(self.seen..).unwrap_or_default();
            if let Some(at) = rest.find(text) {
                self.seen += at + text.len();
                return rest[..at].to_string();
            }
            assert!(begun.elapsed() < PATIENCE, "no {text:?} in {rest:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the prompt of a line that is edited.
    #[track_caller]
    fn expect_prompt(&mut self) {
        self.expect("> ");
        let begun = Instant::now();
        while tcgetattr(&self.line).expect("modes").local_modes.contains(LocalModes::ICANON) {
            assert!(begun.elapsed() < PATIENCE, "no line is edited");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for the end, and checks that the terminal is what it was.
    #[track_caller]
    fn end(&mut self) -> ExitStatus {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(begun.elapsed() < PATIENCE, "does not end: {:?}", self.screen());
            thread::sleep(Duration::from_millis(5));
        };
        let after = tcgetattr(&self.line).expect("modes");
        assert_eq!(after.local_modes, self.before.local_modes);
        assert_eq!(after.input_modes, self.before.input_modes);
        assert_eq!(after.output_modes, self.before.output_modes);
        assert_eq!(after.control_modes, self.before.control_modes);
        // What it wrote last may not be read yet.
        let begun = Instant::now();
        loop {
            let screen = self.screen();
            if screen.matches(PASTE_ON).count() == screen.matches(PASTE_OFF).count() {
                return status;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "bracketed paste is still on: {screen:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // After a test that failed.
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn saved(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

#[test]
fn edits_lines_and_obeys_commands() {
    let folder = TempDir::new("terminal-edit");
    let (model, file) = (demo_chat(PACK, &folder, PLAIN), folder.join("m.json"));
    let Some(mut terminal) = Terminal::start("xterm", &["chat", path(&model), "--max-tokens", "6"]) else { return };
    terminal.expect("chat.olmo, 2048 positions; /help lists commands, Ctrl-D ends");
    terminal.expect_prompt();
    terminal.type_keys(&format!("Four scrx{BACKSPACE}{LEFT}o\u{5}e and seven\r"));
    terminal.expect(" years\r\n");
    terminal.expect_prompt();
    terminal.type_keys("/help\r");
    terminal.expect("/retry         answer your last turn again");
    terminal.expect_prompt();
    terminal.type_keys("/nonsense\r");
    terminal.expect("error: /nonsense: no such command");
    terminal.expect_prompt();
    terminal.type_keys(" ago\r");
    terminal.expect(" our f\r\n");
    terminal.expect_prompt();
    terminal.type_keys("/undo\r");
    terminal.expect("last turn removed, 1 left");
    terminal.expect_prompt();
    terminal.type_keys("/retry\r");
    terminal.expect("at temperature 0 an answer is always the same");
    terminal.expect(" years\r\n");
    terminal.expect_prompt();
    // The line before the last one, and one that continues in the next line.
    terminal.type_keys(&format!("{UP}{UP}{UP}\r"));
    terminal.expect(" our f\r\n");
    terminal.expect_prompt();
    terminal.type_keys("ath\\\rers\r");
    terminal.expect("note: the answer ends at --max-tokens 6");
    terminal.expect_prompt();
    terminal.type_keys("\u{1b}[200~pasted\nlines\u{1b}[201~\r");
    terminal.expect("note: the answer ends at --max-tokens 6");
    terminal.expect_prompt();
    terminal.type_keys(&format!("/save {}\r", file.display()));
    terminal.expect("8 messages saved to ");
    terminal.expect_prompt();
    terminal.type_keys("/system Be brief.\r");
    terminal.expect("system message set, from the beginning of the conversation");
    terminal.expect_prompt();
    terminal.type_keys(CTRL_D);
    assert_eq!(terminal.end().code(), Some(0));
    let messages = saved(&file);
    let contents: Vec<&Value> = messages.as_array().expect("a list").iter().map(|m| &m["content"]).collect();
    let expected = [json!("Four score and seven"), json!(" years"), json!(" ago"), json!(" our f"), json!("ath\ners")];
    assert_eq!(contents[..5], expected.iter().collect::<Vec<_>>());
    assert_eq!(contents[6], &json!("pasted\nlines"));
}

#[test]
fn ctrl_c_ends_the_answer_and_keeps_it() {
    let folder = TempDir::new("terminal-interrupt");
    let (model, file) = (demo_chat(PACK, &folder, PLAIN), folder.join("m.json"));
    let Some(mut terminal) = Terminal::start("xterm", &["chat", path(&model), "--threads", "1"]) else { return };
    terminal.expect_prompt();
    terminal.type_keys("Four score and seven\r");
    terminal.expect(" years ago");
    terminal.type_keys(CTRL_C);
    terminal.expect("note: interrupted; the answer so far is kept, /undo removes it");
    terminal.expect_prompt();
    terminal.type_keys(&format!("/save {}\r", file.display()));
    terminal.expect("2 messages saved");
    terminal.expect_prompt();
    // The conversation continues from there.
    let messages = saved(&file);
    let spoken = messages[1]["content"].as_str().expect("a text").to_string();
    let speech = fs::read_to_string(repository().join("demo/speech.txt")).expect("the speech");
    let rest = speech.strip_prefix(&format!("Four score and seven{spoken}")).expect("the beginning of the speech");
    assert!(spoken.starts_with(" years ago") && rest.len() > 100, "{spoken}");
    terminal.type_keys(CTRL_D);
    assert_eq!(terminal.end().code(), Some(0));
}

#[test]
fn second_ctrl_c_at_the_prompt_ends_the_program() {
    let folder = TempDir::new("terminal-clear");
    let model = demo_chat(PACK, &folder, PLAIN);
    let Some(mut terminal) = Terminal::start("xterm", &["chat", path(&model), "--max-tokens", "6"]) else { return };
    terminal.expect_prompt();
    terminal.type_keys(&format!("nonsense{CTRL_C}"));
    terminal.expect("Ctrl-C again, or Ctrl-D, ends");
    terminal.expect_prompt();
    terminal.type_keys("Four score and seven\r");
    terminal.expect(" years\r\n");
    terminal.expect_prompt();
    terminal.type_keys(CTRL_C);
    terminal.expect("Ctrl-C again, or Ctrl-D, ends");
    terminal.expect_prompt();
    terminal.type_keys(CTRL_C);
    assert_eq!(terminal.end().code(), Some(0));
}

#[test]
fn ctrl_c_after_an_answer_keeps_the_conversation() {
    let folder = TempDir::new("terminal-late");
    let (model, file) = (demo_chat(PACK, &folder, PLAIN), folder.join("m.json"));
    let Some(mut terminal) = Terminal::start("xterm", &["chat", path(&model), "--max-tokens", "6"]) else { return };
    const TURNS: usize = 6;
    for _ in 0..TURNS {
        terminal.expect_prompt();
        terminal.type_keys("Four score and seven\r");
        // An interrupt at the prompt is handled there; no second one follows.
        terminal.expect("note: the answer ends at --max-tokens 6");
        terminal.type_keys(CTRL_C);
        thread::sleep(Duration::from_millis(50));
    }
    terminal.expect_prompt();
    terminal.type_keys(&format!("/save {}\r", file.display()));
    terminal.expect(&format!("{} messages saved", 2 * TURNS));
    terminal.expect_prompt();
    terminal.type_keys(CTRL_D);
    assert_eq!(terminal.end().code(), Some(0));
}

#[test]
fn ctrl_c_before_the_prompt_keeps_the_conversation() {
    let folder = TempDir::new("terminal-between");
    let model = demo_chat(PACK, &folder, PLAIN);
    let (mut notes, mut full) = io::pipe().expect("a pipe");
    let stderr = Stdio::from(full.try_clone().expect("a descriptor"));
    let arguments = ["chat", path(&model), "--max-tokens", "6"];
    let Some(mut terminal) = Terminal::start_with(Some(stderr), "xterm", &arguments) else { return };
    terminal.expect_prompt();
    // In the full pipe the note after the answer waits, and with it the program, between answer and prompt.
    let welcome = notes.read(&mut [0; 4096]).expect("a line");
    assert!(welcome > 0);
    full.write_all(&[b'.'; PIPE_BYTES]).expect("as much as it takes");
    // The pipe ends where the program does.
    drop(full);
    terminal.type_keys("Four score and seven\r");
    terminal.expect(" years\r\n");
    thread::sleep(Duration::from_millis(100));
    terminal.type_keys(CTRL_C);
    thread::sleep(Duration::from_millis(100));
    notes.read_exact(&mut [0; PIPE_BYTES]).expect("what filled it");
    let note = b"olmo-infer: note: the answer ends at --max-tokens 6\n";
    let mut noted = vec![0; note.len()];
    notes.read_exact(&mut noted).expect("the program continues");
    assert_eq!(noted, note);
    terminal.expect_prompt();
    // That interrupt was not meant for the next answer.
    terminal.type_keys(" ago\r");
    terminal.expect(" our f\r\n");
    terminal.expect_prompt();
    terminal.type_keys(CTRL_D);
    assert_eq!(terminal.end().code(), Some(0));
}

#[test]
fn ctrl_c_without_line_editing_warns_first() {
    let folder = TempDir::new("terminal-plain");
    let model = demo_chat(PACK, &folder, PLAIN);
    let Some(mut terminal) = Terminal::start("dumb", &["chat", path(&model), "--max-tokens", "6"]) else { return };
    terminal.expect("> ");
    terminal.type_keys(&format!("nonsense{CTRL_C}"));
    terminal.expect("Ctrl-C again, or Ctrl-D, ends");
    terminal.expect("> ");
    terminal.type_keys("Four score and seven\n");
    terminal.expect(" years\r\n");
    terminal.expect("> ");
    terminal.type_bytes(b"caf\xe9\n");
    terminal.expect("error: the line is not UTF-8 and is dropped");
    for _ in 0..2 {
        terminal.expect("> ");
        terminal.type_keys(CTRL_C);
    }
    assert_eq!(terminal.end().code(), Some(0));
}

#[test]
fn drops_a_non_utf8_line_and_continues() {
    let folder = TempDir::new("terminal-latin");
    let (model, file) = (demo_chat(PACK, &folder, PLAIN), folder.join("m.json"));
    let Some(mut terminal) = Terminal::start("xterm", &["chat", path(&model), "--max-tokens", "6"]) else { return };
    terminal.expect_prompt();
    terminal.type_keys("Four score and seven\r");
    terminal.expect(" years\r\n");
    terminal.expect_prompt();
    // All of the line goes, not only what is before the byte.
    terminal.type_bytes(b"caf\xe9 au lait\r");
    terminal.expect("error: the line is not UTF-8 and is dropped; set the terminal to UTF-8");
    terminal.expect_prompt();
    terminal.type_keys(" ago\r");
    terminal.expect(" our f\r\n");
    terminal.expect_prompt();
    terminal.type_keys(&format!("/save {}\r", file.display()));
    terminal.expect("4 messages saved");
    assert_eq!(saved(&file)[2]["content"], " ago");
    terminal.expect_prompt();
    // The lines before it are still there.
    terminal.type_keys(&format!("{UP}{UP}{UP}\r"));
    terminal.expect("> Four score and seven");
    terminal.expect_prompt();
    terminal.type_keys(CTRL_D);
    assert_eq!(terminal.end().code(), Some(0));
}

#[test]
fn answers_to_piped_turns_send_no_control_sequence() {
    let folder = TempDir::new("terminal-piped");
    let model = demo_chat(PACK, &folder, PLAIN);
    let arguments = ["chat", path(&model), "--temperature", "50", "--seed", "3", "--max-tokens", "600"];
    let turns = folder.join("turns");
    fs::write(&turns, "Four\n").expect("written");
    let run = |stdout: Stdio| {
        let mut command = Command::new(INFER);
        command.args(arguments).stdin(File::open(&turns).expect("a file")).stdout(stdout).stderr(Stdio::null());
        command.spawn().expect("starts").wait_with_output().expect("ends")
    };
    let piped = String::from_utf8(run(Stdio::piped()).stdout).expect("text");
    let (keyboard, line) = pty();
    let reader = screen(keyboard);
    assert!(run(Stdio::from(line)).status.success());
    let screen = String::from_utf8(reader.join().expect("no panic")).expect("text");
    let steers = |c: char| shown::is_display_control(c) && !matches!(c, '\n' | '\t' | '\r');
    assert!(piped.contains(steers), "another program gets the text unchanged: {piped:?}");
    assert!(screen.contains('\u{fffd}') && !screen.contains(steers), "{screen:?}");
}

#[test]
fn signal_restores_the_terminal() {
    let folder = TempDir::new("terminal-signal");
    let model = demo_chat(PACK, &folder, PLAIN);
    for (signal, number) in [("TERM", 15), ("HUP", 1)] {
        let Some(mut terminal) = Terminal::start("xterm", &["chat", path(&model)]) else { return };
        terminal.expect_prompt();
        terminal.type_keys("Four sc");
        terminal.expect("c");
        finish(Command::new("kill").args([&format!("-{signal}"), &terminal.child.id().to_string()])).ok();
        assert_eq!(terminal.end().signal(), Some(number));
    }
    // Between lines the terminal is as before.
    let Some(mut terminal) = Terminal::start("xterm", &["chat", path(&model), "--threads", "1"]) else { return };
    terminal.expect_prompt();
    terminal.type_keys("Four score and seven\r");
    terminal.expect(" years");
    finish(Command::new("kill").args(["-TERM", &terminal.child.id().to_string()])).ok();
    assert_eq!(terminal.end().signal(), Some(15));
}

#[test]
fn answers_send_no_control_sequence() {
    let folder = TempDir::new("terminal-escapes");
    let model = demo_chat(PACK, &folder, PLAIN);
    // Bytes of all kinds.
    let flags = ["--temperature", "50", "--seed", "3", "--max-tokens", "600"];
    let Some(mut terminal) = Terminal::start("xterm", &[&["chat", path(&model)], &flags[..]].concat()) else { return };
    terminal.expect_prompt();
    terminal.type_keys("Four\r");
    terminal.expect(PASTE_OFF);
    let answer = terminal.expect(PASTE_ON);
    assert!(answer.contains('\u{fffd}') && answer.chars().count() > 200, "{answer:?}");
    let steers = |c: char| shown::is_display_control(c) && !matches!(c, '\n' | '\t');
    let lines = answer.split("\r\n");
    assert!(lines.clone().all(|line| !line.contains(steers)), "{answer:?}");
    terminal.expect_prompt();
    // The conversation keeps the control characters of the answer.
    let file = folder.join("m.json");
    terminal.type_keys(&format!("/save {}\r", file.display()));
    terminal.expect("2 messages saved");
    assert!(saved(&file)[1]["content"].as_str().expect("a text").contains('\u{1b}'));
    terminal.expect_prompt();
    terminal.type_keys(CTRL_D);
    assert_eq!(terminal.end().code(), Some(0));
}

#[test]
fn pasted_text_sends_no_control_sequence() {
    let folder = TempDir::new("chat-pasted");
    let model = demo_chat(PACK, &folder, PLAIN);
    let Some(mut terminal) = Terminal::start("xterm", &["chat", path(&model), "--max-tokens", "3"]) else { return };
    terminal.expect_prompt();
    let steering = "\u{9b}31mRED\u{9d}0;title\u{9c}\u{8}\u{e}\u{202e}\u{2028}";
    terminal.type_keys(&format!("\u{1b}[200~one{steering}two\u{1b}[201~"));
    terminal.expect("two");
    terminal.type_keys("\r");
    terminal.expect_prompt();
    // The history shows it once more.
    terminal.type_keys(UP);
    terminal.expect("two");
    terminal.type_keys("\u{5}\u{15}");
    terminal.type_keys(CTRL_D);
    assert_eq!(terminal.end().code(), Some(0));
    let screen = terminal.screen();
    assert!(screen.contains("RED") && screen.contains('\u{fffd}'), "{screen:?}");
    // Escape, line ends and the keys of the editor are its own.
    let steers = |c: char| shown::is_display_control(c) && !matches!(c, '\u{1b}' | '\r' | '\n' | '\u{7}');
    assert!(!screen.contains(steers), "{screen:?}");
}

#[test]
fn bare_model_in_a_terminal_begins_a_conversation() {
    let folder = TempDir::new("terminal-bare");
    let model = demo_chat(PACK, &folder, PLAIN);
    let Some(mut terminal) = Terminal::start("dumb", &[path(&model), "--max-tokens", "6"]) else { return };
    terminal.expect("/help lists commands");
    terminal.expect("> ");
    terminal.type_keys("Four score and seven\r");
    terminal.expect(" years\r\n");
    terminal.expect("> ");
    terminal.type_keys(CTRL_D);
    assert_eq!(terminal.end().code(), Some(0));
    assert!(!terminal.screen().contains('\u{1b}'), "this terminal takes no escapes: {:?}", terminal.screen());
    // Generation without a conversation is unchanged.
    let Some(mut terminal) =
        Terminal::start("xterm", &[path(&model), "--prompt", "Four score and", "--max-tokens", "6"])
    else {
        return;
    };
    assert_eq!((terminal.end().code(), terminal.expect("\r\n").as_str()), (Some(0), " seven"));
    let base = folder.join("base.olmo");
    run(PACK, [&repository().join("demo/weights"), &base]).ok();
    let Some(mut terminal) = Terminal::start("xterm", &[path(&base)]) else { return };
    assert_eq!(terminal.end().code(), Some(2));
    terminal.expect("base.olmo: has no chat format; base models have none");
}
