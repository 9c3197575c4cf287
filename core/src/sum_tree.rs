/// Children of a node: a node is two cache lines, and 100,000 leaves are five
/// levels.
const FAN_OUT: usize = 16;

/// Weights in a row, with sums above them, so that changing one weight and
/// finding the leaf at a point of the total both cost O(log n).
#[derive(Clone, Debug)]
pub(crate) struct SumTree {
    /// `levels[0]` are the weights; each level above sums 16 of the one below;
    /// the last has one element, the total.
    levels: Vec<Vec<u64>>,
    /// How many weights are not zero.
    nonzero: usize,
}

impl Default for SumTree {
    fn default() -> Self {
        Self { levels: vec![Vec::new(), vec![0]], nonzero: 0 }
    }
}

impl SumTree {
    /// How many leaves there are, weightless ones included.
    pub(crate) fn len(&self) -> usize {
        self.levels[0].len()
    }

    /// How many leaves have a weight.
    pub(crate) fn nonzero(&self) -> usize {
        self.nonzero
    }

    /// The sum of all weights.
    pub(crate) fn total(&self) -> u64 {
        self.levels.last().and_then(|top| top.first()).copied().unwrap_or(0)
    }

    /// The weight of one leaf.
    pub(crate) fn get(&self, leaf: usize) -> u64 {
        self.levels[0][leaf]
    }

    /// Appends a leaf without weight and returns its place.
    pub(crate) fn push(&mut self) -> usize {
        let leaf = self.len();
        self.levels[0].push(0);
        let mut width = self.len();
        let mut level = 1;
        while width > 1 {
            width = width.div_ceil(FAN_OUT);
            if level == self.levels.len() {
                let below = self.levels[level - 1].iter().sum();
                self.levels.push(vec![below]);
            } else if self.levels[level].len() < width {
                self.levels[level].push(0);
            }
            level += 1;
        }
        leaf
    }

    /// Gives a leaf another weight. The total must stay below 2^64.
    pub(crate) fn set(&mut self, leaf: usize, weight: u64) {
        let old = self.get(leaf);
        if old == weight {
            return;
        }
        self.nonzero = self.nonzero + usize::from(weight > 0) - usize::from(old > 0);
        let mut place = leaf;
        for level in &mut self.levels {
            level[place] = level[place] - old + weight;
            place /= FAN_OUT;
        }
    }

    /// The sum of the weights before `leaf`.
    pub(crate) fn sum_before(&self, leaf: usize) -> u64 {
        let mut place = leaf;
        let mut sum = 0;
        for level in &self.levels {
            let first = place - place % FAN_OUT;
            sum += level[first..place].iter().sum::<u64>();
            place /= FAN_OUT;
        }
        sum
    }

    /// The leaf that covers `point` when the weights lie end to end.
    /// `point` must be below [`SumTree::total`].
    pub(crate) fn leaf_at(&self, mut point: u64) -> usize {
        let mut place = 0;
        for level in self.levels.iter().rev().skip(1) {
            place *= FAN_OUT;
            while point >= level[place] {
                point -= level[place];
                place += 1;
            }
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_plain_list(
            weights in proptest::collection::vec(0u64..50, 1..700),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), 0u64..50), 0..100),
        ) {
            let mut tree = SumTree::default();
            let mut plain = weights.clone();
            for weight in &weights {
                let leaf = tree.push();
                tree.set(leaf, *weight);
            }
            for (leaf, weight) in changes {
                let leaf = leaf.index(plain.len());
                plain[leaf] = weight;
                tree.set(leaf, weight);
            }
            prop_assert_eq!(tree.total(), plain.iter().sum::<u64>());
            prop_assert_eq!(tree.nonzero(), plain.iter().filter(|w| **w > 0).count());
            let mut before = 0;
            for (leaf, weight) in plain.iter().enumerate() {
                prop_assert_eq!(tree.sum_before(leaf), before);
                for point in before..before + weight {
                    prop_assert_eq!(tree.leaf_at(point), leaf);
                }
                before += weight;
            }
        }
    }

    #[test]
    fn every_leaf_is_found_where_levels_begin() {
        let mut tree = SumTree::default();
        for leaves in 1..=4_200_u64 {
            let leaf = tree.push();
            tree.set(leaf, 2);
            if [1, 2, 15, 16, 17, 255, 256, 257, 4_095, 4_096, 4_097].contains(&leaves) {
                assert_eq!(tree.total(), 2 * leaves);
                assert_eq!(tree.leaf_at(0), 0);
                assert_eq!(tree.leaf_at(2 * leaves - 1), leaf);
                assert_eq!(tree.sum_before(leaf), 2 * (leaves - 1));
            }
        }
    }

    #[test]
    fn an_empty_tree_weighs_nothing() {
        let tree = SumTree::default();
        assert_eq!((tree.total(), tree.len(), tree.nonzero()), (0, 0, 0));
    }
}
