//! The SQLite projection from outside: its file, histories, kills and damage.

mod damage;
mod documented_questions;
mod file;
mod histories;
mod kill;
mod reports;
mod rows;
