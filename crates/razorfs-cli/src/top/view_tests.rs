//! The view, drawn to memory.

use std::path::Path;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::{Value, json};

use super::model::{Heard, Sample, State};
use super::view;

/// The text of a screen, line by line.
fn lines(terminal: &Terminal<TestBackend>) -> Vec<String> {
    let buffer = terminal.backend().buffer();
    let width = usize::from(buffer.area.width);
    let cells: Vec<&str> = buffer.content.iter().map(|cell| cell.symbol()).collect();
    let lines = cells.chunks(width).map(|line| line.concat());
    lines.map(|line| line.trim_end().to_owned()).collect()
}

fn drawn(state: &State, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, state)).unwrap();
    lines(&terminal)
}

fn sample(second: u64, lookups: u64, stats: Value) -> Heard {
    let mut document = json!({
        "journal_used": 4 << 20, "journal_capacity": 16 << 20,
        "cache_bytes": 64 << 20, "cache_limit": 256 << 20, "dirty_bytes": 3 << 20,
        "cache_lookups": 1000 * second, "cache_misses": 100 * second,
        "checkpoints": second, "compactions": 3, "disk_syncs": 40 * second,
        "requests": {"lookup": lookups, "write": 500},
        "latency": {
            "lookup": {"sum_ns": 20_000 * lookups, "counts": [0, lookups, 0]},
            "write": {"sum_ns": 500, "counts": [500]},
        },
        "requests_read_bytes": second << 20,
    });
    let more = stats.as_object().unwrap().clone();
    document.as_object_mut().unwrap().extend(more);
    Heard::Sample(Sample {
        time: second * 1_000_000_000,
        stats: document,
        info: json!({
            "health": "ok", "damage": [], "failing": [], "read_only": null,
            "space": {"total": 1000 << 20, "free": 100 << 20},
            "packs": {"bytes": 100 << 20, "live_bytes": 50 << 20},
        }),
    })
}

/// Two looks, of which the second is two seconds after the first.
fn busy() -> State {
    let mut state = State::new(Path::new("/srv/demo.rzfs"), 1);
    assert!(state.hear(sample(1, 1000, json!({}))));
    assert!(state.hear(sample(3, 5000, json!({"slowed_ns": 1_000_000_000u64}))));
    state
}

#[test]
fn all_of_it_is_seen_in_80_columns_and_24_lines() {
    let screen = drawn(&busy(), 80, 24);
    assert_eq!(screen.len(), 24);
    assert_eq!(screen[0], "razorfs top  /srv/demo.rzfs  ok");
    assert_eq!(screen[1], "2000 requests/s, read 1.0 MiB/s, written 0 B/s");
    assert_eq!(
        screen[2],
        "request        per s      mean      99 % journal, cache, RAM"
    );
    assert_eq!(
        screen[3],
        "lookup          2000   20.0 µs    2.0 µs journal  ███░░░░░░░ 25 % of 16 MiB"
    );
    // Nothing came of it meanwhile.
    assert_eq!(
        screen[4],
        "write              0                     cache    ███░░░░░░░ 25 % of 256 MiB"
    );
    let text = screen.join("\n");
    for seen in [
        "hits     90.0 % of lookups",
        "dirty    3.0 MiB to be written",
        "syncs    40/s",
        "checkpoints  3, at work",
        "compactions  3\n",
        "writers wait 50 % of a second",
        "volume   █████████░ 90 % of 1000 MiB",
        "live     █████░░░░░ 50 % of 100 MiB",
    ] {
        assert!(text.contains(seen), "{seen}\n{text}");
    }
    assert_eq!(screen[23], "q ends it; each second, space holds it");
}

#[test]
fn a_terminal_of_any_size_is_drawn_on() {
    let (busy, unknown) = (busy(), State::new(Path::new("/v"), 7));
    for width in [1, 2, 9, 20, 43, 44, 73, 74, 80, 300] {
        for height in [1, 2, 3, 4, 5, 10, 24, 100] {
            for state in [&busy, &unknown] {
                assert_eq!(drawn(state, width, height).len(), usize::from(height));
            }
        }
    }
    // Below each other, where there is no room beside.
    let narrow = drawn(&busy, 50, 24).join("\n");
    assert!(
        narrow.contains("lookup") && narrow.contains("journal  █"),
        "{narrow}"
    );
}

#[test]
fn a_terminal_that_changes_its_size_is_drawn_anew() {
    let state = busy();
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    for (width, height) in [(80, 24), (40, 8), (120, 50), (1, 1), (80, 24)] {
        terminal.backend_mut().resize(width, height);
        terminal.draw(|frame| view::draw(frame, &state)).unwrap();
    }
    assert_eq!(lines(&terminal), drawn(&state, 80, 24));
}

#[test]
fn what_is_wrong_is_told() {
    let mut state = busy();
    state.hear(Heard::Nothing("the daemon\x1b[2J is gone".into()));
    let screen = drawn(&state, 80, 24);
    assert!(screen[1].starts_with("the daemon") && !screen[1].contains('\x1b'));
    let Heard::Sample(mut sample) = sample(4, 5000, json!({})) else {
        panic!("a sample");
    };
    sample.info["health"] = "damaged".into();
    sample.info["damage"] = json!(["a segment"]);
    sample.info["read_only"] = "it is damaged".into();
    state.hear(Heard::Sample(sample));
    let text = drawn(&state, 80, 24).join("\n");
    for seen in ["/srv/demo.rzfs  damaged", "a segment", "it is damaged"] {
        assert!(text.contains(seen), "{seen}\n{text}");
    }
}

#[test]
fn who_holds_it_still_sees_nothing_new() {
    let mut state = busy();
    let before = drawn(&state, 80, 24);
    state.hold();
    assert!(!state.hear(sample(9, 99_999, json!({}))));
    let held = drawn(&state, 80, 24);
    assert_eq!(held[..23], before[..23]);
    assert_eq!(held[23], "q ends it; held still, space goes on");
    state.hold();
    assert!(state.hear(sample(9, 99_999, json!({}))));
}

#[test]
fn another_daemon_counts_anew_and_rates_are_never_negative() {
    let mut state = busy();
    state.hear(sample(4, 100, json!({"disk_syncs": 7})));
    assert_eq!(state.rate("disk_syncs"), 7.0);
    assert_eq!(state.kinds()[0].rate, 100.0);
    // Two looks at one time.
    state.hear(sample(4, 200, json!({})));
    assert_eq!(state.requests_rate(), 0.0);
}
