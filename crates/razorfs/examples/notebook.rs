//! A notebook in a volume, without any mount: notes are files, and an index lists them. A note and
//! the index change in one transaction, so the two always fit together, also after a crash.
//!
//! `cargo run --example notebook -- notebook.rzfs add "buy milk"`
//! `cargo run --example notebook -- notebook.rzfs`

use std::io::{self, Write};

use razorfs::{Dir, Durability, Options, Result, Volume};

fn add(fs: &Dir, text: &str) -> Result<()> {
    let mut index = match fs.exists("index")? {
        true => fs.read_to_string("index")?,
        false => String::new(),
    };
    let name = format!("notes/{}", index.lines().count() + 1);
    index.push_str(&format!(
        "{name}\t{}\n",
        text.lines().next().unwrap_or_default()
    ));

    let mut tx = fs.transaction();
    tx.create_dir_all("notes")?;
    tx.write(&name, text)?;
    tx.write("index.new", index)?;
    tx.rename("index.new", "index")?;
    tx.commit(Durability::Synced)
}

fn list(fs: &Dir) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut out = io::stdout().lock();
    for line in fs.read_to_string("index").unwrap_or_default().lines() {
        if let Some((note, title)) = line.split_once('\t') {
            let bytes = fs.metadata(note)?.len();
            writeln!(out, "{note}: {title} ({bytes} bytes)")?;
        }
    }
    Ok(())
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: notebook VOLUME [add TEXT]")?;
    let volume = Volume::open_or_create(path, Options::default())?;
    let fs = volume.root();
    match (args.next().as_deref(), args.next()) {
        (Some("add"), Some(text)) => add(&fs, &text)?,
        (None, None) => {}
        _ => return Err("usage: notebook VOLUME [add TEXT]".into()),
    }
    list(&fs)?;
    drop(fs);
    volume.close()?;
    Ok(())
}
