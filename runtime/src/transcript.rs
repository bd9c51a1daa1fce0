//! A conversation as `messages.json`: a list of objects with `role` and `content`, as chat templates take it.

use crate::output::{Failure, json_string};
use crate::target::target;
use olmo_infer::chat::Message;
use olmo_infer::error::{Error, display_path};
use olmo_infer::folder::{folder_of, sync_folder};
use olmo_infer::signals;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The text of the file.
fn json(messages: &[Message]) -> io::Result<Vec<u8>> {
    let mut out = b"[".to_vec();
    for (i, message) in messages.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        write!(out, "{comma}\n  {{\"role\": \"{}\", \"content\": ", message.role.name())?;
        json_string(&mut out, &message.content)?;
        out.push(b'}');
    }
    out.extend(b"\n]\n");
    Ok(out)
}

/// Writes messages to a file, whole or not at all. A file that is there is replaced only with `replace`; `inputs` never
/// are. Yields the path with links followed.
///
/// # Errors
/// [`Failure::Refused`] for a path that cannot be written to, and what the system says.
pub fn save(messages: &[Message], path: &Path, replace: bool, inputs: &[&Path]) -> Result<PathBuf, Failure> {
    let exists = || {
        let path = display_path(path);
        Failure::Refused(format!("{path}: exists; save under another name, or replace it with /save! {path}"))
    };
    // First: what cannot be replaced gets no advice to replace it.
    let followed = target(path, "/save", inputs)?;
    if !replace && path.exists() {
        return Err(exists());
    }
    let path = followed;
    let folder = match File::open(folder_of(&path)) {
        // A folder may be open for writing only.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        opened => Some(opened.map_err(Error::io(&path, "create"))?),
    };
    let unique = RandomState::new().hash_one(std::process::id());
    let temporary = Temporary::create(path.with_file_name(format!(".olmo-infer-{unique:016x}.tmp")), &path)?;
    let mut out = &temporary.file;
    let bytes = json(messages).map_err(Error::io(&path, "write"))?;
    out.write_all(&bytes).and_then(|()| out.sync_all()).map_err(Error::io(&path, "write"))?;
    if replace {
        fs::rename(&temporary.path, &path).map_err(Error::io(&path, "create"))?;
    } else {
        // Unlike a rename it replaces nothing that another program has made meanwhile.
        match fs::hard_link(&temporary.path, &path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(exists()),
            // A file system without hard links: the name is claimed by an empty file, which the rename replaces.
            Err(_) => {
                File::create_new(&path).map_err(Error::io(&path, "create"))?;
                if let Err(error) = fs::rename(&temporary.path, &path) {
                    // An empty file is no conversation.
                    let _the_first_failure_is_reported = fs::remove_file(&path);
                    return Err(Error::io(&path, "create")(error).into());
                }
            }
        }
    }
    let survives = folder.as_ref().map_or(Ok(()), sync_folder);
    survives.map_err(Error::io(&path, "make its name survive a power cut, though it is in place"))?;
    Ok(path)
}

/// A file under a name that goes when the value does, or a signal ends the program.
struct Temporary {
    file: File,
    path: PathBuf,
    _named: signals::Temporary,
}

impl Temporary {
    /// Creates it; errors are about the file that it is to become.
    fn create(path: PathBuf, becomes: &Path) -> Result<Temporary, Failure> {
        let named = signals::Temporary::new(&path);
        let file = File::create_new(&path).map_err(Error::io(becomes, "create"))?;
        named.park_if_stopping();
        Ok(Temporary { file, path, _named: named })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename it is not there.
        let _gone = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_infer::chat::Role;

    #[test]
    fn messages_are_a_list_of_objects() {
        let messages = [Message::new(Role::System, "a\"\n"), Message::new(Role::User, "é")];
        let text = String::from_utf8(json(&messages).expect("in memory")).expect("UTF-8");
        let lines =
            ["[", r#"  {"role": "system", "content": "a\"\u000a"},"#, r#"  {"role": "user", "content": "é"}"#, "]\n"];
        assert_eq!(text, lines.join("\n"));
    }
}
