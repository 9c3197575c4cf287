use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::{Import, ImportedKey};

const LISTED_MAX: usize = 1_000;

/// Whether a problem stops the import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The CSV is not used.
    Error,
    /// The CSV is used; someone should look.
    Warning,
}

/// Something wrong with a CSV, or that looks wrong: where, what and what to
/// do. Holds no credential.
///
/// Shown as `api_keys.csv:3: error: api_key: is empty; …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether it stops the import.
    pub severity: Severity,
    /// The CSV's path.
    pub file: Arc<str>,
    /// The line, from 1, as an editor counts them; absent when it is the
    /// file as a whole.
    pub line: Option<u32>,
    /// The column's name; absent when it is the row as a whole.
    pub column: Option<&'static str>,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(match self.severity {
            Severity::Error => ": error: ",
            Severity::Warning => ": warning: ",
        })?;
        if let Some(column) = self.column {
            write!(f, "{column}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// Collects problems, keeps a bounded number, counts all.
pub(super) struct Problems {
    file: Arc<str>,
    errors: Listed,
    warnings: Listed,
}

#[derive(Default)]
struct Listed {
    problems: Vec<Problem>,
    count: usize,
}

impl Problems {
    pub(super) fn of(path: &Path) -> Self {
        Self {
            file: path.display().to_string().into(),
            errors: Listed::default(),
            warnings: Listed::default(),
        }
    }

    pub(super) fn error(
        &mut self,
        line: Option<u32>,
        column: Option<&'static str>,
        message: impl Into<String>,
    ) {
        let problem = self.problem(Severity::Error, line, column, message.into());
        self.errors.push(problem);
    }

    pub(super) fn warning(
        &mut self,
        line: Option<u32>,
        column: Option<&'static str>,
        message: impl Into<String>,
    ) {
        let problem = self.problem(Severity::Warning, line, column, message.into());
        self.warnings.push(problem);
    }

    /// The end of an import: no keys when there was an error.
    pub(super) fn into_import(self, keys: Vec<ImportedKey>) -> Import {
        let more = self.more();
        let mut problems = self.errors.problems;
        problems.extend(self.warnings.problems);
        problems.sort_by_key(|problem| problem.line);
        problems.extend(more);
        Import {
            keys: if self.errors.count == 0 { keys } else { Vec::new() },
            problems,
            errors_count: self.errors.count,
        }
    }

    fn more(&self) -> Vec<Problem> {
        let lists = [
            (Severity::Error, &self.errors, "errors"),
            (Severity::Warning, &self.warnings, "warnings"),
        ];
        lists
            .into_iter()
            .filter(|(_, listed, _)| listed.count > LISTED_MAX)
            .map(|(severity, listed, name)| {
                let count = listed.count - LISTED_MAX;
                self.problem(severity, None, None, format!("and {count} more {name}"))
            })
            .collect()
    }

    fn problem(
        &self,
        severity: Severity,
        line: Option<u32>,
        column: Option<&'static str>,
        message: String,
    ) -> Problem {
        Problem { severity, file: Arc::clone(&self.file), line, column, message }
    }
}

impl Listed {
    fn push(&mut self, problem: Problem) {
        self.count += 1;
        if self.problems.len() < LISTED_MAX {
            self.problems.push(problem);
        }
    }
}
