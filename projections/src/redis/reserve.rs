use std::collections::BTreeMap;

use key_server_core::KeyId;
use redis::from_redis_value;

use crate::fleet::{Hold, Reservation, ReservationForModel};
use crate::redis::Shared;
use crate::redis::clock::Offset;
use crate::redis::fault::Fault;
use crate::redis::names;
use crate::redis::rows::session_name;

/// How long a reservation lasts that nobody confirms.
const RESERVED_MS: u64 = 10_000;

/// Holds of one call.
const HOLDS_MAX: usize = 1_000;

impl Shared {
    /// Reserves keys of each model; answers those that it got.
    pub(crate) async fn reserve(&self, wanted: &Reservation) -> Result<Vec<Vec<KeyId>>, Fault> {
        let (sets, arguments) = question(wanted, names::number(self.node()));
        if sets.is_empty() {
            return Ok(wanted.models.iter().map(first).collect());
        }
        let answer = self.reserver.run(&self.scripts.reserve, &sets, &arguments).await?;
        let places: Vec<Vec<usize>> = from_redis_value(answer)?;
        let given = wanted.models.iter().zip(places).map(|(model, places)| {
            let keys = places.iter().filter_map(|place| model.keys.get(place.checked_sub(1)?));
            keys.map(|(key, _)| *key).collect()
        });
        Ok(given.collect())
    }

    /// Confirms, renews and ends holds.
    pub(crate) async fn hold(&self, holds: &[Hold]) -> Result<(), Fault> {
        let offset = self.known_offset().await?;
        for holds in holds.chunks(HOLDS_MAX) {
            let keys: Vec<String> = holds.iter().map(|hold| names::cap(hold.key)).collect();
            let mut arguments = Vec::with_capacity(1 + 4 * holds.len());
            arguments.push(names::number(self.node()).to_string());
            arguments.extend(holds.iter().flat_map(|hold| of_hold(hold, offset)));
            self.reserver.run(&self.scripts.hold, &keys, &arguments).await?;
        }
        Ok(())
    }
}

/// What the script is to know of a hold.
fn of_hold(hold: &Hold, offset: Offset) -> [String; 4] {
    let until = hold.until.map(|until| offset.to_fleet(until).to_string());
    let came_from = hold.came_from.as_deref().map_or(0, names::number);
    [
        session_name(&hold.session),
        until.unwrap_or_default(),
        came_from.to_string(),
        u8::from(hold.is_reserving).to_string(),
    ]
}

/// The sets of the capped keys, each once, and what the script is to know.
fn question(wanted: &Reservation, node: u32) -> (Vec<String>, Vec<String>) {
    let mut places: BTreeMap<KeyId, usize> = BTreeMap::new();
    let mut sets = Vec::new();
    let models = wanted.models.len();
    let mut arguments = vec![
        session_name(&wanted.session),
        node.to_string(),
        RESERVED_MS.to_string(),
        models.to_string(),
    ];
    for model in &wanted.models {
        arguments.extend([
            model.count.to_string(),
            u8::from(model.is_needed).to_string(),
            model.keys.len().to_string(),
        ]);
        for (key, cap) in &model.keys {
            let place = cap.map_or(0, |_| {
                *places.entry(*key).or_insert_with(|| {
                    sets.push(names::cap(*key));
                    sets.len()
                })
            });
            arguments.extend([place.to_string(), cap.unwrap_or(0).to_string()]);
        }
    }
    (sets, arguments)
}

/// Without caps there is nothing to ask.
fn first(model: &ReservationForModel) -> Vec<KeyId> {
    model.keys.iter().take(model.count).map(|(key, _)| *key).collect()
}
