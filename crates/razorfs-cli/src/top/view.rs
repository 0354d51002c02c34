//! Draws the state on a terminal, of whatever size.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::model::{Kind, State};
use crate::latency;
use crate::size;

/// Columns of the requests, and from how many on the rest stands beside them.
const REQUESTS: u16 = 41;
const TWO_COLUMNS: u16 = 74;
/// Lines of the rest.
const REST: u16 = 18;
/// Columns of a bar.
const BAR: usize = 10;

const TITLE: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);

/// Draws it.
pub fn draw(frame: &mut Frame<'_>, state: &State) {
    let [head, body, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(heading(state)), head);
    frame.render_widget(Paragraph::new(footing(state)), foot);
    let (left, right) = match body.width >= TWO_COLUMNS {
        true => {
            let sides = [Constraint::Length(REQUESTS), Constraint::Min(0)];
            let [left, right] = Layout::horizontal(sides).areas(body);
            (left, right)
        }
        false => {
            // Where there is no room for both the most frequent requests and the rest are halved.
            let lower = REST.min(body.height / 2);
            let parts = [Constraint::Min(0), Constraint::Length(lower)];
            let [upper, lower] = Layout::vertical(parts).areas(body);
            (upper, lower)
        }
    };
    frame.render_widget(Paragraph::new(requests(state, left)), left);
    frame.render_widget(Paragraph::new(rest(state)), right);
}

fn heading(state: &State) -> Vec<Line<'static>> {
    let volume = state.volume().to_owned();
    let first = match (state.is_known(), state.silence()) {
        (_, Some(why)) => Span::styled(why.to_owned(), Style::new().fg(Color::Red)),
        (false, None) => Span::raw("waits for the daemon"),
        (true, None) => Span::raw(format!(
            "{} {}/s, read {}/s, written {}/s",
            count(state.requests_rate()),
            "requests",
            size::human(state.rate("requests_read_bytes") as u64),
            size::human(state.rate("requests_written_bytes") as u64),
        )),
    };
    vec![
        Line::from(vec![
            Span::styled("razorfs top  ", TITLE),
            Span::raw(volume),
            Span::raw("  "),
            health(state),
        ]),
        Line::from(first),
    ]
}

fn health(state: &State) -> Span<'static> {
    let health = state.info_text("/health");
    let colour = match health.as_str() {
        "ok" => Color::Green,
        "-" => return Span::raw(""),
        "failing" | "read-only" => Color::Yellow,
        _ => Color::Red,
    };
    Span::styled(health, Style::new().fg(colour).add_modifier(Modifier::BOLD))
}

fn footing(state: &State) -> Line<'static> {
    let every = match (state.is_held(), state.every()) {
        (true, _) => "held still, space goes on".to_owned(),
        (false, 1) => "each second, space holds it".to_owned(),
        (false, n) => format!("each {n} seconds, space holds it"),
    };
    Line::styled(format!("q ends it; {every}"), DIM)
}

fn requests(state: &State, area: Rect) -> Vec<Line<'static>> {
    let head = format!("{:12}{:>8}{:>10}{:>10}", "request", "per s", "mean", "99 %");
    let mut lines = vec![Line::styled(head, TITLE)];
    let room = usize::from(area.height).saturating_sub(lines.len());
    let kinds = state.kinds();
    lines.extend(kinds.iter().take(room).map(request));
    lines
}

fn request(kind: &Kind) -> Line<'static> {
    let mean = kind.times.mean().map(latency::human);
    let within = match kind.times.count() {
        0 => None,
        _ => Some(kind.times.within(99).map_or("> 8 s".into(), latency::human)),
    };
    let line = format!(
        "{:12.12}{:>8}{:>10}{:>10}",
        kind.name,
        count(kind.rate),
        mean.unwrap_or_default(),
        within.unwrap_or_default(),
    );
    match kind.rate > 0.0 {
        true => Line::raw(line),
        false => Line::styled(line, DIM),
    }
}

/// What is beside the requests.
fn rest(state: &State) -> Vec<Line<'static>> {
    let bytes = |name: &str| size::human(state.stat(name));
    let rate = |name: &str| format!("{}/s", size::human(state.rate(name) as u64));
    let mut lines = vec![
        Line::styled("journal, cache, RAM", TITLE),
        gauge(
            "journal",
            state.stat("journal_used"),
            state.stat("journal_capacity"),
        ),
        gauge(
            "cache",
            state.stat("cache_bytes"),
            state.stat("cache_limit"),
        ),
        Line::raw(match state.hits() {
            Some(hits) => format!("{:9}{hits:.1} % of lookups", "hits"),
            None => format!("{:9}-", "hits"),
        }),
        Line::raw(format!(
            "{:9}{} to be written",
            "dirty",
            bytes("dirty_bytes")
        )),
        Line::styled("to the disk", TITLE),
        Line::raw(format!("{:9}{}", "journal", rate("journal_bytes"))),
        Line::raw(format!("{:9}{}", "packs", rate("pack_bytes"))),
        Line::raw(format!("{:9}{}", "segments", rate("segment_bytes"))),
        Line::raw(format!(
            "{:9}{}/s",
            "syncs",
            count(state.rate("disk_syncs"))
        )),
        Line::styled("in the background", TITLE),
        work(state, "checkpoints"),
        work(state, "compactions"),
        Line::raw(format!(
            "{:13}{}, {}",
            "cleaning",
            bytes("cleaned_bytes"),
            rate("cleaned_bytes")
        )),
    ];
    let slowed = state.rate("slowed_ns") / 1e7;
    if slowed >= 0.5 {
        let text = format!("writers wait {slowed:.0} % of a second");
        lines.push(Line::styled(text, Style::new().fg(Color::Yellow)));
    }
    lines.push(Line::styled("space", TITLE));
    let total = state.info_number("/space/total");
    let used = total.saturating_sub(state.info_number("/space/free"));
    lines.push(gauge("volume", used, total));
    let live = state.info_number("/packs/live_bytes");
    lines.push(gauge("live", live, state.info_number("/packs/bytes")));
    lines.extend(troubles(state));
    lines
}

/// What is wrong, each on a line.
fn troubles(state: &State) -> Vec<Line<'static>> {
    let mut lines = state.info_lines("/damage");
    lines.extend(state.info_lines("/failing"));
    if state.info("/read_only").is_string() {
        lines.push(state.info_text("/read_only"));
    }
    let red = Style::new().fg(Color::Red);
    lines
        .into_iter()
        .map(|line| Line::styled(line, red))
        .collect()
}

fn work(state: &State, name: &str) -> Line<'static> {
    let all = state.stat(name);
    let now = state.rate(name);
    let line = format!("{name:13}{all}");
    match now > 0.0 {
        true => Line::styled(format!("{line}, at work"), Style::new().fg(Color::Green)),
        false => Line::raw(line),
    }
}

/// `journal  ████░░░░  34 % of 16.0 MiB`.
fn gauge(name: &str, used: u64, all: u64) -> Line<'static> {
    let part = match all {
        0 => 0.0,
        all => (used as f64 / all as f64).clamp(0.0, 1.0),
    };
    let full = (part * BAR as f64).round() as usize;
    let colour = match part {
        part if part >= 0.95 => Color::Red,
        part if part >= 0.8 => Color::Yellow,
        _ => Color::Green,
    };
    Line::from(vec![
        Span::raw(format!("{name:9}")),
        Span::styled("█".repeat(full), Style::new().fg(colour)),
        Span::styled("░".repeat(BAR - full), DIM),
        Span::raw(format!(" {:.0} % of {}", part * 100.0, short(all))),
    ])
}

/// A size in few columns.
fn short(bytes: u64) -> String {
    size::human(bytes).replace(".0 ", " ")
}

/// A rate in few columns.
fn count(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.1}M", rate / 1e6),
        rate if rate >= 1e4 => format!("{:.1}k", rate / 1e3),
        rate if rate >= 10.0 || rate == 0.0 => format!("{rate:.0}"),
        rate => format!("{rate:.1}"),
    }
}
