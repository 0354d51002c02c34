//! W1 to W6: many small files, directories, renames.

use std::path::{Path, PathBuf};

use super::{Values, noise, path, synced};
use crate::clock::Stopwatch;
use crate::failure::Result;
use crate::measures::Sizes;
use crate::target::Target;
use crate::tree::Tree;

const FILE: usize = 4096;

/// W1 to W4.
pub fn files(target: &mut Target, sizes: &Sizes) -> Result<Values> {
    let mut values = Values::new();
    let paths: Vec<PathBuf> = (0..sizes.files).map(path).collect();
    let data = noise(FILE * 256, 1);
    let content = |n: usize| data.chunks(FILE).nth(n % 256).unwrap_or_default();
    let create = || {
        let tree = target.tree()?;
        make_dirs(tree, sizes.files)?;
        for (n, path) in paths.iter().enumerate() {
            tree.write(path, content(n), None)?;
        }
        Ok(())
    };
    values.push(("w1.create", synced(target, create)?));
    target.cold()?;
    let watch = Stopwatch::start();
    for path in &paths {
        let size = target.tree()?.stat(path)?;
        if size != FILE as u64 {
            return Err(format!("{} has {size} bytes", path.display()));
        }
    }
    values.push(("w2.stat", watch.seconds()));
    target.cold()?;
    let mut buf = Vec::with_capacity(2 * FILE);
    let watch = Stopwatch::start();
    for (n, path) in paths.iter().enumerate() {
        target.tree()?.read(path, &mut buf)?;
        if target.kind().keeps_data() && buf != content(n) {
            return Err(format!("{} reads wrong", path.display()));
        }
    }
    values.push(("w3.read", watch.seconds()));
    let unlink = || {
        paths
            .iter()
            .try_for_each(|path| target.tree()?.unlink(path))
    };
    values.push(("w4.unlink", synced(target, unlink)?));
    Ok(values)
}

/// Makes the directories of [`path`].
pub fn make_dirs(tree: &dyn Tree, files: u64) -> Result<()> {
    for n in (0..files).step_by(1000) {
        tree.mkdir(path(n).parent().unwrap_or(Path::new("")))?;
    }
    Ok(())
}

/// W5 and W6.
pub fn names(target: &mut Target, sizes: &Sizes) -> Result<Values> {
    let mut values = Values::new();
    let paths: Vec<PathBuf> = (0..sizes.dirs).map(path).collect();
    make_dirs(target.tree()?, sizes.dirs)?;
    let mkdir = || paths.iter().try_for_each(|path| target.tree()?.mkdir(path));
    values.push(("w5.mkdir", synced(target, mkdir)?));
    let rmdir = || paths.iter().try_for_each(|path| target.tree()?.rmdir(path));
    values.push(("w5.rmdir", synced(target, rmdir)?));
    let tree = target.tree()?;
    paths
        .iter()
        .try_for_each(|path| tree.write(path, b"", None))?;
    target.sync()?;
    let rename = || {
        let tree = target.tree()?;
        let renamed = paths.iter().map(|path| path.with_extension("renamed"));
        paths
            .iter()
            .zip(renamed)
            .try_for_each(|(from, to)| tree.rename(from, &to))
    };
    values.push(("w6.rename", synced(target, rename)?));
    Ok(values)
}
