//! Labels as a trie of tokens, and their probabilities.
//!
//! Each label is closed by the end token. P(label) is the product, over the branch points on its way, of a softmax
//! restricted to that node's children: it sums to one over the labels, needs no correction for length, lets a label begin
//! another, and asks the model nothing where there is only one way on.

use super::error::DataError;
use super::tokenizer::Tokenizer;

/// A node: the tokens that may follow what leads to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The tokens that lead here from the beginning of the answer.
    pub prefix: Vec<u32>,
    /// What may follow: the token, and the node it leads to.
    pub children: Vec<(u32, usize)>,
    /// The label that ends here; such a node has no children.
    pub label: Option<usize>,
}

/// The labels of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trie {
    /// Node 0 is the beginning; a node stands after the one that leads to it, all below a node before its next sibling.
    pub nodes: Vec<Node>,
    labels: usize,
}

impl Trie {
    /// The trie of some labels, in the order that [`log_probs`](Self::log_probs) answers in.
    pub fn new(labels: &[String], tokenizer: &Tokenizer) -> Result<Self, DataError> {
        let tokens: Vec<Vec<u32>> = labels.iter().map(|l| tokenizer.encode(l)).collect();
        Self::of(labels, &tokens, tokenizer.end_token())
    }

    /// The same of labels whose tokens are known.
    pub fn of(labels: &[String], tokens: &[Vec<u32>], end: u32) -> Result<Self, DataError> {
        Self::from_tokens(tokens, end)
            .map_err(|i| DataError::recipe(format!("label '{}' is there twice or empty; give each class a name of its own", labels[i])))
    }

    /// The trie of some token sequences without their end token. An empty sequence, or one that is there twice, is an
    /// error with its index.
    pub fn from_tokens(labels: &[Vec<u32>], end: u32) -> Result<Self, usize> {
        let mut trie = Self { nodes: vec![Node::default()], labels: labels.len() };
        for (i, label) in labels.iter().enumerate() {
            if label.is_empty() || label.contains(&end) || labels[..i].contains(label) {
                return Err(i);
            }
        }
        // Siblings keep the order of the first label that goes through them.
        let mut order: Vec<usize> = (0..labels.len()).collect();
        order.sort_by_key(|&i| Self::path_key(labels, i));
        for &i in &order {
            let mut at = 0;
            for &token in labels[i].iter().chain(std::iter::once(&end)) {
                at = match trie.nodes[at].children.iter().find(|c| c.0 == token) {
                    Some(&(_, next)) => next,
                    None => {
                        let next = trie.nodes.len();
                        let mut prefix = trie.nodes[at].prefix.clone();
                        prefix.push(token);
                        trie.nodes.push(Node { prefix, ..Node::default() });
                        trie.nodes[at].children.push((token, next));
                        next
                    }
                };
            }
            trie.nodes[at].label = Some(i);
        }
        Ok(trie)
    }

    /// At each depth the first label that shares the path so far: labels under one node come out next to each other.
    fn path_key(labels: &[Vec<u32>], i: usize) -> Vec<usize> {
        (1..=labels[i].len())
            .map(|n| labels.iter().position(|l| l.get(..n) == Some(&labels[i][..n])).unwrap_or(i))
            .chain(std::iter::once(i))
            .collect()
    }

    /// How many labels there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.labels
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.labels == 0
    }

    /// The nodes at which there is a choice, in order: the only ones whose logits are needed.
    pub fn branches(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().enumerate().filter(|(_, n)| n.children.len() > 1)
    }

    /// The natural log-probability of each label. `logits(node)` gives the model's logits of that node's children, in their
    /// order, after the prompt and the node's prefix; it is asked only at [`branches`](Self::branches), in order.
    ///
    /// # Panics
    /// If `logits` gives another number of values than there are children.
    pub fn log_probs<E>(&self, mut logits: impl FnMut(&Node) -> Result<Vec<f32>, E>) -> Result<Vec<f64>, E> {
        let mut reached = vec![0.0; self.nodes.len()];
        let mut out = vec![f64::NEG_INFINITY; self.labels];
        for (i, node) in self.nodes.iter().enumerate() {
            if let Some(label) = node.label {
                out[label] = reached[i];
            }
            match node.children.as_slice() {
                [] => {}
                [(_, only)] => reached[*only] = reached[i],
                children => {
                    let logits = logits(node)?;
                    assert_eq!(logits.len(), children.len(), "a logit for each child");
                    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                    let log_sum = largest + logits.iter().map(|&l| (f64::from(l) - largest).exp()).sum::<f64>().ln();
                    for (&(_, child), &logit) in children.iter().zip(&logits) {
                        reached[child] = reached[i] + f64::from(logit) - log_sum;
                    }
                }
            }
        }
        Ok(out)
    }
}

/// The label of the largest probability (or log-probability); the first of equals.
#[must_use]
pub fn likeliest(probs: &[f64]) -> usize {
    (1..probs.len()).fold(0, |best, i| if probs[i] > probs[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    #[test]
    fn a_label_may_begin_another() {
        let trie = Trie::from_tokens(&[vec![1], vec![1, 2], vec![3, 4, 5]], 9).unwrap();
        let asked: Vec<Vec<u32>> = trie.branches().map(|b| b.1.prefix.clone()).collect();
        assert_eq!(asked, [vec![], vec![1]]);
        let p = trie
            .log_probs(|node| Ok::<_, Infallible>(if node.prefix.is_empty() { vec![0.0, 3f32.ln()] } else { vec![4f32.ln(), 0.0] }))
            .unwrap();
        for (got, want) in p.iter().zip([0.25 * 0.8, 0.25 * 0.2, 0.75]) {
            assert!((got.exp() - want).abs() < 1e-6);
        }
    }

    #[test]
    fn twice_empty_or_ended_labels_are_refused() {
        assert_eq!(Trie::from_tokens(&[vec![1], vec![1]], 9), Err(1));
        assert_eq!(Trie::from_tokens(&[vec![1], vec![]], 9), Err(1));
        assert_eq!(Trie::from_tokens(&[vec![9]], 9), Err(0));
    }

    #[test]
    fn one_label_is_certain_and_asks_nothing() {
        let trie = Trie::from_tokens(&[vec![1, 2]], 9).unwrap();
        assert_eq!(trie.log_probs(|_| -> Result<_, ()> { Err(()) }), Ok(vec![0.0]));
    }

    proptest! {
        #[test]
        fn probabilities_sum_to_one(labels in prop::collection::btree_set(prop::collection::vec(0u32..4, 1..5), 1..12), seed in 0u64..99) {
            let labels: Vec<Vec<u32>> = labels.into_iter().collect();
            let trie = Trie::from_tokens(&labels, 9).unwrap();
            let mut rng = crate::rng::Rng::new(seed);
            let p = trie.log_probs(|n| Ok::<_, Infallible>(n.children.iter().map(|_| 5.0 * rng.normal() as f32).collect())).unwrap();
            prop_assert!((p.iter().map(|l| l.exp()).sum::<f64>() - 1.0).abs() < 1e-9);
            prop_assert_eq!(trie.nodes.iter().filter(|n| n.label.is_some()).count(), labels.len());
            for (i, node) in trie.nodes.iter().enumerate() {
                prop_assert!(node.children.iter().all(|&(_, c)| c > i));
            }
        }
    }
}
