//! Where errors and warnings go: standard error, or the file that `--log` names, in a form that engines read.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context as LayerContext, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Global, LogFormat};

#[derive(Serialize)]
struct Line<'a> {
    level: &'a str,
    msg: &'a str,
    time: &'a str,
}

fn line(format: LogFormat, level: &str, text: &str) -> String {
    let time = container::rfc3339(SystemTime::now());
    match format {
        LogFormat::Json => {
            let line = Line { level, msg: text, time: &time };
            serde_json::to_string(&line).unwrap_or_default() + "\n"
        }
        LogFormat::Text => format!("time=\"{time}\" level={level} msg={text:?}\n"),
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Sets up logging.
///
/// # Errors
/// If the file cannot be opened.
pub fn start(global: &Global) -> anyhow::Result<()> {
    if let Some(path) = &global.log {
        open(path).with_context(|| format!("cannot open the log {}", path.display()))?;
    }
    let (path, format) = (global.log.clone(), global.log_format);
    let sink = Sink { process: std::process::id(), path, format, level: level(global) };
    tracing_subscriber::registry().with(sink).init();
    Ok(())
}

/// What is logged: warnings, or what `--debug` or `NACELLE_LOG` (`error`, `info`, `debug`) says.
fn level(global: &Global) -> Level {
    let wanted = std::env::var("NACELLE_LOG").ok().and_then(|level| level.parse().ok());
    wanted.unwrap_or(if global.debug { Level::DEBUG } else { Level::WARN })
}

/// Writes the error that ends the command to the log, where engines look for it.
pub fn error(global: &Global, text: &str) {
    if let Some(path) = &global.log {
        let written =
            open(path).and_then(|mut file| file.write_all(line(global.log_format, "error", text).as_bytes()));
        if let Err(error) = written {
            eprintln!("nacelle: cannot write to the log: {error}");
        }
    }
}

/// Opens the file for each line: a descriptor would be closed behind its back in processes that are forked from this
/// one. Those write to standard error, which is where their maker wants it.
struct Sink {
    process: u32,
    path: Option<PathBuf>,
    format: LogFormat,
    level: Level,
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0.insert_str(0, &format!("{value:?}"));
        } else {
            self.0 += &format!(" {}={value:?}", field.name());
        }
    }
}

impl<S: Subscriber> Layer<S> for Sink {
    fn on_event(&self, event: &Event<'_>, _context: LayerContext<'_, S>) {
        let level = *event.metadata().level();
        if level > self.level {
            return;
        }
        let mut message = Message::default();
        event.record(&mut message);
        let name = match level {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            _ => "debug",
        };
        // There is nobody to tell that there is nobody to tell.
        let _ = match &self.path {
            Some(path) if std::process::id() == self.process => {
                open(path).and_then(|mut file| file.write_all(line(self.format, name, &message.0).as_bytes()))
            }
            _ => writeln!(io::stderr(), "nacelle: {name}: {}", message.0),
        };
    }
}
