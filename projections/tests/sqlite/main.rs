//! The SQLite projection from outside: its file, histories, kills and damage.

#[cfg(test)]
mod damage;
#[cfg(test)]
mod documented_questions;
#[cfg(test)]
mod file;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod kill;
#[cfg(test)]
mod reports;
#[cfg(test)]
mod rows;
