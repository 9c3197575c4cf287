//! The parts of the benchmark, one file each.

mod audit;
mod balance;
mod caps;
mod core;
mod delay;
mod door;
mod fleet;
mod flood;
mod frozen;
mod history;
mod idle;
mod outage;
mod pool;
mod restart;
mod room;
mod select;
mod start;
mod vault;

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
    /// A select with the record against one without.
    Audit,
    /// Silent peers, masses, few open files, a stop among them.
    Door,
    /// Restart with 1,000,000 live sessions and 10,000,000 past events.
    Restart,
    /// A select with Redis against one without, and one with a reservation.
    Fleet,
    /// How two nodes spread picks over keys.
    Balance,
    /// How long until another node knows of a session.
    Delay,
    /// Whether more sessions than the cap hold a key, over four nodes.
    Caps,
    /// A minute without Redis: what is refused or lost.
    Outage,
    /// A select while Redis does not answer.
    Frozen,
    /// What one uid gets while another calls far too often; needs root.
    Flood,
    /// Memory in Redis.
    Room,
    /// Start and import with 10,000 keys in Vault.
    Vault,
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
            Self::Audit => audit::measure(place).await,
            Self::Door => door::measure(place).await,
            Self::Restart => restart::measure(place).await,
            Self::Fleet => fleet::measure(place).await,
            Self::Balance => balance::measure(place).await,
            Self::Delay => delay::measure(place).await,
            Self::Caps => caps::measure(place).await,
            Self::Outage => outage::measure(place).await,
            Self::Frozen => frozen::measure(place).await,
            Self::Flood => flood::measure(place).await,
            Self::Room => room::measure(place).await,
            Self::Vault => vault::measure(place).await,
        }
    }
}
