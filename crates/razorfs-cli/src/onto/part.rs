//! What a file is called until it is complete.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use super::Plan;
use crate::failure::Result;
use crate::signals;
use crate::tree::{HostTree, Tree};

/// Makes such names. Each is one that nobody has used, and says of which volume it is: nothing else
/// is ever taken for one, and removed.
pub struct Parts {
    prefix: String,
}

const SUFFIX: &str = ".part";
/// Hexadecimal digits that differ.
const DIGITS: usize = 16;

impl Parts {
    /// Those of a volume.
    pub fn of(uuid: &str) -> Self {
        let prefix = format!(".razorfs-commit-{uuid}-");
        Self { prefix }
    }

    /// Another one.
    pub fn name(&self) -> String {
        let random = crate::env().random();
        format!("{}{random:0DIGITS$x}{SUFFIX}", self.prefix)
    }

    fn is_one(&self, name: &OsStr) -> bool {
        let digits = name.to_str().and_then(|name| {
            let rest = name.strip_prefix(&*self.prefix)?;
            rest.strip_suffix(SUFFIX)
        });
        digits.is_some_and(|digits| {
            let mut bytes = digits.bytes();
            digits.len() == DIGITS && bytes.all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        })
    }

    /// Removes what commands that have died left where a plan has something to do. Only one command
    /// works in a directory at a time.
    pub fn sweep(&self, plan: &Plan, host: &HostTree) -> Result<()> {
        let dirs = plan.keys().filter_map(|path| path.parent());
        for dir in dirs.collect::<BTreeSet<&Path>>() {
            signals::check()?;
            if !host.find(dir)?.is_some_and(|meta| meta.is_dir()) {
                continue;
            }
            for name in host.list(dir)?.iter().filter(|name| self.is_one(name)) {
                let path = dir.join(name);
                let is_dir = host.meta(&path)?.is_dir();
                // A new directory gets its name before anything comes into it.
                if !is_dir || host.list(&path)?.is_empty() {
                    host.remove(&path, is_dir)?;
                }
            }
        }
        Ok(())
    }
}
