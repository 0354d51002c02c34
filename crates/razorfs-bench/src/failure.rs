//! What went wrong, as one line.

use std::fmt::Display;
use std::path::Path;

/// A line for people.
pub type Result<T> = std::result::Result<T, String>;

/// Says what was done to which file when it failed.
pub trait At<T> {
    /// Adds the act and the file.
    fn at(self, act: &str, path: &Path) -> Result<T>;
    /// Adds the act.
    fn when(self, act: &str) -> Result<T>;
}

impl<T, E: Display> At<T> for std::result::Result<T, E> {
    fn at(self, act: &str, path: &Path) -> Result<T> {
        self.map_err(|e| format!("cannot {act} {}: {e}", path.display()))
    }

    fn when(self, act: &str) -> Result<T> {
        self.map_err(|e| format!("cannot {act}: {e}"))
    }
}
