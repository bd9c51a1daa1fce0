//! A conversation as `messages.json`: a list of objects with `role` and `content`, as chat templates take it.

use crate::failure::Failure;
use crate::output_path::output_path;
use crate::program::PROGRAM;
use olmo_infer::internals::cli::json::json_string;
use olmo_infer::internals::error::{Error, display_path};
use olmo_infer::internals::os::disk::Disk;
use olmo_infer::internals::os::output_file::OutputFile;
use olmo_infer::internals::text::chat::Message;
use std::io::{self, Write};
use std::path::Path;

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
/// are.
///
/// # Errors
/// [`Failure::Refused`] for a path that cannot be written to, and errors of the OS.
pub fn save(
    disk: &dyn Disk,
    messages: &[Message],
    path: &Path,
    replace: bool,
    inputs: &[&Path],
) -> Result<(), Failure> {
    let exists = || {
        let path = display_path(path);
        Failure::Refused(format!("{path}: exists; save under another name, or replace it with /save! {path}"))
    };
    // First: what cannot be replaced gets no advice to replace it.
    let place = output_path(path, "/save", "create", inputs)?;
    if !replace && place.entry.is_some() {
        return Err(exists());
    }
    let mut out = OutputFile::create(disk, place, path, PROGRAM.name())?;
    out.append(&json(messages).map_err(Error::io(path, "write"))?)?;
    match out.publish(replace) {
        // Another program has created it meanwhile.
        Err(Error::Io { source, .. }) if !replace && source.kind() == io::ErrorKind::AlreadyExists => Err(exists()),
        published => Ok(published?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::whole_file::assert_whole_or_not_at_all;
    use olmo_infer::internals::text::chat::Role;

    #[test]
    fn messages_are_a_list_of_objects() {
        let messages = [Message::new(Role::System, "a\"\n"), Message::new(Role::User, "é")];
        let text = String::from_utf8(json(&messages).expect("in memory")).expect("UTF-8");
        let lines =
            ["[", r#"  {"role": "system", "content": "a\"\u000a"},"#, r#"  {"role": "user", "content": "é"}"#, "]\n"];
        assert_eq!(text, lines.join("\n"));
    }

    /// Row E8, `/save`.
    #[test]
    fn the_file_is_whole_or_not_there_and_in_no_other_folder() {
        let messages = [Message::new(Role::User, "Four score")];
        let whole = json(&messages).expect("in memory");
        assert_whole_or_not_at_all(false, &whole, |disk, path| save(disk, &messages, path, false, &[]));
        assert_whole_or_not_at_all(false, &whole, |disk, path| save(disk, &messages, path, true, &[]));
        assert_whole_or_not_at_all(true, &whole, |disk, path| save(disk, &messages, path, true, &[]));
    }
}
