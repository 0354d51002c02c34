//! `razorfs man`: the manual pages, made of what the commands say of themselves.

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::Cli;
use crate::failure::{Failure, Result};
use crate::names;

/// Writes the manual pages
#[derive(clap::Args, Debug)]
#[command(
    after_help = "There is a page for each command in DIR/man1, and for mount.razorfs, \
mkfs.razorfs and fsck.razorfs in DIR/man8. Directories are made where they are missing, and pages \
that are there are replaced.

Examples:
  razorfs man ~/.local/share/man
  man razorfs-mount"
)]
pub struct Args {
    /// The directory, one of those that man(1) looks into
    dir: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    for page in pages()? {
        let dir = args.dir.join(format!("man{}", page.section));
        std::fs::create_dir_all(&dir).map_err(|e| Failure::host("create", &dir, &e))?;
        let path = dir.join(format!("{}.{}", page.name, page.section));
        std::fs::write(&path, page.text).map_err(|e| Failure::host("write", &path, &e))?;
    }
    Ok(0)
}

/// A manual page.
struct Page {
    name: String,
    section: &'static str,
    text: Vec<u8>,
}

/// The pages of all commands that are shown, and of the other names of the program.
fn pages() -> Result<Vec<Page>> {
    let mut main = Cli::command().disable_help_subcommand(true);
    main.build();
    let mut pages = Vec::new();
    let mut rest = vec![main];
    while let Some(command) = rest.pop() {
        let shown = command.get_subcommands().filter(|c| !c.is_hide_set());
        rest.extend(shown.cloned());
        pages.push(Page::new(command, "1")?);
    }
    for mut command in names::commands() {
        command.build();
        pages.push(Page::new(command, "8")?);
    }
    Ok(pages)
}

impl Page {
    fn new(command: Command, section: &'static str) -> Result<Self> {
        let name = command.get_display_name().unwrap_or(command.get_name());
        let name = name.to_owned();
        let notes = command.get_after_help().map(ToString::to_string);
        let has_commands = command.has_subcommands();
        let version = format!("RazorFS {}", env!("CARGO_PKG_VERSION"));
        let man = Man::new(command)
            .title(name.to_uppercase())
            .section(section)
            .source(version)
            .manual("RazorFS");
        let mut text = Vec::new();
        let rendered = man
            .render_title(&mut text)
            .and_then(|()| man.render_name_section(&mut text))
            .and_then(|()| man.render_synopsis_section(&mut text))
            .and_then(|()| man.render_description_section(&mut text))
            .and_then(|()| man.render_options_section(&mut text))
            .and_then(|()| match has_commands {
                true => man.render_subcommands_section(&mut text),
                false => Ok(()),
            });
        rendered.map_err(|e| Failure::host("write the page", Path::new(&name), &e))?;
        text.extend(notes_section(&notes.unwrap_or_default()).bytes());
        Ok(Self {
            name,
            section,
            text,
        })
    }
}

/// What stands below the options in the help: lines that are indented stay as they are, the others
/// are filled; the examples are a section.
fn notes_section(notes: &str) -> String {
    let mut roff = String::new();
    for paragraph in notes.split("\n\n") {
        let (heading, rest) = match paragraph.strip_prefix("Examples:\n") {
            Some(rest) => (Some("EXAMPLES"), rest),
            None if roff.is_empty() => (Some("NOTES"), paragraph),
            None => (None, paragraph),
        };
        roff.push_str(&match heading {
            Some(heading) => format!(".SH {heading}\n"),
            None => ".PP\n".to_owned(),
        });
        let mut is_kept = false;
        for line in rest.lines() {
            let kept = line.strip_prefix("  ");
            if kept.is_some() != is_kept {
                roff.push_str(if is_kept {
                    ".fi\n.RE\n"
                } else {
                    ".RS 2\n.nf\n"
                });
                is_kept = !is_kept;
            }
            roff.push_str(&escaped(kept.unwrap_or(line)));
            roff.push('\n');
        }
        if is_kept {
            roff.push_str(".fi\n.RE\n");
        }
    }
    roff
}

/// A line that roff prints as it is.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    let line = line.replace('\'', "\\(aq").replace('`', "\\(ga");
    let line = line.replace('^', "\\(ha").replace('~', "\\(ti");
    // At the beginning it would be a request.
    match line.starts_with('.') {
        true => format!("\\&{line}"),
        false => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command as Process, Stdio};

    fn plain(page: &Page) -> String {
        let text = String::from_utf8(page.text.clone()).unwrap();
        text.replace("\\-", "-")
    }

    #[test]
    fn each_command_has_a_page_with_its_options_and_examples() {
        let pages = pages().unwrap();
        let page = |name: &str| {
            let page = pages.iter().find(|page| page.name == name);
            plain(page.unwrap_or_else(|| panic!("no page {name}")))
        };
        let mut main = Cli::command();
        main.build();
        for command in main.get_subcommands().filter(|c| c.get_name() != "help") {
            let text = page(&format!("razorfs-{}", command.get_name()));
            let about = command.get_about().unwrap().to_string();
            let first = about.split(' ').next().unwrap();
            assert!(text.contains(first) && text.contains(".SH EXAMPLES\n"));
            let shown = command.get_arguments().filter(|a| !a.is_hide_set());
            // Those without one stand in the synopsis, by their place.
            for long in shown.filter_map(|argument| argument.get_long()) {
                assert!(text.contains(&format!("--{long}")), "--{long}");
            }
        }
        assert!(page("razorfs-snapshot-create").contains("razorfs snapshot create"));
        assert!(page("razorfs-mount").contains("durability=sync  "));
        assert!(page("razorfs-mount").contains("socket_mode=OCTAL  "));
        assert!(!page("razorfs-mount").contains("--daemon"));
        assert!(page("fsck.razorfs").contains("razorfs -a /srv/demo.rzfs      as at boot"));
        let of_system: Vec<_> = pages.iter().filter(|page| page.section == "8").collect();
        assert_eq!(of_system.len(), 3);
    }

    #[test]
    fn nothing_of_a_help_text_is_a_request_of_roff() {
        assert_eq!(
            notes_section("a\n.b\n\nList:\n  c=\\d\n  'e'\nf\n\nExamples:\n  g -h"),
            ".SH NOTES\na\n\\&.b\n.PP\nList:\n.RS 2\n.nf\nc=\\ed\n\\(aqe\\(aq\n.fi\n.RE\nf\n\
             .SH EXAMPLES\n.RS 2\n.nf\ng \\-h\n.fi\n.RE\n"
        );
    }

    #[test]
    fn groff_has_nothing_to_say_of_the_pages() {
        let groff = |page: &Page| {
            use std::io::Write;
            let mut groff = Process::new("groff");
            groff.args(["-man", "-Tutf8", "-ww", "-rLL=100n"]);
            groff
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut child = groff.spawn().ok()?;
            child.stdin.take().unwrap().write_all(&page.text).unwrap();
            let said = child.wait_with_output().unwrap();
            Some(String::from_utf8_lossy(&said.stderr).into_owned())
        };
        for page in pages().unwrap() {
            match groff(&page) {
                Some(said) => assert_eq!(said, "", "{}", page.name),
                None => return eprintln!("SKIPPED: groff is not installed"),
            }
        }
    }
}
