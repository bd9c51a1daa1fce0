//! Models that have a chat format.

use crate::{TempDir, files, repository, run};
use std::fs;
use std::path::{Path, PathBuf};

/// The texts of a conversation and nothing else.
pub const PLAIN: &str = "{% for m in messages %}{{ m.content }}{% endfor %}";
/// Marks around the turns, white space at the ends of answers stripped, and a mark of the last turn only.
pub const MARKED: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim if m.role == 'assistant' else \
                          m.content }}{{ '[now]' if loop.last }}{% endfor %}[assistant]";
/// Answers begin with a thought that is dropped from earlier ones.
pub const THINKING: &str = "{% for m in messages %}{% if m.role == 'assistant' %}A:{{ \
                            m.content.split('</think>')[-1] }};{% else %}Q:{{ m.content }};{% endif %}{% endfor %}\
                            A:<think></think>";

/// Adds the tokenizer of the demo, whose ids are bytes, and a chat template to a folder of weights.
pub fn add_text(weights: &Path, template: &str) {
    for name in ["tokenizer.json", "vocab.txt"] {
        fs::copy(repository().join("demo/weights").join(name), weights.join(name)).expect("copied");
    }
    fs::write(weights.join("chat_template.jinja"), template).expect("written");
}

/// The demo model, which knows a speech by heart, packed by `pack` with a chat template.
pub fn demo_chat(pack: &str, folder: &TempDir, template: &str) -> PathBuf {
    let (weights, model) = (folder.join("weights"), folder.join("chat.olmo"));
    fs::create_dir_all(&weights).expect("created");
    for (name, bytes) in files(&repository().join("demo/weights")) {
        fs::write(weights.join(name), bytes).expect("copied");
    }
    add_text(&weights, template);
    run(pack, ["--force".as_ref(), weights.as_os_str(), model.as_os_str()]).ok();
    model
}
