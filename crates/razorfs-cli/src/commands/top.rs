//! `razorfs top`: what a mounted volume does, as it does it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use razorfs_disk::Env;

use crate::failure::{Failure, Result, plain};
use crate::place::Place;
use crate::signals;
use crate::socket::{self, Request};
use crate::top::model::{Heard, Sample, State};
use crate::top::view;

/// Shows what a mounted volume does, as it does it
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Shows what the kernel asks for, with how long that takes, the cache, the \
journal, checkpoints and what else is done in the background, space and health, anew each second. \
80 columns and 24 lines are enough; there is no mouse and no sound, and little is sent over a \
slow line. q, Esc or Ctrl-C ends it; the space bar holds it still. What it shows at once `razorfs \
stats` and `razorfs info` print.

mean and 99 % are of the time between two looks: 99 of 100 requests were answered within that \
time, which is rounded up to a power of two. A request that waits for another one is counted with \
its wait.

Examples:
  razorfs top mnt
  razorfs top demo.rzfs --every 5"
)]
pub struct Args {
    /// A volume that is mounted, or its mount point
    place: PathBuf,
    /// How many seconds lie between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
}

/// How long a key waits for an answer at most.
const TICK: Duration = Duration::from_millis(100);

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        let place = crate::failure::shown(&args.place);
        return Err(Failure::new(format!(
            "top is for terminals, and this is none; `razorfs stats {place}` prints the counters"
        )));
    }
    let (volume, named) = match Place::find(&args.place)? {
        // It says what is wrong, before anything is drawn.
        Place::Live(mut live) => {
            live.ask(Request::Stats(live.named.clone()))?;
            (live.volume, live.named)
        }
        Place::Closed(path) => {
            let cause = "it is not mounted, so nothing happens there";
            let remedy = "`razorfs stats` and `razorfs info` tell how it is";
            return Err(Failure::with("watch", &path, cause, remedy));
        }
    };
    // While there is one thread.
    signals::note_interrupts()?;
    let samples = look(volume.clone(), named, Duration::from_secs(args.every))?;
    let failed = |e: std::io::Error| {
        let cause = plain(&e);
        Failure::new(format!("cannot draw on the terminal: {cause}"))
    };
    let screen = Screen::take().map_err(failed)?;
    let shown = show(State::new(&volume, args.every), &samples);
    drop(screen);
    shown.map_err(failed)?;
    Ok(0)
}

/// A thread that asks the daemon again and again. The daemon may be slow to answer, and keys are
/// not to wait for that.
fn look(volume: PathBuf, named: Option<PathBuf>, every: Duration) -> Result<Receiver<Heard>> {
    let (sender, samples) = channel();
    let work = move || {
        let env = crate::env();
        loop {
            let heard = ask(&volume, named.as_deref(), &*env);
            if sender.send(heard).is_err() {
                // Nobody looks any more.
                return;
            }
            std::thread::sleep(every);
        }
    };
    let spawned = std::thread::Builder::new().name("look".into()).spawn(work);
    spawned.map_err(|e| Failure::new(format!("cannot start a thread: {}", plain(&e))))?;
    Ok(samples)
}

fn ask(volume: &Path, named: Option<&Path>, env: &dyn Env) -> Heard {
    let request = |request| {
        let mut stream = socket::connect(volume)?;
        Some(socket::ask(&mut stream, volume, request, &mut |_| {}))
    };
    let named = named.map(Path::to_path_buf);
    let stats = request(Request::Stats(named.clone()));
    let time = env.monotonic();
    match (stats, request(Request::Info(named))) {
        (Some(Ok(stats)), Some(Ok(info))) => Heard::Sample(Sample { time, stats, info }),
        (Some(Err(failure)), _) | (_, Some(Err(failure))) => Heard::Nothing(failure.message),
        (None, _) | (_, None) => Heard::Nothing("it is not mounted at present".into()),
    }
}

/// Draws what is heard until somebody has seen enough.
fn show(mut state: State, samples: &Receiver<Heard>) -> std::io::Result<()> {
    let backend = CrosstermBackend::new(std::io::stdout());
    let mut terminal = Terminal::new(backend)?;
    let mut is_new = true;
    while !signals::interrupted() {
        if is_new {
            terminal.draw(|frame| view::draw(frame, &state))?;
        }
        is_new = match samples.recv_timeout(TICK) {
            Ok(heard) => state.hear(heard),
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        while event::poll(Duration::ZERO)? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => match meaning(key) {
                    Meaning::End => return Ok(()),
                    Meaning::Hold => {
                        state.hold();
                        is_new = true;
                    }
                    Meaning::Nothing => {}
                },
                Event::Resize(..) => is_new = true,
                _ => {}
            }
        }
    }
    Ok(())
}

#[derive(PartialEq, Eq, Debug)]
enum Meaning {
    End,
    Hold,
    Nothing,
}

fn meaning(key: KeyEvent) -> Meaning {
    let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c' | 'd') if with_control => Meaning::End,
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => Meaning::End,
        KeyCode::Char(' ') if !with_control => Meaning::Hold,
        _ => Meaning::Nothing,
    }
}

/// The terminal, drawn upon; it is as before when this is dropped, also by a panic.
struct Screen;

impl Screen {
    fn take() -> std::io::Result<Self> {
        enable_raw_mode()?;
        let screen = Self;
        execute!(std::io::stdout(), EnterAlternateScreen)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that has gone away needs nothing.
        let _ = execute!(std::io::stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_escape_and_control_c_end_it_and_no_other_letter() {
        let plain = |code| meaning(KeyEvent::new(code, KeyModifiers::NONE));
        for code in [KeyCode::Char('q'), KeyCode::Char('Q'), KeyCode::Esc] {
            assert_eq!(plain(code), Meaning::End);
        }
        let control = |letter| {
            let key = KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
            meaning(key)
        };
        assert_eq!(control('c'), Meaning::End);
        assert_eq!(plain(KeyCode::Char('c')), Meaning::Nothing);
        assert_eq!(plain(KeyCode::Char(' ')), Meaning::Hold);
        // A zero byte, which some terminals send by themselves.
        assert_eq!(control(' '), Meaning::Nothing);
        assert_eq!(plain(KeyCode::Enter), Meaning::Nothing);
    }
}
