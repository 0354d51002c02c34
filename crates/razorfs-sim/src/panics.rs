//! Panics of the code under test are findings, not noise: their place is kept for the report and
//! nothing is printed.

use std::cell::RefCell;
use std::panic;

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the place of panics from now on instead of printing them.
pub fn keep_quiet() {
    panic::set_hook(Box::new(|info| {
        let place = info
            .location()
            .map(|l| format!(" at {}:{}", l.file(), l.line()));
        LAST.with(|last| *last.borrow_mut() = place);
    }));
}

/// The place of this thread's last panic.
#[must_use]
pub fn last_place() -> String {
    LAST.with(|last| last.borrow_mut().take())
        .unwrap_or_default()
}
