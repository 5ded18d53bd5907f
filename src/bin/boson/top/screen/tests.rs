use boson::observe::TaskState;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::top::view::Quantiles;

fn task(core: usize, id: u64, name: &str, millis: u64) -> TaskRow {
    TaskRow {
        core,
        id,
        name: name.to_owned(),
        created_at: format!("src/{name}.rs:{id}:5"),
        state: TaskState::Waiting,
        waits_for: (id % 2 == 1).then(|| "a timer".to_owned()),
        since: Duration::from_millis(millis),
        queue: "default".to_owned(),
        is_coroutine: false,
        stack_bytes: None,
        polls: 7,
        polls_rate: 0.5,
    }
}

fn view() -> View {
    let core = CoreRow {
        cpu: 3,
        busy: 0.42,
        asleep: 0.5,
        spinning: 0.08,
        polls: 123_456.0,
        tasks: 3,
        stalls: 2,
        poll: Quantiles {
            p50: Duration::from_nanos(1200),
            p99: Duration::from_micros(40),
            max: Duration::from_millis(3),
        },
        ..CoreRow::default()
    };
    let stuck_in = Some(("greedy".to_owned(), "src/a.rs:1:2".to_owned()));
    let stuck = CoreRow { core: 1, is_silent: true, stuck_in, ..CoreRow::default() };
    View {
        program: "boson serve".to_owned(),
        process: 4711,
        release: "0.1.0".to_owned(),
        window: Duration::from_secs(1),
        cores: vec![core, stuck],
        namespaces: Vec::new(),
        tasks: vec![
            task(0, 1, "accept", 10),
            task(0, 2, "connection", 9_000),
            task(1, 3, "expire keys", 200),
        ],
        is_cut: false,
    }
}

fn screen() -> Screen {
    Screen::new(view(), Duration::from_secs(1))
}

/// The lines on a terminal of that size.
fn drawn(screen: &mut Screen, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("no terminal is needed");
    terminal.draw(|frame| screen.draw(frame)).expect("drawn");
    let buffer = terminal.backend().buffer().clone();
    let lines = buffer.content.chunks(usize::from(width.max(1)));
    lines.map(|line| line.iter().map(ratatui::buffer::Cell::symbol).collect()).collect()
}

fn press(screen: &mut Screen, code: KeyCode) -> After {
    screen.press(KeyEvent::new(code, KeyModifiers::NONE))
}

/// The names of tasks from top to bottom.
fn names(screen: &mut Screen) -> Vec<&'static str> {
    let lines = drawn(screen, 120, 24);
    let known = ["accept", "connection", "expire keys"];
    lines
        .iter()
        .filter_map(|line| known.into_iter().find(|name| line.contains(&format!("{name}.rs"))))
        .collect()
}

#[test]
fn everything_has_its_place() {
    let lines = drawn(&mut screen(), 120, 24);
    assert!(lines[0].starts_with("boson serve (process 4711, boson 0.1.0), over 1.00s"), "{lines:#?}");
    for (line, parts) in [
        (0, &["core 1 is stuck in the task greedy of src/a.rs:1:2"][..]),
        (1, &["core", "busy", "polls/s", "stalls"]),
        (2, &["   0   3   42%  8.0%   50%    123k"]),
        (3, &["   1     stuck"]),
        (4, &["poll50", "wait99", "turn50"]),
        (5, &["1.20µs", "40.0µs", "3.00ms"]),
        (7, &[" 3 tasks, 1–3 "]),
        (8, &["since", "name", "waits for", "created at"]),
        (9, &["2 waiting   9.00s", "connection", " - ", "src/connection.rs:2:5"]),
        (10, &["3 waiting   200ms", "expire keys", "a timer"]),
        (23, &["q quit", "sort: since", "cores: all"]),
    ] {
        for part in parts {
            assert!(lines[line].contains(part), "{part} in line {line} of {lines:#?}");
        }
    }
}

#[test]
fn namespaces_have_a_table_of_their_own() {
    let read = NamespaceRow {
        name: "nvme:0000:04:00.0/1".to_owned(),
        operation: "read",
        completed: 123_456.0,
        bytes: 505_675_776.0,
        queue_depth: 31,
        max_queue_depth: 64,
        failed: 2,
        ..NamespaceRow::default()
    };
    let other = NamespaceRow { core: 1, operation: "compare_and_write", ..read.clone() };
    let view = View { namespaces: vec![read, other], ..view() };
    let mut screen = Screen::new(view, Duration::from_secs(1));
    let lines = drawn(&mut screen, 120, 32);
    for (line, parts) in [
        (7, &["ops/s", "lat99", "depth", "namespace"][..]),
        (8, &["   0   123k    506M", "   31    64", " read ", "nvme:0000:04:00.0/1"]),
        (9, &["   1   123k", "compare_and_write nvme:"]),
        (10, &[" 3 tasks, 1–3 "]),
    ] {
        for part in parts {
            assert!(lines[line].contains(part), "{part} in line {line} of {lines:#?}");
        }
    }
    press(&mut screen, KeyCode::Char('c'));
    let lines = drawn(&mut screen, 120, 32);
    assert!(!lines.iter().any(|line| line.contains("compare_and_write")), "core 0 only: {lines:#?}");
}

#[test]
fn keys_do_what_the_foot_says() {
    let mut screen = screen();
    assert_eq!(names(&mut screen), ["connection", "expire keys", "accept"], "the longest wait first");
    press(&mut screen, KeyCode::Char('r'));
    assert_eq!(names(&mut screen), ["accept", "expire keys", "connection"]);
    press(&mut screen, KeyCode::Char('r'));
    for _ in 0..3 {
        press(&mut screen, KeyCode::Char('s'));
    }
    assert!(drawn(&mut screen, 120, 24)[23].contains("sort: name"));
    assert_eq!(names(&mut screen), ["accept", "connection", "expire keys"]);

    press(&mut screen, KeyCode::Char('c'));
    assert_eq!(names(&mut screen), ["accept", "connection"], "core 0");
    press(&mut screen, KeyCode::Char('c'));
    assert_eq!(names(&mut screen), ["expire keys"], "core 1");
    assert!(drawn(&mut screen, 120, 24)[23].contains("cores: 1"));
    press(&mut screen, KeyCode::Char('c'));
    assert_eq!(names(&mut screen).len(), 3, "all again");

    press(&mut screen, KeyCode::Char(' '));
    screen.show(View { tasks: Vec::new(), ..view() });
    assert!(drawn(&mut screen, 120, 24)[0].contains("PAUSED"));
    assert_eq!(names(&mut screen).len(), 3, "what was there when it was paused");
    press(&mut screen, KeyCode::Char(' '));
    screen.show(View { tasks: Vec::new(), ..view() });
    assert_eq!(names(&mut screen).len(), 0);

    screen.fail("nobody listens there".to_owned());
    assert!(drawn(&mut screen, 120, 24)[23].contains("nobody listens there"));
    screen.show(view());
    assert!(drawn(&mut screen, 120, 24)[23].contains("q quit"), "it is there again");
    assert_eq!(press(&mut screen, KeyCode::Char('x')), After::Stay);
    assert_eq!(press(&mut screen, KeyCode::Char('q')), After::Quit);
    assert_eq!(screen.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), After::Quit);
}

#[test]
fn long_lists_scroll_and_stop_at_their_ends() {
    let tasks = (0..100).map(|id| task(0, id, "many", 100 - id)).collect();
    let mut screen = Screen::new(View { tasks, ..view() }, Duration::from_secs(1));
    let place = |screen: &mut Screen| drawn(screen, 80, 24)[7].clone();
    assert!(place(&mut screen).contains("1–14"), "{}", place(&mut screen));
    press(&mut screen, KeyCode::PageDown);
    assert!(place(&mut screen).contains("15–28"));
    press(&mut screen, KeyCode::End);
    assert!(place(&mut screen).contains("87–100"));
    press(&mut screen, KeyCode::Down);
    assert!(place(&mut screen).contains("87–100"));
    press(&mut screen, KeyCode::Up);
    assert!(place(&mut screen).contains("86–99"));
    press(&mut screen, KeyCode::Home);
    assert!(place(&mut screen).contains("1–14"));
    // The list got shorter.
    press(&mut screen, KeyCode::End);
    screen.show(view());
    assert!(place(&mut screen).contains("1–3"));
}

#[test]
fn every_size_of_terminal_is_drawn() {
    let mut screen = screen();
    for (width, height) in [(0, 0), (1, 1), (3, 2), (20, 5), (80, 24), (99, 10), (100, 10), (400, 100)] {
        let lines = drawn(&mut screen, width, height);
        assert_eq!(lines.len(), usize::from(if width == 0 { 0 } else { height }), "{width}×{height}");
    }
    let narrow = drawn(&mut screen, 80, 24);
    assert!(
        narrow[1].starts_with("core cpu  busy") && narrow[1].trim_end().ends_with("parks/s"),
        "{narrow:#?}"
    );
    assert!(narrow[9].contains("connection") && !narrow[8].contains("created at"), "{narrow:#?}");
}
