//! Chat templates give what `apply_chat_template` of transformers gives, for the templates and conversations of
//! `scripts/make_chat_goldens.py`: the Jinja environment by itself, and the pieces that are derived of it.

use crate::PACK;
use jiff::civil::DateTime;
use olmo_infer::internals::format::config::Architecture;
use olmo_infer::internals::text::chat::{Chat, ChatError, Message, Role, date};
use olmo_infer::internals::text::encoder::Encoder;
use olmo_infer::internals::text::tokenizer::Tokenizer;
use olmo_infer::internals::text::vocabulary::Vocabulary;
use olmo_pack::text::chat_child::{self, NoFormat};
use olmo_pack::text::chat_section;
use olmo_pack::text::jinja::{Names, Template};
use olmo_pack::text::special_tokens::{Sources, TemplateFiles};
use olmo_pack::text::tokenizer_json::{self, Around};
use olmo_tests::catalogue::{self, measured};
use olmo_tests::{Stored, TempDir, repository, run, skipped, small_config, write_weights};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

/// The moment at which the templates were run.
const NOW: DateTime = DateTime::constant(2026, 3, 5, 14, 7, 9, 0);

fn now(format: &str) -> Option<String> {
    date(format, NOW)
}

fn folder() -> PathBuf {
    repository().join("tests/chat_templates")
}

/// The special tokens that the goldens were made with.
fn names() -> Names {
    let names = [("bos_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>"), ("pad_token", "<|extra_id_0|>")];
    names.map(|(name, text)| (name.into(), text.into())).to_vec()
}

/// The text that transformers renders for a conversation.
struct Case {
    messages: Vec<Message>,
    /// Its text, or `None` for an error.
    text: Option<String>,
    ids: Vec<u32>,
}

fn lines(name: &str) -> Vec<Value> {
    let lines = fs::read_to_string(folder().join(name)).expect("goldens");
    lines.lines().skip(1).map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn source(template: &str) -> String {
    fs::read_to_string(folder().join(format!("{template}.jinja"))).expect("a template")
}

/// The cases of each template.
fn cases() -> BTreeMap<String, Vec<Case>> {
    let mut cases: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for line in lines("expected.jsonl") {
        let message = |message: &Value| {
            let role = Role::ALL.into_iter().find(|role| message["role"] == role.name()).expect("a role");
            Message::new(role, message["content"].as_str().expect("a text"))
        };
        let case = Case {
            messages: line["messages"].as_array().expect("messages").iter().map(message).collect(),
            text: line["text"].as_str().map(String::from),
            ids: line["ids"].as_array().into_iter().flatten().map(|id| id.as_u64().expect("an id") as u32).collect(),
        };
        cases.entry(line["template"].as_str().expect("a name").into()).or_default().push(case);
    }
    cases
}

/// Templates that minijinja does not run as jinja2 does. Each is an error, and never another text.
const NOT_RUN: [&str; 12] = [
    "attribute-or-item",
    "concatenation",
    "dict-and-range",
    "escapes",
    "html-autoescape-off",
    "macro-defaults",
    "python-methods",
    "python-repr",
    "scoping",
    "string-filters",
    "tests-of-values",
    "undefined-prints-nothing",
];

#[test]
fn environment_renders_like_transformers() {
    let (mut n_texts, mut n_errors) = (0, 0);
    let mut wrong = Vec::new();
    for (name, cases) in cases() {
        let template = Template::new(&source(&name), &names());
        for case in cases {
            let rendered = template.as_ref().map_err(Clone::clone).and_then(|t| t.render(&case.messages, now));
            match (&rendered, &case.text) {
                (Ok(rendered), Some(text)) if rendered == text => n_texts += 1,
                (Err(_), None) => n_errors += 1,
                (Err(_), Some(_)) if NOT_RUN.contains(&name.as_str()) => n_errors += 1,
                _ => wrong.push(format!("{name}: {:?}\n  is {rendered:?}\n  not {:?}", case.messages, case.text)),
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases, first of each template:\n{}", wrong.len(), first_of_each(&wrong));
    println!("{n_texts} texts, {n_errors} errors");
    assert!(n_texts > 3000 && n_errors > 400, "{n_texts} texts, {n_errors} errors");
}

#[test]
fn expressions_print_like_jinja2_or_fail() {
    let known = fs::read_to_string(folder().join("known_differences.txt")).expect("a list");
    let known: Vec<String> = known.lines().map(|line| serde_json::from_str(line).expect("a JSON string")).collect();
    let message = [Message::new(Role::User, " Hi there\n")];
    let (mut n_same, mut differing) = (0, Vec::new());
    for line in lines("expressions.jsonl") {
        let source = line["template"].as_str().expect("a template");
        let render = || Template::new(source, &names()).and_then(|template| template.render(&message, now));
        // A panic of the interpreter is the end of the process that runs a template: an error too.
        let rendered = catch_unwind(render).unwrap_or_else(|_| Err("it panics".into()));
        match (rendered, line["text"].as_str()) {
            (Ok(rendered), Some(text)) if rendered == text => n_same += 1,
            (Ok(_), Some(_)) => differing.push(source.to_string()),
            // An error on either side: such a template is reported, or transformers does not run it.
            _ => {}
        }
    }
    assert_eq!(differing, known);
    assert!(n_same > 2600, "{n_same}");
}

fn first_of_each(wrong: &[String]) -> String {
    let mut seen = Vec::new();
    let first = |line: &&String| {
        let name = line.split(':').next().unwrap_or_default().to_string();
        let is_new = !seen.contains(&name);
        seen.push(name);
        is_new
    };
    wrong.iter().filter(first).cloned().collect::<Vec<_>>().join("\n")
}

#[test]
fn chat_format_renders_like_transformers() {
    let (mut n_texts, mut n_refused, mut wrong) = (0, 0, Vec::new());
    let [mut conversations, mut one_turn, mut nothing] = [const { Vec::new() }; 3];
    for (name, cases) in cases() {
        let chat = match chat_child::chat(Some(Path::new(PACK)), &source(&name), &names()) {
            Ok(chat) => chat,
            Err(_) => {
                nothing.push(name);
                continue;
            }
        };
        // A written and read format is the same.
        assert_eq!(Chat::in_section(&chat_section::section(&chat)).as_ref(), Ok(&chat), "{name}");
        for case in cases {
            match (chat.render_at(&case.messages, || NOW), &case.text) {
                (Ok(text), Some(expected)) if text == *expected => n_texts += 1,
                // Conversations that end with an answer ask for none.
                (Err(ChatError::Order { .. }), _) => {}
                (Err(_), _) => n_refused += 1,
                (text, expected) => {
                    wrong.push(format!("{name}: {:?}\n  is {text:?}\n  not {expected:?}", case.messages));
                }
            }
        }
        let list = if chat.takes_turns(false) || chat.takes_turns(true) { &mut conversations } else { &mut one_turn };
        list.push(name);
    }
    assert!(wrong.is_empty(), "{} cases, first of each template:\n{}", wrong.len(), first_of_each(&wrong));
    let counts = [conversations.len(), one_turn.len(), nothing.len()];
    assert_eq!(counts, [56, 13, 30], "{conversations:?}\n{one_turn:?}\n{nothing:?}");
    // Of every family of published templates.
    for name in ["olmo2-instruct", "olmo3-instruct", "olmo3-think", "chatml", "qwen3", "llama31-date", "deepseek-r1"] {
        assert!(conversations.iter().any(|other| other == name), "{name}");
    }
    assert_eq!((n_texts, n_refused), (1440, 354));
}

/// The family of a `config.json` that this program packs.
fn architecture(files: &Value) -> Option<Architecture> {
    match files["config.json"]["model_type"].as_str()? {
        "olmo" => Some(Architecture::Olmo1),
        "olmo2" => Some(Architecture::Olmo2),
        "olmo3" => Some(Architecture::Olmo3),
        _ => None,
    }
}

#[test]
fn token_names_match_transformers() {
    let mut n_same = 0;
    for line in lines("special_tokens.jsonl") {
        let files = &line["files"];
        // The pad token of tokenizer.json counts only where no file names one.
        let of_tokenizer_json = !files["tokenizer.json"].is_null();
        let (Some(architecture), Some(tokens)) = (architecture(files), line["tokens"].as_object()) else { continue };
        if of_tokenizer_json {
            continue;
        }
        let empty = serde_json::Map::new();
        let config = files["tokenizer_config.json"].as_object().unwrap_or(&empty);
        let map = files["special_tokens_map.json"].as_object();
        let class = files["config.json"]["tokenizer_class"].as_str();
        let names: BTreeMap<String, Value> =
            Sources { config, map, architecture, class }.names().into_iter().map(|(k, v)| (k, v.into())).collect();
        let expected: BTreeMap<String, Value> = tokens.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(names, expected, "{files}");
        n_same += 1;
    }
    assert!(n_same > 700, "{n_same}");
}

#[test]
fn picks_the_template_of_transformers() {
    let (mut n_same, mut n_errors) = (0, 0);
    for line in lines("which_template.jsonl") {
        let files = &line["files"];
        let more = "additional_chat_templates/";
        let text = |name: &str| files[name].as_str().map(String::from);
        // A file that is not UTF-8 is refused as it is read.
        let has_bytes = files.as_object().is_some_and(|files| files.values().any(|file| file.get("hex").is_some()));
        if has_bytes {
            continue;
        }
        let empty = serde_json::Map::new();
        let config = files["tokenizer_config.json"].as_object().unwrap_or(&empty);
        let map = files["special_tokens_map.json"].as_object();
        let Some(architecture) = architecture(files) else { continue };
        let default = text(&format!("{more}default.jinja")).or_else(|| text(&format!("{more}file.jinja")));
        let has_more = |name: &String| name.starts_with(more) && name.ends_with(".jinja");
        let has_others = files.as_object().is_some_and(|files| files.keys().any(has_more));
        let single = text("chat_template.jinja");
        let found = Sources { config, map, architecture, class: None }
            .template(&TemplateFiles { single, default, has_others })
            .map(|found| found.map(|(template, _)| template));
        // A value that is not a text is an error here, and a later one there: its type is given.
        let is_template = |template: &&str| !["NoneType", "int", "float", "bool", "list", "dict"].contains(template);
        match (&found, line["template"].as_str().filter(is_template)) {
            (Ok(Some(found)), Some(expected)) => {
                let lines = |text: &str| text.replace("\r\n", "\n").replace('\r', "\n");
                assert_eq!(lines(found), lines(expected), "{files}");
            }
            (Ok(None) | Err(_), None) => n_errors += 1,
            _ => panic!("{files}: {found:?}, not {:?}", line["template"]),
        }
        n_same += 1;
    }
    assert!(n_same > 350 && n_errors > 50, "{n_same} {n_errors}");
}

#[test]
fn conversations_have_the_ids_of_transformers() {
    let path = repository().join("tests/tokenizers/small-dolma2/tokenizer.json");
    let json = tokenizer_json::read(&path, &Around::rows(1 << 20)).expect("read");
    let (tokens, section) = (json.vocabulary.section(), json.tokenizer.expect("known"));
    let vocabulary = Vocabulary::in_section(&tokens).expect("a vocabulary");
    let encoder =
        Encoder::new(&Tokenizer::in_section(&section, &vocabulary).expect("a tokenizer")).expect("an encoder");
    let mut n_texts = 0;
    for case in cases().into_values().flatten() {
        if let Some(text) = &case.text {
            assert_eq!(encoder.encode(text).expect("ids"), case.ids, "{text:?}");
            n_texts += 1;
        }
    }
    assert!(n_texts > 2500, "{n_texts}");
}

/// Most memory that packing with a hostile template takes at a time: that of the template and some of the packer's.
const MAX_HOSTILE_BYTES: u64 = 192 << 20;

/// Takes some hundredths of a second for each of the hundreds of conversations that it is tried on.
const SLOW: &str =
    "{% for i in range(70000) %}{% set a = i %}{% endfor %}{% for m in messages %}{{ m.content }};{% endfor %}";

/// Templates that end their process, or try to, each with a name and a part of the message.
fn hostile() -> Vec<(String, String, &'static str)> {
    let mut templates = Vec::new();
    let mut add = |name: &str, template: String, says| templates.push((name.to_string(), template, says));
    let deep = "nests too deeply";
    let memory = "needs more than 128 MiB";
    let fuel = "ran out of fuel";
    let long = "more than 1 MiB of text";
    // Chains as long as a file can be.
    let chain = |begin: &str, link: &str, end: &str| {
        let n = (4_000_000 - begin.len() - end.len()) / link.len();
        format!("{begin}{}{end}", link.repeat(n))
    };
    for (name, begin, link, end) in [
        ("filters", "{{ 'x'", "|e", " }}"),
        ("attributes", "{{ x", ".a", " }}"),
        ("concatenations", "{{ x", "~x", " }}"),
        ("sums", "{{ 1", "+1", " }}"),
        ("powers", "{{ 1", "**1", " }}"),
        ("negations", "{{ ", "not ", "x }}"),
        ("minus signs", "{{ ", "-", "1 }}"),
        ("branches", "{% if x %}", "{% elif x %}", "{% endif %}"),
        ("brackets", "{{ ", "(", ""),
        ("conjunctions", "{{ x", " and x", " }}"),
        ("items", "{{ x", "[0]", " }}"),
        ("calls", "{{ x", "()", " }}"),
        ("tests", "{{ x", " is defined", " }}"),
        ("comparisons", "{{ 1", "<1", " }}"),
        ("choices", "{{ 1", " if 1 else 1", " }}"),
        ("lists", "{{ ", "[", ""),
        ("dictionaries", "{{ ", "{1:", ""),
        ("loops", "", "{% for a in b %}", ""),
        ("conditions", "", "{% if a %}", ""),
        ("macros", "", "{% macro a() %}", ""),
        ("blocks of filters", "", "{% filter e %}", ""),
        ("scopes", "", "{% with %}", ""),
    ] {
        add(&format!("a chain of {name}"), chain(begin, link, end), "");
    }
    // Values that contain themselves, and values as deep as there are steps.
    let cycle = "{% set ns = namespace() %}{% set ns.x = ns %}";
    for (name, use_it) in [
        ("as JSON", "{{ ns|tojson }}"),
        ("printed", "{{ ns }}"),
        ("in a list", "{{ [ns] }}"),
        ("as a text", "{{ ns|string }}"),
        ("joined", "{{ [ns]|join }}"),
        ("with a neighbour", "{{ ns ~ 'x' }}"),
        ("compared", "{% if ns == ns %}{% endif %}"),
        ("as items", "{{ ns|items|list }}"),
    ] {
        add(&format!("a cycle {name}"), format!("{cycle}{use_it}"), "");
    }
    add("a cycle as JSON, reported", format!("{cycle}{{{{ ns|tojson }}}}"), deep);
    let nested = "{% set n = namespace(x=[]) %}{% for i in range(99999) %}{% set n.x = [n.x] %}{% endfor %}";
    add("a deep list", format!("{nested}{{{{ n.x }}}}"), "");
    add("a deep list, dropped", nested.to_string(), "");
    add("a deep list as JSON", format!("{nested}{{{{ n.x|tojson }}}}"), "");
    add("a deep dictionary", nested.replace("[n.x]", "{'a': n.x}") + "{{ n.x }}", "");
    add("a macro of itself", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".into(), "");
    add(
        "a loop of itself",
        "{% for a in [[]] recursive %}{{ loop([[[]]]) }}{{ loop(a) }}{{ loop([a, a]) }}{% endfor %}".into(),
        "",
    );
    add("a block of itself", "{% block a %}{{ self.a() }}{% endblock %}".into(), "");
    add(
        "a caller of itself",
        "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}".into(),
        "",
    );
    // What the interpreter panics on.
    let slice = "{{ 'abc'[9223372036854775807:-9223372036854775808:-9223372036854775808] }}";
    add("a slice of extremes", slice.into(), "");
    add("a cycle of nothing", "{% for i in [1] %}{{ loop.cycle() }}{% endfor %}".into(), "it panics");
    // Memory.
    let doubled = "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}";
    add("a doubled text", doubled.into(), fuel);
    add("a doubled list", doubled.replace("'x'", "[1]").replace("~", "+"), memory);
    add("a batch of many", "{{ [1]|batch(10000000000, 0)|list }}".into(), "");
    add("slices of many", "{{ [1]|slice(10000000000, 0)|list }}".into(), "");
    add("a long text", "{{ ('x' * 1000000000)|length }}".into(), "");
    add("a text beyond addresses", "{{ 'xx' * 9223372036854775807 }}".into(), "");
    add("a long replacement", "{% set a = 'x' * 99999 %}{{ a|replace('x', a)|length }}".into(), fuel);
    add("a longer replacement", "{% set a = 'x' * 99999 %}{{ a.replace('x', a)|length }}".into(), fuel);
    add("a long join", "{% set a = 'x' * 99999 %}{{ (a|list)|join(a)|length }}".into(), fuel);
    add("a long range", "{{ range(9223372036854775807)|list|length }}".into(), "");
    add(
        "many ranges",
        "{% for i in range(99999) %}{% for j in range(99999)|list %}{% endfor %}{% endfor %}".into(),
        "",
    );
    add(
        "a list of lists",
        "{% set n = namespace(l=[]) %}{% for i in range(9999) %}{% set n.l = n.l + range(9999)|list %}\
         {% endfor %}"
            .into(),
        "",
    );
    add("a width", "{{ '%1000000000s'|format('a') }}".into(), "");
    add("a width of Python", "{{ '{:>1000000000}'.format('a') }}".into(), "");
    add("a margin", "{{ 'a'.ljust(1000000000) }}".into(), long);
    add("a centre", "{{ 'a'|center(1000000000) }}".into(), "");
    add("an indention", "{% set a = '\\n' * 99999 %}{{ a|indent(1024)|length }}".into(), "");
    add("a wide JSON", "{% set a = range(99999)|list %}{{ [a] * 999|tojson(indent=64)|length }}".into(), "");
    add("many escapes", "{{ ('&' * 99999999)|e|length }}".into(), "");
    // Steps.
    add(
        "an endless loop",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}".into(),
        fuel,
    );
    add("a huge text", "{% for i in range(9999) %}{{ 'x' * 99999 }}{% endfor %}".into(), "failed to write output");
    add(
        "long steps",
        "{% set a = 'x' * 9999999 %}{% for i in range(99999) %}{% if a.count('y') %}{% endif %}{% endfor %}\
         {{ messages[-1].content }}"
            .into(),
        "",
    );
    let slow =
        "{% for i in range(70000) %}{% set a = i %}{% endfor %}{% for m in messages %}{{ m.content }};{% endfor %}";
    add("many steps each time", slow.into(), "it ran longer than 5 s");
    // What is not there.
    add("an include", "{% include '/etc/passwd' %}".into(), "");
    add("an import", "{% import '/etc/passwd' as a %}".into(), "");
    add("a parent", "{% extends '/dev/zero' %}".into(), "");
    templates
}

/// Row X4, those that end their process.
#[test]
fn template_that_ends_its_process_is_a_warning() {
    let folder = TempDir::new("hostile-templates");
    let weights: Vec<PathBuf> = (0..2).map(|i| folder.join(format!("w{i}"))).collect();
    for weights in &weights {
        write_weights(weights, &small_config(), Stored::F32, 1);
    }
    let templates = hostile();
    assert!(templates.len() >= 60, "{}", templates.len());
    let next = Mutex::new(templates.iter());
    let wrong = Mutex::new(Vec::new());
    let one = |weights: &Path, (name, template, says): &(String, String, &str)| {
        fs::write(weights.join("chat_template.jinja"), template).expect("written");
        let mut command = measured(PACK);
        command.args([weights, &weights.with_extension("olmo"), Path::new("--force")]);
        let packed = catalogue::Run::new(&mut command)?;
        let said = &packed.stderr;
        let is_warning = said.starts_with("olmo-pack: warning: no chat format: its chat template ");
        if packed.status.code() != Some(0) || !is_warning || said.lines().count() != 1 || !said.contains(says) {
            return Err(format!("{}, {said}", packed.status));
        }
        let used = packed.used.ok_or("not measured")?;
        println!("{name}: {} KiB, {:?}, {}", used.peak_bytes >> 10, used.time, said.trim_end());
        if used.peak_bytes > MAX_HOSTILE_BYTES { Err(format!("{} KiB", used.peak_bytes >> 10)) } else { Ok(()) }
    };
    // Each template in turn, two at a time.
    thread::scope(|scope| {
        for weights in &weights {
            scope.spawn(|| {
                loop {
                    let Some(case) = next.lock().expect("a lock").next() else { break };
                    if let Err(found) = one(weights, case) {
                        wrong.lock().expect("a lock").push(format!("{}: {found}", case.0));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("a lock");
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), templates.len(), wrong.join("\n"));
    // `--chat` repeats the message of packing.
    let said = run(PACK, ["inspect".as_ref(), weights[0].with_extension("olmo").as_os_str()]);
    assert!(said.ok().contains("its chat template "), "{}", said.stdout);
}

/// Row X4.
#[test]
fn process_without_chat_format_is_a_reason() {
    let folder = TempDir::new("no-chat-process");
    let template = "{{ messages[-1].content }}";
    let chat = |program: Option<&Path>| chat_child::chat(program, template, &names());
    let reason = |program: Option<&Path>| match chat(program).expect_err("no chat format") {
        NoFormat::NotRun(why) => why,
        NoFormat::Unusable(why) => format!("unusable: {why}"),
    };
    assert!(chat(Some(Path::new(PACK))).is_ok());
    assert_eq!(reason(None), "no program to run it was named");
    let missing = "no process can be started to run it: No such file or directory";
    assert_eq!(reason(Some(&folder.join("missing"))), missing);
    for (script, says) in [
        ("exit 3", "the process that ran it ended with status 3"),
        ("kill -9 $$", "the process that ran it was ended by signal 9"),
        ("cat >/dev/null; echo hello", "the process that ran it gave no chat format"),
        // An answer is taken from a process that ends well, and from no other.
        ("printf '\\0\\0\\0\\0'; exit 1", "the process that ran it ended with status 1"),
        ("", "the process that ran it gave no chat format"),
        ("exec cat /dev/zero", "unusable: its chat template cannot be used: its texts are longer than 16 MiB"),
        ("exec cat /dev/zero >&2", "the process that ran it was ended by signal 13"),
    ] {
        let program = folder.join("program");
        fs::write(&program, format!("#!/bin/sh\nPATH=/bin:/usr/bin\n{script}\n")).expect("written");
        run("chmod", ["+x".as_ref(), program.as_os_str()]).ok();
        assert_eq!(reason(Some(&program)), says, "{script}");
    }
}

#[test]
fn template_process_has_low_limits() {
    if !Path::new("/proc/self/limits").exists() {
        skipped("no /proc");
        return;
    }
    // It reads the template before anything else: until then, it has what it was born with; then it waits in a long
    // step.
    let folder = TempDir::new("little");
    let weights = folder.join("w");
    write_weights(&weights, &small_config(), Stored::F32, 1);
    fs::write(weights.join("chat_template.jinja"), SLOW).expect("written");
    let mut command = Command::new(PACK);
    command.args([weights.as_os_str(), folder.join("m.olmo").as_os_str()]).env("SECRET", "known");
    let mut packing = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
    let children = format!("/proc/{0}/task/{0}/children", packing.id());
    let child = (0..1000).find_map(|_| {
        thread::sleep(std::time::Duration::from_millis(2));
        let child = fs::read_to_string(&children).ok()?.trim().to_string();
        let limits = fs::read_to_string(format!("/proc/{child}/limits")).ok()?;
        limits.lines().any(|line| line.starts_with("Max open files") && line.contains(" 0 ")).then_some((child, limits))
    });
    let (child, limits) = child.expect("a process with limits");
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("a limit");
        line.split_whitespace().next().expect("a number").to_string()
    };
    assert_eq!(
        ["Max cpu time", "Max file size", "Max core file size", "Max open files"].map(limit),
        ["5", "0", "0", "0"]
    );
    let addresses: u64 = limit("Max address space").parse().expect("a number");
    assert!(addresses < 256 << 20, "{addresses}");
    let environment = fs::read_to_string(format!("/proc/{child}/environ")).expect("an environment");
    assert_eq!(environment, "MALLOC_ARENA_MAX=1\0");
    // It does not outlive the one that started it.
    packing.kill().expect("killed");
    packing.wait().expect("ended");
    let is_gone = (0..1000).any(|_| {
        thread::sleep(std::time::Duration::from_millis(2));
        let status = fs::read_to_string(format!("/proc/{child}/stat"));
        status.map_or(true, |status| status.contains(") Z "))
    });
    assert!(is_gone);
    assert!(!folder.join("m.olmo").exists());
}

/// Row X4.
#[test]
fn hidden_argument_is_refused_from_users() {
    for input in ["", "hello", "[]", "[\"{{ x }}\"]"] {
        let folder = TempDir::new("hidden");
        let path = folder.join("input");
        fs::write(&path, input).expect("written");
        let mut command = Command::new(PACK);
        command.arg(chat_child::ARGUMENT).stdin(fs::File::open(&path).expect("an input"));
        let finished = olmo_tests::finish(&mut command);
        let line = "olmo-pack: error: __chat-template is how olmo-pack starts itself; see olmo-pack --help";
        assert_eq!(finished.refused(2), line, "{input}");
    }
}
