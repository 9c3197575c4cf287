use crate::sum_tree::SumTree;

/// The draws of one call: SplitMix64 from the call's seed.
///
/// # Source
/// Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
/// OOPSLA 2014.
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound`; the bias is below bound / 2^64.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A leaf by weight, none of those cut out; none when no weight is left.
    /// The point is drawn on what remains of the line of weights and moved past
    /// each cut before it.
    pub(crate) fn leaf(&mut self, weights: &SumTree, cuts: &Cuts) -> Option<usize> {
        let left = cuts.left(weights);
        if left == 0 {
            return None;
        }
        let mut point = self.below(left);
        for (start, weight) in &cuts.cuts {
            if point < *start {
                break;
            }
            point += weight;
        }
        Some(weights.leaf_at(point))
    }
}

/// Leaves that are out of a draw, as parts of the line of weights.
#[derive(Default)]
pub(crate) struct Cuts {
    /// (where it starts, how long it is), from left to right; none is empty.
    cuts: Vec<(u64, u64)>,
    weight: u64,
}

impl Cuts {
    pub(crate) fn new(weights: &SumTree, leaves: impl Iterator<Item = usize>) -> Self {
        let mut cuts = Self::default();
        leaves.for_each(|leaf| cuts.add(weights, leaf));
        cuts
    }

    /// How many leaves with a weight are out.
    pub(crate) fn len(&self) -> usize {
        self.cuts.len()
    }

    /// The weight that stands for the draw.
    pub(crate) fn left(&self, weights: &SumTree) -> u64 {
        weights.total() - self.weight
    }

    /// Cuts out a leaf that is not out yet.
    pub(crate) fn add(&mut self, weights: &SumTree, leaf: usize) {
        let weight = weights.get(leaf);
        if weight == 0 {
            return;
        }
        let start = weights.sum_before(leaf);
        let place = self.cuts.partition_point(|(other, _)| *other < start);
        self.cuts.insert(place, (start, weight));
        self.weight += weight;
    }
}
