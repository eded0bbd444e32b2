//! The facts of one batch, as the host gathers them: what is read, from where attention may see, what counts.

/// `b` rows of `t` tokens, in host memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostBatch {
    /// Sequences.
    pub b: usize,
    /// Positions of each.
    pub t: usize,
    /// Token ids, `(B, T)`.
    pub tokens: Vec<u32>,
    /// Position of each token within its document, `(B, T)`; without packing `0..T` in each row.
    pub positions: Vec<u32>,
    /// The row of its sequence at which each token's document starts, `(B, T)`; without packing all 0.
    pub starts: Vec<u32>,
    /// Rows `0..B T` whose next token counts, ascending.
    pub rows: Vec<u32>,
    /// The token that should come next, for each of `rows`.
    pub targets: Vec<u32>,
    /// What the cross entropy of each of `rows` counts, relative to the others (1, or the prompt's loss weight).
    /// The trainer divides by the sum over the whole step.
    pub weights: Vec<f32>,
}

impl HostBatch {
    /// `b` rows of one unbroken document each, in which every target counts 1: pre-training.
    ///
    /// # Panics
    /// If either slice is not `b t` long.
    #[must_use]
    pub fn unbroken(b: usize, t: usize, tokens: &[u32], targets: &[u32]) -> Self {
        assert_eq!((tokens.len(), targets.len()), (b * t, b * t));
        Self {
            b,
            t,
            tokens: tokens.to_vec(),
            positions: (0..b * t).map(|i| (i % t) as u32).collect(),
            starts: vec![0; b * t],
            rows: (0..(b * t) as u32).collect(),
            targets: targets.to_vec(),
            weights: vec![1.0; b * t],
        }
    }

    /// Makes each `end` token begin a document of its own: attention and positions do not reach back over it.
    pub fn cut_at(&mut self, end: u32) {
        for (row, tokens) in self.tokens.chunks(self.t).enumerate() {
            let mut start = 0;
            for (i, &token) in tokens.iter().enumerate() {
                if token == end {
                    start = i;
                }
                (self.starts[row * self.t + i], self.positions[row * self.t + i]) = (start as u32, (i - start) as u32);
            }
        }
    }

    /// The sum of the weights: what the batch counts in its step.
    #[must_use]
    pub fn total_weight(&self) -> f64 {
        self.weights.iter().map(|&w| f64::from(w)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_cut_where_they_begin() {
        let mut batch = HostBatch::unbroken(2, 4, &[5, 9, 6, 9, 9, 7, 7, 9], &[0; 8]);
        batch.cut_at(9);
        assert_eq!(batch.starts, [0, 1, 1, 3, 0, 0, 0, 3]);
        assert_eq!(batch.positions, [0, 0, 1, 0, 0, 1, 2, 0]);
    }
}
