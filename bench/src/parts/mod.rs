//! The parts of the benchmark, one file each.

mod core;
mod history;
mod idle;
mod pool;
mod restart;
mod select;
mod start;

use clap::ValueEnum;

pub(crate) use self::core::session_memory;
use crate::Place;
use crate::row::Row;

/// A part, by the name that the command line has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// A select against the floor, one and 64 in flight.
    Select,
    /// A select in a pool of 100,000 keys against one in a pool of 10.
    Pool,
    /// The rules alone: time of a select, memory of a session.
    Core,
    /// Start and import with 100,000 keys.
    Start,
    /// Memory and processor time while nobody calls.
    Idle,
    /// Restart with 1,000,000 live sessions and 10,000,000 past events.
    Restart,
}

impl Part {
    /// Measures it.
    pub(crate) async fn run(self, place: &Place) -> anyhow::Result<Vec<Row>> {
        match self {
            Self::Select => select::measure(place).await,
            Self::Pool => pool::measure(place).await,
            Self::Core => core::measure(),
            Self::Start => start::measure(place).await,
            Self::Idle => idle::measure(place).await,
            Self::Restart => restart::measure(place).await,
        }
    }
}
