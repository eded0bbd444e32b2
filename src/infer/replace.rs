//! Other formats for a loaded model's matrices, one at a time: what a search over formats measures.

use super::{Model, Packed};
use crate::quant::GgmlType;
use crate::simd::panel::Dots;

impl Model {
    /// A matrix by its tensor's name; none where the model has no such matrix.
    fn matrix_mut(&mut self, name: &str) -> Option<&mut Packed> {
        match name {
            "token_embd.weight" => return Some(&mut self.token_embd),
            "output.weight" => return self.output.as_mut(),
            _ => {}
        }
        let (number, part) = name.strip_prefix("blk.")?.split_once('.')?;
        let block = self.blocks.get_mut(number.parse::<usize>().ok()?)?;
        Some(match part {
            "attn_qkv.weight" => &mut block.attn_qkv.w,
            "attn_output.weight" => &mut block.attn_output.w,
            "ffn_up.weight" => &mut block.ffn_up.w,
            "ffn_down.weight" => &mut block.ffn_down.w,
            _ => return None,
        })
    }

    /// Puts another matrix in a tensor's place and gives back the one that was there.
    ///
    /// # Panics
    /// If the model has no such matrix, or it is of another size.
    pub fn replace(&mut self, name: &str, matrix: Packed) -> Packed {
        let place = self.matrix_mut(name).unwrap_or_else(|| panic!("{name} is a matrix of the model"));
        assert_eq!((place.rows(), place.cols()), (matrix.rows(), matrix.cols()), "{name}: a matrix of the same size");
        std::mem::replace(place, matrix)
    }

    /// A matrix for [`replace`](Self::replace): `bytes` are its rows of `cols` weights, encoded as `ty`, a quantized format.
    ///
    /// # Panics
    /// If `ty` is a format of floats, or `bytes` are no whole number of rows.
    #[must_use]
    pub fn pack(&self, ty: GgmlType, bytes: &[u8], cols: usize) -> Packed {
        Packed::of_rows(ty, bytes, cols, Dots::under(self.isa))
    }
}
