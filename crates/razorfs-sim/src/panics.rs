//! Panics of the code under test are findings, not noise: their place is kept for the report and
//! nothing is printed. All other panics are printed as ever.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if WATCHED.with(Cell::get) {
                let place = info
                    .location()
                    .map(|l| format!(" at {}:{}", l.file(), l.line()));
                LAST.with(|last| *last.borrow_mut() = place);
            } else {
                before(info);
            }
        }));
    });
}

/// Runs code under test; a panic comes back as its message and place.
pub fn watch<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    install();
    WATCHED.with(|watched| watched.set(true));
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    WATCHED.with(|watched| watched.set(false));
    result.map_err(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        let place = LAST
            .with(|last| last.borrow_mut().take())
            .unwrap_or_default();
        format!("panic: {}{place}", text.unwrap_or("of no known kind"))
    })
}
