//! What the state looks like on a screen of any size.

mod detail;
mod header;
mod overlay;
mod table;
#[cfg(test)]
mod tests;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;

use crate::top::figures::cut;
use crate::top::keys::Hint;
use crate::top::list::width_of;
use crate::top::state::{Overlay, State};
use crate::top::theme::{Theme, Tone};

/// Below these a screen shows only that it is too small.
const WIDTH_MIN: u16 = 24;
const HEIGHT_MIN: u16 = 6;

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, theme: Theme) {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    if area.width < WIDTH_MIN || area.height < HEIGHT_MIN {
        return draw_too_small(buffer, area, theme);
    }
    let [header, body, message, foot] = parts(area, state);
    header::draw(buffer, header, state, theme);
    match &state.detail {
        Some(detail) => detail::draw(buffer, body, detail, theme),
        None => table::draw(buffer, body, state.list(), theme),
    }
    if let Some(trouble) = state.trouble() {
        buffer.set_style(header, theme.style(Tone::Stale));
        buffer.set_style(body, theme.style(Tone::Stale));
        let line = Line::styled(fill(&format!(" {trouble}"), area.width), theme.style(Tone::Trouble));
        line.render(Rect { height: 1, ..area }, buffer);
    }
    overlay::draw_message(buffer, message, state, theme);
    draw_foot(buffer, foot, state.hints(), theme);
    let middle = Rect { height: area.height - foot.height, ..area };
    match &state.overlay {
        Overlay::Help(scrolled) => overlay::draw_help(buffer, middle, *scrolled, theme),
        Overlay::Confirm(target) => overlay::draw_question(buffer, middle, target, theme),
        Overlay::None | Overlay::Filter => {}
    }
}

/// One picture as lines of text, with at most so many rows, and without what is only for keys.
pub(super) fn text(state: &State, width: u16, rows_max: u16) -> String {
    let (_, rows) = state.list().counts();
    let rows = u16::try_from(rows).unwrap_or(u16::MAX).min(rows_max);
    let theme = Theme { is_coloured: false };
    let header = Rect::new(0, 0, width, header::figures_height(width));
    let body = Rect { y: header.height, height: rows + 1, ..header };
    let mut buffer = Buffer::empty(Rect { height: header.height + body.height, ..header });
    header::draw_figures(&mut buffer, header, state, theme);
    table::draw(&mut buffer, body, state.list(), theme);
    lines_of(&buffer)
}

/// How many rows a screen of this size shows at once.
pub(super) fn rows_seen(area: Rect, state: &State) -> usize {
    let [_, body, _, _] = parts(area, state);
    usize::from(body.height.saturating_sub(1)).max(1)
}

/// The header, the table, a line that says something if there is such a line, and the keys.
fn parts(area: Rect, state: &State) -> [Rect; 4] {
    let header = header::height(area).min(area.height.saturating_sub(1));
    let room = area.height.saturating_sub(header + 1);
    let message = overlay::message_height(area.width, state).min(room);
    let body = room - message;
    let mut top = area.y;
    [header, body, message, 1].map(|height| {
        let part = Rect { y: top, height, ..area }.intersection(area);
        top += height;
        part
    })
}

fn draw_too_small(buffer: &mut Buffer, area: Rect, theme: Theme) {
    let style = theme.style(Tone::Notice);
    for (line, y) in ["terminal too small", "q quits"].into_iter().zip(area.top()..area.bottom()) {
        Line::styled(cut(line, area.width), style).centered().render(Rect { y, height: 1, ..area }, buffer);
    }
}

/// As many keys as there is room for.
fn draw_foot(buffer: &mut Buffer, area: Rect, hints: &[Hint], theme: Theme) {
    let width = |rank: u8| -> u16 {
        let kept = hints.iter().filter(|hint| hint.2 <= rank);
        kept.map(|(key, does, _)| width_of(key) + 1 + width_of(does) + 2).sum::<u16>().saturating_sub(2)
    };
    let highest = hints.iter().map(|hint| hint.2).max().unwrap_or(0);
    let rank = (0..=highest).rev().find(|rank| width(*rank) <= area.width).unwrap_or(0);
    let kept = hints.iter().filter(|hint| hint.2 <= rank);
    let spans = kept.flat_map(|(key, does, _)| {
        [Span::styled(*key, theme.style(Tone::Key)), Span::raw(" "), Span::raw(*does), Span::raw("  ")]
    });
    Line::from_iter(spans).render(area, buffer);
}

/// A text in so many columns: cut, or with blanks behind it.
fn fill(text: &str, width: u16) -> String {
    let text = cut(text, width);
    let blanks = usize::from(width.saturating_sub(width_of(&text)));
    text + &" ".repeat(blanks)
}

/// What is on a screen as lines of text.
pub(super) fn lines_of(buffer: &Buffer) -> String {
    let area = buffer.area;
    let mut lines = String::new();
    for y in area.top()..area.bottom() {
        let mut line = String::new();
        let mut x = area.left();
        while x < area.right() {
            let symbol = buffer[(x, y)].symbol();
            line.push_str(symbol);
            // What is wide lies over the cell behind it.
            x += width_of(symbol).max(1);
        }
        lines.push_str(line.trim_end());
        lines.push('\n');
    }
    lines
}
