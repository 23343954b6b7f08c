use std::path::Path;
use std::time::Duration;

use pipebus_proto::admin::Draining;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::{Color, Modifier};

use super::*;
use crate::top::keys::Key;
use crate::top::state::tests::{busy, instance, press, sample};

const PLAIN: Theme = Theme { is_coloured: false };

fn screen(state: &State, theme: Theme, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state, theme)).unwrap();
    terminal.backend().buffer().clone()
}

/// Fails unless a screen looks as its picture in the folder does.
fn check(state: &State, width: u16, height: u16, name: &str) {
    let shown = lines_of(&screen(state, PLAIN, width, height));
    check_text(&shown, &format!("{name}-{width}x{height}.txt"));
}

/// With `TOP_PICTURES=write` the pictures become what is shown, to be looked at with `git diff`.
fn check_text(shown: &str, file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/top/draw/pictures").join(file);
    if std::env::var_os("TOP_PICTURES").is_some_and(|value| value == "write") {
        std::fs::write(&path, shown).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(shown == expected, "\n--- shown\n{shown}\n--- {file}\n{expected}");
}

#[test]
fn instances_on_a_usual_terminal() {
    check(&busy(), 80, 24, "instances");
}

#[test]
fn instances_on_a_small_terminal() {
    check(&busy(), 40, 10, "instances");
}

#[test]
fn instances_on_a_large_terminal() {
    check(&busy(), 200, 50, "instances");
}

#[test]
fn topics_and_users() {
    let mut state = busy();
    press(&mut state, "2");
    check(&state, 80, 24, "topics");
    press(&mut state, "3");
    check(&state, 80, 24, "users");
}

#[test]
fn all_about_an_instance() {
    let mut state = busy();
    state.handle_key(Key::Down);
    state.handle_key(Key::Enter);
    check(&state, 80, 24, "detail");
    check(&state, 40, 10, "detail");
}

/// Fails unless the line of the tabs is this to the left and that to the right.
fn check_tabs(state: &State, width: u16, left: &str, right: &str) {
    let shown = lines_of(&screen(state, PLAIN, width, 10));
    let room = usize::from(width) - 1 - left.len();
    assert_eq!(shown.lines().nth(2).unwrap(), format!("{left}{right:>room$}").trim_end());
}

#[test]
fn what_is_unusual_is_seen_before_other_tabs() {
    let mut state = busy();
    let all = " 1 Instances 5   2 Topics 2   3 Users";
    check_tabs(&state, 80, all, "every 1s");
    check_tabs(&state, 40, all, "");
    press(&mut state, "p");
    check_tabs(&state, 40, " 1 Instances 5", "paused");
    state.status.draining = Some(Draining { draining: true, instances: 4, timeout_ms: None });
    check_tabs(&state, 80, all, "draining, waits for 4  paused");
    check_tabs(&state, 40, " 1 Instances 5", "draining, waits for 4");
    press(&mut state, "p/top");
    check_tabs(&state, 60, " 1 Instances 5", "draining, waits for 4  \"top\": 1 of 5");
}

#[test]
fn a_question_names_whom_it_is_about() {
    let mut state = busy();
    press(&mut state, "/kitchen");
    state.handle_key(Key::Enter);
    press(&mut state, "d");
    check(&state, 80, 24, "question");
}

#[test]
fn the_help_has_all_keys_on_a_usual_terminal() {
    let mut state = busy();
    press(&mut state, "?");
    check(&state, 80, 24, "help");
}

#[test]
fn a_broker_that_is_lost_leaves_its_last_picture_grey() {
    let mut state = busy();
    state.handle_lost(state.now);
    state.handle_time(state.now + Duration::from_secs(7));
    check(&state, 80, 24, "lost");
    let buffer = screen(&state, Theme { is_coloured: true }, 80, 24);
    for position in (1..23).flat_map(|y| (0..80).map(move |x| (x, y))) {
        let cell = &buffer[position];
        // What lies under the second half of a wide character is not drawn.
        if cell.symbol() != " " {
            assert_eq!(cell.fg, Color::DarkGray, "{position:?}");
        }
    }
    assert_eq!(buffer[(1, 0)].fg, Color::Red);
    assert!(buffer[(6, 6)].modifier.contains(Modifier::REVERSED), "what is selected is still seen");
}

#[test]
fn a_picture_as_text_has_all_rows_and_no_keys() {
    check_text(&text(&busy(), 100, 1000), "text-100.txt");
    assert_eq!(text(&busy(), 100, 2).lines().count(), 7);
    check_text(&text(&busy(), 40, 1000), "text-40.txt");
}

#[test]
fn no_size_is_too_small_to_be_drawn_and_none_shows_control_characters() {
    let mut states = Vec::new();
    for keys in ["", "2", "3", "d", "?", "/x", "/"] {
        let mut state = busy();
        press(&mut state, keys);
        states.push(state);
    }
    states[0].handle_key(Key::Enter);
    states[1].handle_failure("x ".repeat(300));
    let now = states[2].now;
    states[2].handle_lost(now);
    for state in &states {
        for (width, height) in (0..90).flat_map(|width| (0..30).map(move |height| (width, height))) {
            let shown = lines_of(&screen(state, PLAIN, width, height));
            assert!(shown.chars().all(|letter| letter == '\n' || !letter.is_control()), "{shown}");
        }
    }
    assert_eq!(lines_of(&screen(&states[0], PLAIN, 24, 5)), "   terminal too small\n        q quits\n\n\n\n");
    assert_eq!(lines_of(&screen(&states[0], PLAIN, 8, 1)), "termina…\n");
}

#[test]
fn without_colour_nothing_is_coloured() {
    let mut state = busy();
    state.handle_failure("no".into());
    press(&mut state, "d");
    let buffer = screen(&state, PLAIN, 120, 40);
    assert!(buffer.content().iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
}

#[test]
fn help_and_quit_are_seen_on_every_screen_that_is_large_enough() {
    for width in WIDTH_MIN..200 {
        let shown = lines_of(&screen(&busy(), PLAIN, width, HEIGHT_MIN));
        let foot = shown.lines().last().unwrap();
        assert!(foot.contains("? help  q quit"), "{width}: {foot}");
    }
}

#[test]
fn the_selected_row_is_seen_wherever_it_is() {
    let rows = (1..=5000).map(|id| instance(id, "x", 0, 1000)).collect();
    let mut state = State::new(sample(1, 1000, rows), 0, Duration::from_secs(1), busy().now);
    state.page = 10;
    for key in [Key::End, Key::PageUp, Key::Up, Key::Home, Key::PageDown, Key::Down] {
        state.handle_key(key);
        let selected = state.instances.selected().unwrap().status.id;
        let buffer = screen(&state, PLAIN, 80, 24);
        let row = (0..23).find(|y| buffer[(1, *y)].modifier.contains(Modifier::REVERSED) && *y > 4).unwrap();
        let shown = lines_of(&buffer);
        assert!(shown.lines().nth(row.into()).unwrap().contains(&selected.to_string()), "{key:?}: {shown}");
    }
    assert_eq!(state.list().position(), 11);
}
