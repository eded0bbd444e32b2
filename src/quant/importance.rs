//! How much the columns of a model's matrices matter.

use std::collections::BTreeMap;

/// For each tensor by name, the mean square of what its columns are multiplied with, a number a column.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importance(pub BTreeMap<String, Vec<f32>>);

impl Importance {
    /// A tensor's, if it is known.
    #[must_use]
    pub fn of(&self, tensor: &str) -> Option<&[f32]> {
        self.0.get(tensor).map(Vec::as_slice)
    }
}
