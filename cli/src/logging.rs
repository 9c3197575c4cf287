//! The log: standard error and, when the settings say so, a file that is
//! opened again on SIGHUP, so that it can be rotated.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use key_server_server::config::{LogFormat, Settings};
use rustix::fs::OFlags;
use rustix::process::geteuid;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::failure::Failure;

/// What libraries say of what peers do on their connections, at whatever level:
/// a peer could fill the log with it. What `log_level` says of one of them by
/// its name counts.
const OF_PEERS: &str = "h2=error,hyper=error,hyper_util=error,tonic=error,tower=error";

/// A log file that can be opened again under the same name.
#[derive(Clone)]
pub(crate) struct LogFile {
    path: Arc<PathBuf>,
    file: Arc<Mutex<File>>,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = Mutex::new(append_to(path)?);
        Ok(Self { path: Arc::new(path.to_owned()), file: Arc::new(file) })
    }

    /// Goes on in a new file when the old one was moved away.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        let file = append_to(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }
}

/// Opens a log, making it if it is not there: a file, or a terminal, null or a
/// pipe. Where others can write, it is not looked for behind a link, and must be
/// ours. Nobody waits for who reads it: a pipe that nobody reads is an error,
/// and what a full one does not take is lost.
fn append_to(path: &Path) -> io::Result<File> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let is_open = is_open_to_others(&dir.metadata()?);
    let links = if is_open { OFlags::NOFOLLOW } else { OFlags::empty() };
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY | links).bits().cast_signed();
    let mut options = OpenOptions::new();
    let file = options.append(true).create(true).mode(0o600).custom_flags(flags).open(path);
    let file = match file {
        Err(_) if is_open && path.is_symlink() => {
            return Err(io::Error::other("it is a symbolic link where others can write"));
        }
        opened => opened?,
    };
    match unfit(&file.metadata()?, is_open) {
        Some(what) => Err(io::Error::other(what)),
        None => Ok(file),
    }
}

/// Whether others than we and root can put something there.
fn is_open_to_others(dir: &Metadata) -> bool {
    dir.mode() & 0o022 != 0 || !is_own(dir)
}

fn is_own(metadata: &Metadata) -> bool {
    metadata.uid() == 0 || metadata.uid() == geteuid().as_raw()
}

/// Why what was opened is not written to.
fn unfit(found: &Metadata, is_open: bool) -> Option<&'static str> {
    let kind = found.file_type();
    match () {
        () if kind.is_char_device() => None,
        () if kind.is_fifo() && !is_own(found) => Some("it is a pipe of another user"),
        () if kind.is_fifo() => None,
        () if !kind.is_file() => Some("it is no regular file"),
        () if is_open && !is_own(found) => {
            Some("it belongs to another user, where others can write")
        }
        () if is_open && found.nlink() > 1 => Some("it is a hard link, where others can write"),
        () => None,
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

/// Begins to log as the settings say.
///
/// # Errors
/// A log file that cannot be opened, a filter that cannot be read; exit code 2.
pub(crate) fn start(settings: &Settings) -> Result<Option<LogFile>, Failure> {
    let filter =
        EnvFilter::try_new(format!("{OF_PEERS},{}", settings.log_level)).map_err(|error| {
            Failure::usage(format!("log_level is {:?}: {error}", settings.log_level))
                .hint("write error, warn, info, debug or trace")
        })?;
    let file = match settings.log_file.as_path() {
        path if path == Path::new("") => None,
        path => Some(LogFile::open(path).map_err(|error| cannot_open(path, &error))?),
    };
    let format = settings.log_format;
    let layers = [Some(layer(io::stderr, format, io::IsTerminal::is_terminal(&io::stderr())))];
    let layers = layers.into_iter().chain([file.clone().map(|file| layer(file, format, false))]);
    let layers: Vec<_> = layers.flatten().collect();
    tracing_subscriber::registry()
        .with(layers.with_filter(filter))
        .try_init()
        .map_err(|error| Failure::usage(format!("the log cannot be started: {error}")))?;
    Ok(file)
}

fn cannot_open(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("the log file {} cannot be opened: {error}", path.display()))
        .hint("set KEY_SERVER_LOG_FILE to another path, or to \"\" in the settings file for none")
}

fn layer<W>(writer: W, format: LogFormat, ansi: bool) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer).with_ansi(ansi).with_target(false);
    match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().boxed(),
    }
}
