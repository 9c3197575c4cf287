use std::ops::Bound;

use crate::id::ModelName;
use crate::state::State;

/// How many known names on either side of an unknown one are compared.
const NEIGHBOURS: usize = 256;
/// Longer names are neither compared nor suggested.
const NAME_BYTES_MAX: usize = 256;
/// How many near names an answer has at most.
const SUGGESTIONS_MAX: usize = 3;
/// How alike a name must be to be suggested (Jaro-Winkler, 0 to 1).
const LIKENESS_MIN: f64 = 0.8;

/// Known names like `model`, looked for among its neighbours in the alphabet,
/// so that the cost has a bound.
pub(crate) fn nearest(state: &State, model: &ModelName) -> Vec<ModelName> {
    if model.as_str().len() > NAME_BYTES_MAX {
        return Vec::new();
    }
    let below = (Bound::Unbounded, Bound::Excluded(model.clone()));
    let above = (Bound::Excluded(model.clone()), Bound::Unbounded);
    let before = state.pool_index.range(below).rev().take(NEIGHBOURS);
    let after = state.pool_index.range(above).take(NEIGHBOURS);
    let mut near: Vec<(f64, &ModelName)> = before
        .chain(after)
        .filter(|(_, pool)| state.pools[pool.0 as usize].counts().all() > 0)
        .filter(|(name, _)| name.as_str().len() <= NAME_BYTES_MAX)
        .map(|(name, _)| (strsim::jaro_winkler(model.as_str(), name.as_str()), name))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .collect();
    near.sort_by(|(a, a_name), (b, b_name)| b.total_cmp(a).then_with(|| a_name.cmp(b_name)));
    near.into_iter().take(SUGGESTIONS_MAX).map(|(_, name)| name.clone()).collect()
}
