//! All about one instance.

use std::time::Duration;

use pipebus_client::Identity;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;

use super::header::draw_flow;
use crate::look::UNKNOWN;
use crate::look::kind;
use crate::output::{bytes, grouped, time};
use crate::top::figures::{bar, byte_rate, cut, harmless};
use crate::top::rates::Rates;
use crate::top::state::Detail;
use crate::top::theme::{Theme, Tone};

/// The width of a queue's bar.
const BAR: usize = 24;

/// From so many lines on there are some without text.
const ROOMY: u16 = 12;

/// The columns of what there was in all, and of a screen that has room for it.
const IN_ALL: u16 = 34;
const IN_ALL_WIDTH_MIN: u16 = 66;

/// The columns of a subscription's kind.
const KIND: u16 = 13;

pub(super) fn draw(buffer: &mut Buffer, area: Rect, detail: &Detail, theme: Theme) {
    let mut lines = Lines { buffer, area, theme, is_roomy: area.height >= ROOMY };
    let status = &detail.row.status;
    let who = format!("Instance {}  {}", status.id, harmless(&status.name));
    lines.write([(who, Tone::Strong), (if detail.has_left { "  has left" } else { "" }.to_owned(), Tone::Alarm)]);
    let pid = status.pid.map_or(UNKNOWN.to_owned(), |pid| pid.to_string());
    let connected = time(Duration::from_millis(status.connected_ms));
    lines.write([
        ("user ".to_owned(), Tone::Quiet),
        (user(detail), Tone::Normal),
        ("  process ".to_owned(), Tone::Quiet),
        (pid, Tone::Normal),
        ("  connected for ".to_owned(), Tone::Quiet),
        (connected, Tone::Normal),
    ]);
    draw_queue(&mut lines, detail);
    lines.skip();
    draw_flows(&mut lines, detail);
    lines.skip();
    draw_subscriptions(&mut lines, detail);
}

/// By name, and by what the system knows it by.
fn user(detail: &Detail) -> String {
    let name = harmless(&detail.row.user);
    match &detail.row.status.identity {
        Identity::Unix { uid } => format!("{name} (uid {uid})"),
        Identity::Windows { .. } => name,
    }
}

fn draw_queue(lines: &mut Lines<'_>, detail: &Detail) {
    let status = &detail.row.status;
    let (text, tone) = bar(status.queued_bytes, status.queue_bytes_max, BAR);
    let fill = format!("  {} of {}", bytes(status.queued_bytes), bytes(status.queue_bytes_max));
    let stalled = if status.stalled { "  stalled: it takes nothing, and loses what comes" } else { "" };
    lines.write([
        ("queue ".to_owned(), Tone::Quiet),
        (text, tone),
        (fill, Tone::Normal),
        (stalled.to_owned(), Tone::Alarm),
    ]);
}

fn draw_flows(lines: &mut Lines<'_>, detail: &Detail) {
    let row = &detail.row;
    let of = |rate: fn(&Rates) -> f64| row.rates.as_ref().map(rate);
    let per_second = |value: Option<f64>| format!("{}/s", byte_rate(value));
    // As many lines for each as leave the subscriptions half of the room.
    let height = (lines.area.height / 8).clamp(1, 4);
    let comes_in = ("in", of(|rates| rates.messages_in), &*per_second(of(|rates| rates.bytes_in)));
    let goes_out = ("out", of(|rates| rates.messages_out), &*per_second(of(|rates| rates.bytes_out)));
    let lost = ("lost", of(|rates| rates.lost), "");
    let status = &row.status;
    let in_all = |messages, size| format!("{} messages, {} in all", grouped(messages), bytes(size));
    for (flow, history, tone, in_all) in [
        (comes_in, &row.histories.messages_in, Tone::In, in_all(status.messages_in, status.bytes_in)),
        (goes_out, &row.histories.messages_out, Tone::Out, in_all(status.messages_out, status.bytes_out)),
        (lost, &row.histories.lost, Tone::Alarm, format!("{} messages in all", grouped(status.dropped))),
    ] {
        let theme = lines.theme;
        let area = lines.take(height);
        let text = Line::styled(in_all, theme.style(Tone::Quiet));
        let width = if area.width < IN_ALL_WIDTH_MIN { 0 } else { IN_ALL };
        let graph = Rect { width: area.width.saturating_sub(width + 2), ..area };
        draw_flow(lines.buffer, graph, flow, history, (tone, theme));
        let at = Rect { x: graph.right() + 2, width, height: 1, ..area }.intersection(area);
        text.render(at, lines.buffer);
    }
}

fn draw_subscriptions(lines: &mut Lines<'_>, detail: &Detail) {
    let all = &detail.row.status.subscriptions;
    let seen = all.len().saturating_sub(detail.scrolled);
    let above = if detail.scrolled > 0 { format!(", {} above", detail.scrolled) } else { String::new() };
    let room = usize::from(lines.area.height.saturating_sub(1));
    let below = if seen > room { format!(", {} below", seen - room) } else { String::new() };
    let title = match all.len() {
        0 => "no subscriptions".to_owned(),
        1 => "1 subscription".to_owned(),
        many => format!("{} subscriptions", grouped(many as u64)),
    };
    lines.write([(title, Tone::Title), (above + &below, Tone::Quiet)]);
    for subscription in all.iter().skip(detail.scrolled).take(room) {
        let kind = kind(subscription);
        let tone = if subscription.serves { Tone::In } else { Tone::Normal };
        let width = lines.area.width.saturating_sub(KIND + 2);
        let pattern = cut(&harmless(&subscription.pattern), width);
        lines.write([(format!(" {kind:<12}"), tone), (pattern, Tone::Normal)]);
    }
}

/// What is left of an area, line by line.
struct Lines<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
    theme: Theme,
    is_roomy: bool,
}

impl Lines<'_> {
    /// The next lines.
    fn take(&mut self, height: u16) -> Rect {
        let height = height.min(self.area.height);
        let taken = Rect { height, ..self.area };
        self.area.y += height;
        self.area.height -= height;
        taken
    }

    /// A line for the eye, if there is room for one.
    fn skip(&mut self) {
        if self.is_roomy {
            self.take(1);
        }
    }

    fn write<const N: usize>(&mut self, parts: [(String, Tone); N]) {
        let theme = self.theme;
        let spans = parts.map(|(text, tone)| Span::styled(text, theme.style(tone)));
        let area = self.take(1);
        let inner = Rect { x: area.x + 1, width: area.width.saturating_sub(1), ..area };
        Line::from_iter(spans).render(inner, self.buffer);
    }
}
