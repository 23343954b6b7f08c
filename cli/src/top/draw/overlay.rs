//! What lies over the view: the help, a question, and the line that says what has become of something.

use ratatui::buffer::Buffer;
use ratatui::layout::{Alignment, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear, Paragraph, Widget, Wrap};

use crate::look::UNKNOWN;
use crate::top::figures::harmless;
use crate::top::keys;
use crate::top::list::width_of;
use crate::top::state::{Overlay, State, Target};
use crate::top::theme::{Theme, Tone};

/// What is longer is cut.
const NOTICE_LINES_MAX: u16 = 4;

/// How many lines the filter while it is written takes, or a notice.
pub(super) fn message_height(width: u16, state: &State) -> u16 {
    match &state.notice {
        _ if state.overlay == Overlay::Filter => 1,
        None => 0,
        Some(notice) => match width_of(&notice.text) / width.saturating_sub(2).max(1) {
            0 => 1,
            // Words are kept whole, so that a line may not be full.
            lines => (lines + 2).min(NOTICE_LINES_MAX),
        },
    }
}

pub(super) fn draw_message(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let inner = Rect { x: area.x + 1, width: area.width.saturating_sub(2), ..area };
    if state.overlay == Overlay::Filter {
        let filter = Span::raw(harmless(state.list().filter()));
        let cursor = Span::styled(" ", theme.style(Tone::Selected));
        let line = Line::from_iter([Span::styled("/ ", theme.style(Tone::Key)), filter, cursor]);
        // Where it is written is always seen.
        let is_longer = line.width() > inner.width.into();
        line.alignment(if is_longer { Alignment::Right } else { Alignment::Left }).render(inner, buffer);
    } else if let Some(notice) = &state.notice {
        let text = Paragraph::new(notice.text.as_str()).style(theme.style(notice.tone)).wrap(Wrap { trim: true });
        text.render(inner, buffer);
    }
}

pub(super) fn draw_help(buffer: &mut Buffer, area: Rect, scrolled: usize, theme: Theme) {
    let lines = keys::ALL.iter().map(|(key, does)| {
        Line::from_iter([Span::styled(format!("{key:<16}"), theme.style(Tone::Key)), Span::raw(*does)])
    });
    draw_box(buffer, area, "Keys", lines.skip(scrolled).collect(), theme);
}

pub(super) fn draw_question(buffer: &mut Buffer, area: Rect, target: &Target, theme: Theme) {
    let pid = target.pid.map_or(UNKNOWN.to_owned(), |pid| pid.to_string());
    let keys = [("y", " disconnect    "), ("n", " leave it")];
    let keys = keys.into_iter().flat_map(|(key, does)| [Span::styled(key, theme.style(Tone::Key)), Span::raw(does)]);
    let lines = vec![
        Line::styled(format!("{}  {}", target.id, target.name), theme.style(Tone::Strong)),
        Line::raw(format!("of {}, process {pid}", target.user)),
        Line::raw("It stays away until it is started again."),
        Line::raw(""),
        Line::from_iter(keys),
    ];
    draw_box(buffer, area, "Disconnect?", lines, theme);
}

/// A box in the middle, as large as its lines or as there is room.
fn draw_box(buffer: &mut Buffer, area: Rect, title: &str, lines: Vec<Line<'_>>, theme: Theme) {
    let widest = lines.iter().map(Line::width).max().unwrap_or(0);
    let width = u16::try_from(widest).unwrap_or(u16::MAX).saturating_add(4).max(width_of(title) + 6).min(area.width);
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(2).min(area.height);
    let place = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    Clear.render(place, buffer);
    // What is wide and begins in front of the box would lie over its border.
    for y in place.top()..place.bottom() {
        if let Some(cell) = place.x.checked_sub(1).and_then(|x| buffer.cell_mut((x, y)))
            && width_of(cell.symbol()) > 1
        {
            cell.set_symbol(" ");
        }
    }
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(theme.style(Tone::Key))
        .title(Line::styled(format!(" {title} "), theme.style(Tone::Strong)))
        .title_alignment(Alignment::Center);
    let inner = block.inner(place);
    block.render(place, buffer);
    let inner = Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner };
    for (line, y) in lines.into_iter().zip(inner.top()..inner.bottom()) {
        line.render(Rect { y, height: 1, ..inner }, buffer);
    }
}
