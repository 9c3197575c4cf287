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
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A leaf by weight, none of those cut out; none when no weight is left.
    pub(crate) fn leaf(&mut self, weights: &SumTree, cuts: &Cuts) -> Option<usize> {
        let left = cuts.left(weights);
        (left > 0).then(|| cuts.leaf_at(weights, self.below(left)))
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

    /// The leaf that covers `point` when what is left of the weights lies end to
    /// end: the point is moved past each cut before it.
    fn leaf_at(&self, weights: &SumTree, mut point: u64) -> usize {
        for (start, weight) in &self.cuts {
            if point < *start {
                break;
            }
            point += weight;
        }
        weights.leaf_at(point)
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn tree(weights: &[u64]) -> SumTree {
        let mut tree = SumTree::default();
        for weight in weights {
            let leaf = tree.push();
            tree.set(leaf, *weight);
        }
        tree
    }

    /// The leaves that come up in many draws around these cuts.
    fn drawn(weights: &[u64], out: &[usize]) -> HashSet<usize> {
        let tree = tree(weights);
        let cuts = Cuts::new(&tree, out.iter().copied());
        let mut draw = Draw::new(1);
        (0..1_000).filter_map(|_| draw.leaf(&tree, &cuts)).collect()
    }

    #[test]
    fn draws_go_around_every_cut() {
        let weights = [3, 0, 4, 5, 0, 6, 7];
        for (out, left) in [
            (&[][..], &[0, 2, 3, 5, 6][..]),
            (&[0], &[2, 3, 5, 6]),
            (&[6], &[0, 2, 3, 5]),
            (&[0, 6], &[2, 3, 5]),
            (&[6, 0], &[2, 3, 5]),
            (&[2, 3], &[0, 5, 6]),
            (&[3, 2], &[0, 5, 6]),
            (&[1, 4], &[0, 2, 3, 5, 6]),
            (&[1, 0, 4, 5], &[2, 3, 6]),
            (&[0, 2, 3, 5], &[6]),
            (&[6, 5, 3, 2], &[0]),
            (&[0, 1, 2, 3, 4, 5, 6], &[]),
        ] {
            assert_eq!(drawn(&weights, out), left.iter().copied().collect(), "without {out:?}");
        }
    }

    #[test]
    fn nothing_is_drawn_where_nothing_weighs() {
        assert_eq!(drawn(&[], &[]), HashSet::new());
        assert_eq!(drawn(&[0, 0], &[]), HashSet::new());
    }

    #[test]
    fn numbers_stay_below_their_bound() {
        let mut draw = Draw::new(u64::MAX);
        assert!((0..1_000).all(|_| draw.below(1) == 0 && draw.below(u64::MAX) < u64::MAX));
    }

    proptest! {
        /// Every point of what is left leads to a leaf that is not out, as
        /// often as the leaf weighs.
        #[test]
        fn what_is_left_keeps_its_weights(
            weights in proptest::collection::vec(0u64..9, 1..60),
            out in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let tree = tree(&weights);
            let out: HashSet<usize> = out.iter().map(|leaf| leaf.index(weights.len())).collect();
            let cuts = Cuts::new(&tree, out.iter().copied());
            let mut left = weights.clone();
            out.iter().for_each(|leaf| left[*leaf] = 0);
            let mut counts = vec![0; weights.len()];
            for point in 0..cuts.left(&tree) {
                counts[cuts.leaf_at(&tree, point)] += 1;
            }
            prop_assert_eq!(counts, left);
            let weighty = out.iter().filter(|leaf| weights[**leaf] > 0).count();
            prop_assert_eq!(cuts.len(), weighty);
        }
    }
}
