//! What keys do, be it to the list, to all about one instance, or to what lies over them.

use super::{Detail, Effect, INTERVALS, Overlay, State, Target, View};
use crate::top::figures::harmless;
use crate::top::instances::InstanceRow;
use crate::top::keys::{self, Hint, Key};
use crate::top::list::FILTER_CHARACTERS_MAX;
use crate::top::theme::Tone;

/// More than any list has.
const ALL_ROWS: isize = isize::MAX;

impl State {
    pub(in crate::top) fn handle_key(&mut self, key: Key) -> Option<Effect> {
        self.notice = None;
        match key {
            Key::Interrupt => return Some(Effect::Quit),
            Key::Suspend => return Some(Effect::Suspend),
            Key::Redraw => return Some(Effect::Redraw),
            _ => {}
        }
        match &self.overlay {
            Overlay::None if self.detail.is_some() => self.pressed_in_detail(key),
            Overlay::None => self.pressed_in_list(key),
            Overlay::Help(scrolled) => self.pressed_in_help(key, *scrolled),
            Overlay::Filter => {
                self.pressed_in_filter(key);
                None
            }
            Overlay::Confirm(target) => self.pressed_in_confirmation(key, target.clone()),
        }
    }

    /// What the keys do now, for the foot of the screen.
    pub(in crate::top) fn hints(&self) -> &'static [Hint] {
        match self.overlay {
            Overlay::None if self.detail.is_some() => keys::OF_DETAIL,
            Overlay::None if self.view == View::Instances => keys::OF_INSTANCES,
            Overlay::None => keys::OF_OTHERS,
            Overlay::Help(_) => keys::OF_HELP,
            Overlay::Filter => keys::OF_FILTER,
            Overlay::Confirm(_) => keys::OF_CONFIRMATION,
        }
    }

    fn pressed_in_list(&mut self, key: Key) -> Option<Effect> {
        match key {
            Key::Escape if !self.list().filter().is_empty() => self.list_mut().set_filter(String::new()),
            Key::Escape => return Some(Effect::Quit),
            Key::Enter if self.view == View::Instances => self.open_detail(),
            Key::Character('d') if self.view == View::Instances => {
                let target = self.instances.selected().map(target_of);
                self.ask_whether_to_disconnect(target);
            }
            Key::Character('/') => self.overlay = Overlay::Filter,
            Key::Left | Key::Character('<') => self.list_mut().sort_by_next(-1),
            Key::Right | Key::Character('>') => self.list_mut().sort_by_next(1),
            Key::Character('r') => self.list_mut().reverse(),
            key => {
                let rows = rows_of(key, self.page);
                self.list_mut().move_by(rows);
                return self.pressed_anywhere(key);
            }
        }
        None
    }

    fn pressed_in_detail(&mut self, key: Key) -> Option<Effect> {
        let detail = self.detail.as_mut()?;
        match key {
            Key::Escape | Key::Enter => self.detail = None,
            Key::Character('d') => {
                let target = (!detail.has_left).then(|| target_of(&detail.row));
                self.ask_whether_to_disconnect(target);
            }
            key => {
                let most = detail.row.status.subscriptions.len().saturating_sub(1);
                let rows = rows_of(key, self.page);
                detail.scrolled = detail.scrolled.saturating_add_signed(rows).min(most);
                return self.pressed_anywhere(key);
            }
        }
        None
    }

    fn pressed_anywhere(&mut self, key: Key) -> Option<Effect> {
        match key {
            Key::Character('q') => Some(Effect::Quit),
            Key::Character('?' | 'h') => {
                self.overlay = Overlay::Help(0);
                None
            }
            Key::Character('p' | ' ') => {
                self.is_paused = !self.is_paused;
                (!self.is_paused).then_some(Effect::Ask)
            }
            Key::Character('+' | '=') => {
                self.interval = INTERVALS.into_iter().rev().find(|one| *one < self.interval).unwrap_or(self.interval);
                Some(Effect::Retime)
            }
            Key::Character('-') => {
                self.interval = INTERVALS.into_iter().find(|one| *one > self.interval).unwrap_or(self.interval);
                Some(Effect::Retime)
            }
            Key::Tab => self.turn_to(self.view as usize + 1),
            Key::BackTab => self.turn_to(self.view as usize + View::ALL.len() - 1),
            Key::Character('1') => self.turn_to(View::Instances as usize),
            Key::Character('2') => self.turn_to(View::Topics as usize),
            Key::Character('3') => self.turn_to(View::Users as usize),
            _ => None,
        }
    }

    fn pressed_in_help(&mut self, key: Key, scrolled: usize) -> Option<Effect> {
        self.overlay = match key {
            Key::Character('q') => return Some(Effect::Quit),
            Key::Up | Key::Down | Key::PageUp | Key::PageDown => {
                let rows = rows_of(key, self.page);
                Overlay::Help(scrolled.saturating_add_signed(rows).min(keys::ALL.len() - 1))
            }
            _ => Overlay::None,
        };
        None
    }

    fn pressed_in_filter(&mut self, key: Key) {
        let mut text = self.list().filter().to_owned();
        match key {
            Key::Enter => self.overlay = Overlay::None,
            Key::Escape => {
                self.overlay = Overlay::None;
                self.list_mut().set_filter(String::new());
            }
            Key::Backspace if text.pop().is_none() => self.overlay = Overlay::None,
            Key::Backspace => self.list_mut().set_filter(text),
            Key::Character(letter) if text.chars().count() < FILTER_CHARACTERS_MAX => {
                text.push(letter);
                self.list_mut().set_filter(text);
            }
            // The letters are the filter's.
            Key::Character(_) => {}
            key => {
                let rows = rows_of(key, self.page);
                self.list_mut().move_by(rows);
            }
        }
    }

    fn pressed_in_confirmation(&mut self, key: Key, target: Target) -> Option<Effect> {
        match key {
            Key::Character('y' | 'Y') => {
                self.overlay = Overlay::None;
                self.say(format!("disconnecting {} {} ...", target.id, target.name), Tone::Notice);
                Some(Effect::Disconnect(target))
            }
            Key::Character('n' | 'N' | 'q') | Key::Escape => {
                self.overlay = Overlay::None;
                None
            }
            // Whatever else is pressed was not meant for this.
            _ => None,
        }
    }

    fn ask_whether_to_disconnect(&mut self, target: Option<Target>) {
        match target {
            None => self.say("there is nobody to disconnect", Tone::Notice),
            Some(target) if Some(target.id) == self.own => {
                self.say("that is this program itself; q quits it", Tone::Notice);
            }
            Some(target) if self.trouble().is_some() => {
                self.say(format!("{} may be somebody else by now; wait for the broker", target.id), Tone::Notice);
            }
            Some(target) => self.overlay = Overlay::Confirm(target),
        }
    }

    fn open_detail(&mut self) {
        let selected = self.instances.selected().cloned();
        self.detail = selected.map(|row| Detail { row, has_left: false, scrolled: 0 });
    }

    fn turn_to(&mut self, view: usize) -> Option<Effect> {
        self.view = View::ALL[view % View::ALL.len()];
        self.detail = None;
        // It shows what was not asked for until now.
        Some(Effect::Ask)
    }
}

fn target_of(row: &InstanceRow) -> Target {
    let status = &row.status;
    Target { id: status.id, name: harmless(&status.name), user: harmless(&row.user), pid: status.pid }
}

/// By how many rows a key moves, if it does.
fn rows_of(key: Key, page: usize) -> isize {
    let page = isize::try_from(page).unwrap_or(1).max(1);
    match key {
        Key::Up | Key::Character('k') => -1,
        Key::Down | Key::Character('j') => 1,
        Key::PageUp => -page,
        Key::PageDown => page,
        Key::Home | Key::Character('g') => -ALL_ROWS,
        Key::End | Key::Character('G') => ALL_ROWS,
        _ => 0,
    }
}
