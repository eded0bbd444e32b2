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

    /// The sum of the weights: what the batch counts in its step.
    #[must_use]
    pub fn total_weight(&self) -> f64 {
        self.weights.iter().map(|&w| f64::from(w)).sum()
    }
}
