use std::io;
use std::process::ExitCode;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did what it was asked.
    Ok,
    /// The answer is no.
    No,
    /// The command line or the configuration is wrong.
    Usage,
    /// The server cannot be reached.
    Unreachable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::No => 1,
            Exit::Usage => 2,
            Exit::Unreachable => 3,
        })
    }
}

/// Why a command did not do what it was asked; texts may come from a server
/// and are escaped when they are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// How the program ends because of it.
    pub(crate) exit: Exit,
    /// What happened; empty when nobody is left to read it.
    pub(crate) message: String,
    /// One line each, below the message.
    pub(crate) details: Vec<String>,
    /// What to do, one line each.
    pub(crate) hints: Vec<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), details: Vec::new(), hints: Vec::new() }
    }

    /// A reason of our own, of which lines after the first are details. What
    /// others wrote must not be taken apart: they could forge a line.
    pub(crate) fn of_lines(exit: Exit, reason: &str) -> Self {
        let mut lines = reason.lines().filter(|line| !line.is_empty());
        let failure = Self::new(exit, lines.next().unwrap_or_default());
        lines.fold(failure, Self::detail)
    }

    /// The answer is no.
    pub(crate) fn no(message: impl Into<String>) -> Self {
        Self::new(Exit::No, message)
    }

    /// The command line, the configuration or a local file is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

/// Of writing the output. Whoever closed the pipe has seen enough.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Ok, ""),
            _ => Self::no(format!("standard output cannot be written: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_after_the_first_are_details() {
        let reason = "no permission. The policy:\n\npath \"a\" {}\npath \"b\" {}\n";
        let failure = Failure::of_lines(Exit::No, reason);
        assert_eq!(failure.message, "no permission. The policy:");
        assert_eq!(failure.details, ["path \"a\" {}", "path \"b\" {}"]);
    }

    #[test]
    fn a_closed_pipe_is_not_worth_a_word() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::Ok, ""));
        let failure = Failure::from(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(failure.exit, Exit::No);
    }
}
