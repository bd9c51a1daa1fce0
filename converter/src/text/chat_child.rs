//! Chat templates run in a child process.
//!
//! A template is untrusted code: it can overflow the stack, exhaust memory, and make the interpreter panic. So the
//! program starts itself with [`ARGUMENT`]. That process lowers its resource limits, reads the template, and writes the
//! bytes of a section `CHAT`. The packing process survives any outcome: it validates the answer like an untrusted file,
//! and treats a crash as an unusable template.

use crate::error::Error;
use crate::text::chat_section;
use crate::text::chat_template;
use crate::text::jinja::Names;
use olmo_infer::internals::error::reason;
use olmo_infer::internals::format::section;
use olmo_infer::internals::text::chat::{Chat, NoChat};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use std::env;
use std::fmt;
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::{self, Builder};
use std::time::{Duration, Instant};

/// The only argument of the process that runs a template.
pub const ARGUMENT: &str = "__chat-template";
/// This program, even if its file has been replaced since it started.
pub const THIS_PROGRAM: &str = "/proc/self/exe";
/// Memory limit for a template, including its stack; published templates use less than 10 MiB.
const MEMORY_MIB: u64 = 128;
/// Stack of the thread that runs the template: published templates nest only a few values.
const STACK_BYTES: usize = 16 << 20;
/// CPU time limit in seconds; published templates use a few hundredths. Waiting does not count. A slower machine, or
/// one with contended caches and cores, needs more: a template near the limit can be usable on one machine and not on
/// another.
const CPU_SECONDS: u64 = 5;
/// Longest wall-clock wait: the process may be stopped, or wait long for a CPU.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Longest single wait for the process.
const TICK: Duration = Duration::from_millis(100);
/// Longest answer: the longest section `CHAT`.
const MAX_ANSWER_BYTES: usize = section::max_bytes(section::CHAT) as usize;
/// Bytes kept of its standard error, where Rust reports why a process ends.
const MAX_STDERR_BYTES: usize = 4096;
/// Longest input: its files have at most 4 MiB each, and JSON escapes a character with six bytes.
const MAX_INPUT_BYTES: u64 = 96 << 20;

/// Why there is no answer for a template.
#[derive(Debug)]
enum NoAnswer {
    /// No program to run it was given.
    NoProgram,
    /// The process cannot be started.
    NotStarted(io::Error),
    /// The pipes to the process fail.
    Pipe(io::Error),
    /// It exceeds [`MEMORY_MIB`].
    Memory,
    /// It overflows the stack.
    Depth,
    /// It exceeds [`CPU_SECONDS`].
    CpuTime,
    /// It exceeds [`MAX_WAIT`].
    Time,
    /// The interpreter panics on it.
    Panic,
    /// Its answer is longer than [`MAX_ANSWER_BYTES`].
    Length,
    /// Its answer is not a valid section.
    NoSection,
    /// The process ended in another way.
    Ended(ExitStatus),
}

impl NoAnswer {
    /// Whether the template is the cause.
    fn is_caused_by_template(&self) -> bool {
        // An inherited limit is, or may be, the lower one.
        let is_own_limit = |resource| getrlimit(resource).current.is_none();
        match self {
            NoAnswer::Memory => is_own_limit(Resource::As),
            NoAnswer::CpuTime => is_own_limit(Resource::Cpu),
            NoAnswer::Depth | NoAnswer::Panic | NoAnswer::Length => true,
            NoAnswer::NoProgram
            | NoAnswer::NotStarted(_)
            | NoAnswer::Pipe(_)
            | NoAnswer::Time
            | NoAnswer::NoSection
            | NoAnswer::Ended(_) => false,
        }
    }
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoAnswer::NoProgram => f.write_str("no program to run it was named"),
            NoAnswer::NotStarted(error) => write!(f, "no process can be started to run it: {}", reason(error)),
            NoAnswer::Pipe(error) => write!(f, "the process that runs it cannot be reached: {}", reason(error)),
            NoAnswer::Memory => write!(f, "it needs more than {MEMORY_MIB} MiB"),
            NoAnswer::Depth => f.write_str("it nests too deeply"),
            NoAnswer::CpuTime => write!(f, "it ran longer than {CPU_SECONDS} s"),
            NoAnswer::Time => write!(f, "it did not end within {} s", MAX_WAIT.as_secs()),
            NoAnswer::Panic => f.write_str("it panics"),
            NoAnswer::Length => write!(f, "its texts are longer than {} MiB", MAX_ANSWER_BYTES >> 20),
            NoAnswer::NoSection => f.write_str("the process that ran it gave no chat format"),
            NoAnswer::Ended(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => write!(f, "the process that ran it was ended by signal {signal}"),
                (None, code) => write!(f, "the process that ran it ended with status {}", code.unwrap_or_default()),
            },
        }
    }
}

/// The chat format of a template, derived by `program` in a child process.
///
/// # Errors
/// [`NoFormat`].
pub fn chat(program: Option<&Path>, template: &str, names: &Names) -> Result<Chat, NoFormat> {
    let answer = program.ok_or(NoAnswer::NoProgram).and_then(|program| answer(program, template, names));
    let chat = answer.and_then(|answer| match Chat::in_section(&answer) {
        Ok(chat) => Ok(Ok(chat)),
        Err(NoChat::Unusable(why)) => Ok(Err(NoFormat::Unusable(why))),
        Err(NoChat::Damaged) => Err(NoAnswer::NoSection),
    });
    chat.unwrap_or_else(|no_answer| {
        Err(if no_answer.is_caused_by_template() {
            NoFormat::Unusable(format!("its chat template cannot be used: {no_answer}"))
        } else {
            NoFormat::NotRun(no_answer.to_string())
        })
    })
}

/// Why there is no chat format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoFormat {
    /// The template cannot be used on any machine; the reason in one line.
    Unusable(String),
    /// The run failed for a reason outside the template, and may succeed later. The packed file must not depend on it.
    NotRun(String),
}

/// The answer of `program` to a template.
fn answer(program: &Path, template: &str, names: &Names) -> Result<Vec<u8>, NoAnswer> {
    // Strings always serialize to JSON.
    let input = serde_json::to_vec(&(template, names)).map_err(|error| NoAnswer::Pipe(error.into()))?;
    let mut command = Command::new(program);
    command.arg0("olmo-pack").arg(ARGUMENT);
    // The C library would reserve 64 MiB of address space for the arena of a second thread.
    command.env_clear().env("MALLOC_ARENA_MAX", "1");
    // For sanitizer builds, whose leak check needs calls that the limits forbid.
    command.envs(env::var_os("ASAN_OPTIONS").map(|options| ("ASAN_OPTIONS", options)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running { child: command.spawn().map_err(NoAnswer::NotStarted)?, waited: Duration::ZERO };
    let (answer, stderr_text) = running.talk(&input)?;
    let status = running.end()?;
    if status.success() { Ok(answer) } else { Err(why_ended(status, &stderr_text)) }
}

/// Why a process ended without an answer, from its status and the last lines of Rust's runtime.
fn why_ended(status: ExitStatus, stderr_text: &[u8]) -> NoAnswer {
    let stderr_text = String::from_utf8_lossy(stderr_text);
    match (status.signal(), status.code()) {
        (Some(signal), _) if signal == Signal::XCPU.as_raw() => NoAnswer::CpuTime,
        // Without the handler that reports a stack overflow.
        (Some(signal), _) if signal == Signal::SEGV.as_raw() => NoAnswer::Depth,
        (Some(_), _) if stderr_text.contains("overflowed its stack") => NoAnswer::Depth,
        (_, Some(101)) => NoAnswer::Panic,
        _ if stderr_text.contains("memory") => NoAnswer::Memory,
        _ => NoAnswer::Ended(status),
    }
}

/// The process that runs a template. Dropping this kills it.
struct Running {
    child: Child,
    /// Total time waited for it.
    waited: Duration,
}

impl Running {
    /// Writes `input` to the process, and returns its standard output and standard error.
    fn talk(&mut self, input: &[u8]) -> Result<(Vec<u8>, Vec<u8>), NoAnswer> {
        let (mut answer, mut stderr_text) = (Vec::new(), Vec::new());
        let mut stdin = Pipe::new(self.child.stdin.take())?;
        let mut stdout: Pipe<ChildStdout> = Pipe::new(self.child.stdout.take())?;
        let mut stderr: Pipe<ChildStderr> = Pipe::new(self.child.stderr.take())?;
        let mut rest = input;
        while stdout.0.is_some() || stderr.0.is_some() {
            if rest.is_empty() {
                stdin.0 = None;
            }
            let begun = Instant::now();
            wait(&[stdin.ready(PollFlags::OUT), stdout.ready(PollFlags::IN), stderr.ready(PollFlags::IN)])
                .map_err(NoAnswer::Pipe)?;
            self.count(begun)?;
            stdin.write(&mut rest).map_err(NoAnswer::Pipe)?;
            stdout.read(&mut answer, MAX_ANSWER_BYTES + 1).map_err(NoAnswer::Pipe)?;
            if answer.len() > MAX_ANSWER_BYTES {
                return Err(NoAnswer::Length);
            }
            stderr.read(&mut stderr_text, MAX_STDERR_BYTES).map_err(NoAnswer::Pipe)?;
        }
        Ok((answer, stderr_text))
    }

    /// Waits until the process has ended, after its pipes are closed.
    fn end(&mut self) -> Result<ExitStatus, NoAnswer> {
        loop {
            if let Some(status) = self.child.try_wait().map_err(NoAnswer::Pipe)? {
                return Ok(status);
            }
            let begun = Instant::now();
            thread::sleep(Duration::from_millis(1));
            self.count(begun)?;
        }
    }

    /// Adds a wait, capped so that hours during which this program was stopped count as one tick.
    fn count(&mut self, begun: Instant) -> Result<(), NoAnswer> {
        self.waited += begun.elapsed().min(2 * TICK);
        if self.waited < MAX_WAIT { Ok(()) } else { Err(NoAnswer::Time) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A process that has already ended needs neither, and another failure cannot be reported.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An end of a pipe to the process, until it is closed.
struct Pipe<P>(Option<P>);

impl<P: AsFd> Pipe<P> {
    /// A non-blocking end.
    fn new(end: Option<P>) -> Result<Pipe<P>, NoAnswer> {
        let end = end.filter(|end| ioctl_fionbio(end, true).is_ok());
        end.map(|end| Pipe(Some(end))).ok_or_else(|| NoAnswer::Pipe(io::ErrorKind::BrokenPipe.into()))
    }

    /// The entry for `poll`.
    fn ready(&self, flags: PollFlags) -> Option<PollFd<'_>> {
        self.0.as_ref().map(|end| PollFd::new(end, flags))
    }
}

impl Pipe<ChildStdin> {
    /// Writes as much of `rest` as the pipe accepts.
    fn write(&mut self, rest: &mut &[u8]) -> io::Result<()> {
        while let (Some(end), false) = (&mut self.0, rest.is_empty()) {
            match end.write(rest) {
                Ok(written) => *rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The process has ended; its status has the reason.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.0 = None,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<P: Read> Pipe<P> {
    /// Reads the available bytes, up to `most` in total, then closes.
    fn read(&mut self, out: &mut Vec<u8>, most: usize) -> io::Result<()> {
        while let Some(end) = &mut self.0 {
            let mut piece = [0; 4096];
            match end.read(&mut piece) {
                Ok(read) => {
                    out.extend_from_slice(&piece[..read.min(most - out.len())]);
                    if read == 0 || out.len() == most {
                        self.0 = None;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Waits until one of these is ready, or for one tick.
fn wait(ends: &[Option<PollFd<'_>>]) -> io::Result<()> {
    let mut ends: Vec<PollFd<'_>> = ends.iter().flatten().cloned().collect();
    let tick = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
    match poll(&mut ends, Some(&tick)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The process started with [`ARGUMENT`]: reads a template, derives its chat format and writes the section.
///
/// # Errors
/// [`Error::Usage`] when a user has started it.
pub fn serve() -> Result<(), Error> {
    let started_by_user = || Error::Usage(format!("{ARGUMENT} is how olmo-pack starts itself; see olmo-pack --help"));
    if io::stdin().is_terminal() {
        return Err(started_by_user());
    }
    let failed = |action: &'static str, error: io::Error| Error::io("the process of a chat template", action, error);
    let mut input = Vec::new();
    let read = io::stdin().lock().take(MAX_INPUT_BYTES).read_to_end(&mut input);
    read.map_err(|error| failed("cannot read", error))?;
    let (template, names): (String, Names) = serde_json::from_slice(&input).map_err(|_| started_by_user())?;
    drop(input);
    limit().map_err(|error| failed("cannot limit itself", error))?;
    let derive = move || match chat_template::chat(&template, &names) {
        Ok(chat) => chat_section::section(&chat),
        Err(why) => chat_section::unusable(&why),
    };
    let thread = Builder::new().stack_size(STACK_BYTES).spawn(derive);
    let thread = thread.map_err(|error| failed("cannot start a thread", error))?;
    let answer = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let mut stdout = io::stdout().lock();
    stdout.write_all(&answer).and_then(|()| stdout.flush()).map_err(|error| failed("cannot write", error))
}

/// Lowers the resource limits of this process for good; the kernel kills it when its parent dies.
fn limit() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Memory already mapped does not count; sanitizers map much.
    let limits = [
        (Resource::As, mapped_bytes().saturating_add(MEMORY_MIB << 20), 0),
        // The hard limit applies where the signal of the soft limit is ignored.
        (Resource::Cpu, CPU_SECONDS, 1),
        (Resource::Nofile, 0, 0),
        (Resource::Fsize, 0, 0),
        (Resource::Core, 0, 0),
    ];
    for (resource, limit, more) in limits {
        let now = getrlimit(resource);
        let lower = |now: Option<u64>, limit: u64| Some(now.map_or(limit, |now| now.min(limit)));
        let new = Rlimit { current: lower(now.current, limit), maximum: lower(now.maximum, limit + more) };
        setrlimit(resource, new)?;
    }
    Ok(())
}

/// Mapped address space of this process in bytes; 0 without `VmSize` in `/proc/self/status`.
fn mapped_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.strip_suffix("kB")?.trim().parse().ok());
    kib.map_or(0, |kib: u64| kib << 10)
}
