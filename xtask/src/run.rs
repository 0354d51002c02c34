//! Running cargo.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// A cargo command in `root`. The cargo that runs us is the one that is used.
pub fn cargo(root: &Path, args: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root).args(args);
    command
}

/// Runs it; an exit code other than 0 is an error that shows the command.
pub fn check(mut command: Command) -> Result<(), String> {
    let shown = show(&command);
    let status = command
        .status()
        .map_err(|e| format!("cannot run `{shown}`: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{shown}` failed ({status})"))
    }
}

/// Like [`check`], with what it says shown only if it fails.
pub fn check_quietly(command: &mut Command) -> Result<(), String> {
    output(command).map(drop)
}

/// Like [`check_quietly`], answering with what it said.
pub fn output(command: &mut Command) -> Result<String, String> {
    let shown = show(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot run `{shown}`: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(said.into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let status = output.status;
    Err(format!("`{shown}` failed ({status}):\n{said}\n{errors}"))
}

/// Like [`check`], passing the standard output through, and answering with the closing lines of
/// the test binaries.
pub fn check_tests(mut command: Command) -> Result<Vec<String>, String> {
    let shown = show(&command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot run `{shown}`: {e}"))?;
    let mut closing = Vec::new();
    if let Some(out) = child.stdout.take() {
        let mut lines = BufReader::new(out).split(b'\n');
        while let Some(Ok(line)) = lines.next() {
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut stdout = std::io::stdout().lock();
            // A closed pipe must not stop the tests.
            let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
            if line.starts_with("test result:") {
                closing.push(line);
            }
        }
    }
    let status = child
        .wait()
        .map_err(|e| format!("cannot wait for `{shown}`: {e}"))?;
    if status.success() {
        Ok(closing)
    } else {
        Err(format!("`{shown}` failed ({status})"))
    }
}

/// The command as one would type it.
fn show(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name();
    let mut text = program.unwrap_or_default().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}
