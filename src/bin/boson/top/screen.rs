//! The screen: what is on it, what keys do, how it is drawn.

use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table};

use super::cells::{self, CORE_HEAD, LATENCY_HEAD, NAMESPACE_HEAD, TASK_HEAD};
use super::view::{CoreRow, NamespaceRow, Order, TaskRow, View};

/// How much of the height the tables of cores take at most, one of this many parts each.
const CORES_SHARE: u16 = 4;
const CORE_WIDTHS: [u16; 13] = [4, 3, 5, 5, 5, 7, 6, 6, 6, 7, 8, 7, 6];
const LATENCY_WIDTHS: [u16; 10] = [4, 7, 7, 7, 7, 7, 7, 7, 7, 7];
/// The numbers of it.
const NAMESPACE_WIDTHS: [u16; 10] = [4, 6, 7, 7, 7, 7, 5, 5, 6, 7];
/// Below this width there is no room for where tasks were made.
const WIDE: u16 = 100;

/// What `boson top` shows and how.
#[derive(Debug)]
pub(crate) struct Screen {
    view: View,
    order: Order,
    is_reversed: bool,
    /// Shows this core only.
    core: Option<usize>,
    is_paused: bool,
    /// The first task that is shown.
    scroll: usize,
    /// How many tasks had room when it was last drawn.
    page: usize,
    /// Why the last look failed.
    failure: Option<String>,
    interval: Duration,
}

/// What to do after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Stay,
    Quit,
}

impl Screen {
    pub(crate) fn new(view: View, interval: Duration) -> Self {
        let mut screen = Self {
            view: View::default(),
            order: Order::Since,
            is_reversed: false,
            core: None,
            is_paused: false,
            scroll: 0,
            page: 1,
            failure: None,
            interval,
        };
        screen.show(view);
        screen
    }

    /// Shows what was seen last, unless it is paused.
    pub(crate) fn show(&mut self, view: View) {
        self.failure = None;
        if !self.is_paused {
            self.view = view;
            self.view.sort(self.order, self.is_reversed);
        }
    }

    /// Keeps what was seen last, and says why there is nothing newer.
    pub(crate) fn fail(&mut self, why: String) {
        self.failure = Some(why);
    }

    pub(crate) fn press(&mut self, key: KeyEvent) -> After {
        if key.kind == KeyEventKind::Release {
            return After::Stay;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return After::Quit,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return After::Quit,
            KeyCode::Char('s') => {
                let at = Order::ALL.iter().position(|order| *order == self.order).unwrap_or(0);
                self.order = Order::ALL[(at + 1) % Order::ALL.len()];
            }
            KeyCode::Char('r') => self.is_reversed = !self.is_reversed,
            KeyCode::Char('c') => self.next_core(),
            KeyCode::Char(' ' | 'p') => self.is_paused = !self.is_paused,
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll = self.scroll.saturating_add(1),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(self.page),
            KeyCode::PageDown => self.scroll = self.scroll.saturating_add(self.page),
            KeyCode::Home => self.scroll = 0,
            KeyCode::End => self.scroll = usize::MAX,
            _ => return After::Stay,
        }
        self.view.sort(self.order, self.is_reversed);
        After::Stay
    }

    /// All cores, then one after the other.
    fn next_core(&mut self) {
        let mut numbers = self.view.cores.iter().map(|core| core.core);
        self.core = match self.core {
            None => numbers.next(),
            Some(core) => numbers.find(|other| *other > core),
        };
        self.scroll = 0;
    }

    fn is_shown(&self, core: usize) -> bool {
        self.core.is_none_or(|only| only == core)
    }

    pub(crate) fn draw(&mut self, frame: &mut Frame<'_>) {
        let cores: Vec<CoreRow> =
            self.view.cores.iter().filter(|core| self.is_shown(core.core)).cloned().collect();
        let rows = u16::try_from(cores.len()).unwrap_or(u16::MAX);
        let cores_height = rows.saturating_add(1).min((frame.area().height / CORES_SHARE).max(2));
        let namespaces: Vec<NamespaceRow> =
            self.view.namespaces.iter().filter(|row| self.is_shown(row.core)).cloned().collect();
        let rows = u16::try_from(namespaces.len()).unwrap_or(u16::MAX);
        let namespaces_height = match rows {
            0 => 0,
            rows => rows.saturating_add(1).min((frame.area().height / CORES_SHARE).max(2)),
        };
        let [title, core_area, latency_area, namespace_area, task_area, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(cores_height),
            Constraint::Length(cores_height),
            Constraint::Length(namespaces_height),
            Constraint::Fill(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.title(), title);
        draw_cores(frame, core_area, &CORE_HEAD, &CORE_WIDTHS, &cores, |core| cells::core(core).into());
        draw_cores(frame, latency_area, &LATENCY_HEAD, &LATENCY_WIDTHS, &cores, |core| {
            cells::latency(core).into()
        });
        draw_namespaces(frame, namespace_area, &namespaces);
        self.draw_tasks(frame, task_area);
        frame.render_widget(self.foot(), foot);
    }

    fn title(&self) -> Paragraph<'_> {
        let mut spans = vec![Span::styled(cells::title(&self.view), Modifier::BOLD)];
        let stuck = cells::stuck(&self.view);
        if !stuck.is_empty() {
            spans.push(Span::styled(format!("  {}", stuck.join(", ")), Color::Red));
        }
        if self.is_paused {
            spans.push(Span::styled("  PAUSED", Color::Yellow));
        }
        Paragraph::new(Line::from(spans))
    }

    fn foot(&self) -> Paragraph<'_> {
        if let Some(failure) = &self.failure {
            return Paragraph::new(failure.as_str()).style(Color::Red);
        }
        let core = self.core.map_or_else(|| "all".to_owned(), |core| core.to_string());
        let reversed = if self.is_reversed { ", reversed" } else { "" };
        Paragraph::new(format!(
            "q quit  s sort: {}{reversed}  r reverse  c cores: {core}  space pause  \u{2191}\u{2193} scroll  every {}",
            self.order.name(),
            cells::time(self.interval),
        ))
        .style(Modifier::DIM)
    }

    fn draw_tasks(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let tasks: Vec<&TaskRow> = self.view.tasks.iter().filter(|task| self.is_shown(task.core)).collect();
        // Above the rows are a line and the heads.
        self.page = usize::from(area.height.saturating_sub(2)).max(1);
        self.scroll = self.scroll.min(tasks.len().saturating_sub(self.page));
        let last = (self.scroll + self.page).min(tasks.len());
        let place =
            if tasks.is_empty() { String::new() } else { format!(", {}\u{2013}{last}", self.scroll + 1) };
        let is_wide = area.width >= WIDE;
        let columns = if is_wide { TASK_HEAD.len() } else { TASK_HEAD.len() - 1 };
        let mut widths = [4, 7, 7, 7, 7, 7].map(Constraint::Length).to_vec();
        widths.extend([Constraint::Fill(3), Constraint::Fill(2)]);
        if is_wide {
            widths.push(Constraint::Fill(5));
        }
        let sorted_by = match self.order {
            Order::Number => 1,
            Order::Since => 3,
            Order::Polls => 4,
            Order::Rate => 5,
            Order::Name => 6,
        };
        let head = TASK_HEAD.iter().take(columns).enumerate().map(|(column, name)| {
            let style = if column == sorted_by { Style::from(Modifier::UNDERLINED) } else { Style::new() };
            cell((*name).to_owned(), column < 6).style(style)
        });
        let rows = tasks[self.scroll..last].iter().map(|task| {
            let cells = cells::task(task);
            Row::new(cells.into_iter().take(columns).enumerate().map(|(column, text)| cell(text, column < 6)))
        });
        let table = Table::new(rows, widths).header(Row::new(head).style(Modifier::BOLD)).block(
            Block::new().borders(Borders::TOP).title(format!(" {}{place} ", cells::task_title(&self.view))),
        );
        frame.render_widget(table, area);
    }
}

fn draw_cores(
    frame: &mut Frame<'_>,
    area: Rect,
    head: &[&str],
    widths: &[u16],
    cores: &[CoreRow],
    cells: impl Fn(&CoreRow) -> Vec<String>,
) {
    let room = |columns: usize| {
        // A space stands between two columns.
        widths.iter().take(columns).map(|width| width + 1).sum::<u16>() <= area.width + 1
    };
    let columns = (1..=widths.len()).rev().find(|columns| room(*columns)).unwrap_or(1);
    let rows = cores.iter().map(|core| {
        let style = if core.is_silent { Style::from(Color::Red) } else { Style::new() };
        Row::new(cells(core).into_iter().take(columns).map(|text| cell(text, true))).style(style)
    });
    let head = head.iter().take(columns).map(|name| cell((*name).to_owned(), true));
    let widths = widths.iter().take(columns).map(|width| Constraint::Length(*width));
    frame.render_widget(Table::new(rows, widths).header(Row::new(head).style(Modifier::BOLD)), area);
}

/// The words, which say what the numbers are of, have what room is left.
fn draw_namespaces(frame: &mut Frame<'_>, area: Rect, namespaces: &[NamespaceRow]) {
    let mut widths = NAMESPACE_WIDTHS.map(Constraint::Length).to_vec();
    widths.extend([Constraint::Length(17), Constraint::Fill(1)]);
    let numbers = NAMESPACE_WIDTHS.len();
    let rows = namespaces.iter().map(|row| {
        let cells = cells::namespace(row).into_iter().enumerate();
        Row::new(cells.map(|(column, text)| cell(text, column < numbers)))
    });
    let head = NAMESPACE_HEAD.iter().enumerate();
    let head = head.map(|(column, name)| cell((*name).to_owned(), column < numbers));
    frame.render_widget(Table::new(rows, widths).header(Row::new(head).style(Modifier::BOLD)), area);
}

/// Numbers stand on the right.
fn cell(text: String, is_number: bool) -> Cell<'static> {
    let alignment = if is_number { Alignment::Right } else { Alignment::Left };
    Cell::from(Text::from(text).alignment(alignment))
}

#[cfg(test)]
mod tests;
