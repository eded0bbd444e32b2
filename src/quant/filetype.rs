//! Which tensor of a GPT-2 gets which format: llama.cpp's choices under llama.cpp's names, so that equal names mean equal
//! sizes and quality.
//!
//! Matrices get the file type's own format but for those that hurt most: the head (which is the token embedding where it
//! is tied), `attn_qkv`, `ffn_down` and, in the smallest types, `attn_output`. Norms, biases and the position embedding are
//! never touched. A row that is no multiple of 256 gets a format of 32-weight blocks, one that is no multiple of 32 `F16`.
//!
//! | type | `attn_qkv` | `attn_output` | `ffn_up` | `ffn_down` | head |
//! | --- | --- | --- | --- | --- | --- |
//! | Q2_K | Q3_K | Q3_K | Q2_K | Q3_K | Q6_K |
//! | Q3_K_S | Q3_K | Q3_K | Q3_K | Q3_K | Q6_K |
//! | Q3_K_M | Q5_K in blocks 0 and 1, else Q4_K | Q4_K | Q3_K | Q5_K in the first 16th of the blocks, else Q4_K | Q6_K |
//! | Q3_K_L | Q5_K | Q5_K | Q3_K | Q5_K | Q6_K |
//! | Q4_K_S | Q5_K in blocks 0 to 3, else Q4_K | Q4_K | Q4_K | Q5_K in the first 8th, else Q4_K | Q6_K |
//! | Q4_K_M | Q6_K in the favoured blocks, else Q4_K | Q4_K | Q4_K | as `attn_qkv` | Q6_K |
//! | Q5_K_M | Q6_K in the favoured blocks, else Q5_K | Q5_K | Q5_K | as `attn_qkv` | Q6_K |
//! | Q4_0 | Q4_0 | Q4_0 | Q4_0 | Q4_0; with importance Q4_1 in the first 8th | Q6_K |
//! | Q5_0 | Q5_0 | Q5_0 | Q5_0 | Q5_0; with importance Q5_1 in the first 8th | Q6_K |
//! | Q4_1, Q5_1, Q5_K_S, Q6_K | their own | | | | Q6_K |
//! | Q8_0, F16, BF16, F32 | their own | | | | their own |
//!
//! Favoured of `n` blocks is block `i` if `i < n / 8`, if `i >= 7 n / 8`, or if `(i - n / 8) % 3 == 2`.

use super::GgmlType;

/// What a whole file is said to be of, by llama.cpp's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(non_camel_case_types, missing_docs)]
pub enum FileType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q6_K,
    Q5_1,
    Q5_K_M,
    Q5_K_S,
    Q5_0,
    Q4_1,
    Q4_K_M,
    Q4_K_S,
    Q4_0,
    Q3_K_L,
    Q3_K_M,
    Q3_K_S,
    Q2_K,
}

/// What a choice depends on beside the tensor's name and the length of its rows.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// Blocks of the model.
    pub n_layer: usize,
    /// Whether the head is the token embedding.
    pub tied: bool,
    /// Whether importance is known.
    pub importance: bool,
}

/// Type, name, number (`LLAMA_FTYPE_*`), format of most matrices.
const TYPES: [(FileType, &str, u32, GgmlType); 17] = [
    (FileType::F32, "F32", 0, GgmlType::F32),
    (FileType::F16, "F16", 1, GgmlType::F16),
    (FileType::BF16, "BF16", 32, GgmlType::BF16),
    (FileType::Q8_0, "Q8_0", 7, GgmlType::Q8_0),
    (FileType::Q6_K, "Q6_K", 18, GgmlType::Q6_K),
    (FileType::Q5_1, "Q5_1", 9, GgmlType::Q5_1),
    (FileType::Q5_K_M, "Q5_K_M", 17, GgmlType::Q5_K),
    (FileType::Q5_K_S, "Q5_K_S", 16, GgmlType::Q5_K),
    (FileType::Q5_0, "Q5_0", 8, GgmlType::Q5_0),
    (FileType::Q4_1, "Q4_1", 3, GgmlType::Q4_1),
    (FileType::Q4_K_M, "Q4_K_M", 15, GgmlType::Q4_K),
    (FileType::Q4_K_S, "Q4_K_S", 14, GgmlType::Q4_K),
    (FileType::Q4_0, "Q4_0", 2, GgmlType::Q4_0),
    (FileType::Q3_K_L, "Q3_K_L", 13, GgmlType::Q3_K),
    (FileType::Q3_K_M, "Q3_K_M", 12, GgmlType::Q3_K),
    (FileType::Q3_K_S, "Q3_K_S", 11, GgmlType::Q3_K),
    (FileType::Q2_K, "Q2_K", 10, GgmlType::Q2_K),
];

impl FileType {
    /// All of them, by falling size.
    pub const ALL: [Self; TYPES.len()] = {
        let mut all = [Self::F32; TYPES.len()];
        let mut i = 0;
        while i < all.len() {
            all[i] = TYPES[i].0;
            assert!(TYPES[i].0 as usize == i, "the table is in the order of the types");
            i += 1;
        }
        all
    };

    /// "Q4_K_M".
    #[must_use]
    pub const fn name(self) -> &'static str {
        TYPES[self as usize].1
    }

    /// `general.file_type` of such a file.
    #[must_use]
    pub const fn id(self) -> u32 {
        TYPES[self as usize].2
    }

    /// The format of most of its matrices.
    #[must_use]
    pub const fn format(self) -> GgmlType {
        TYPES[self as usize].3
    }

    /// The type of this name, in letters of either case; a K-quant without a size is its middle one.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = name.to_ascii_uppercase();
        let name = if ["Q3_K", "Q4_K", "Q5_K"].contains(&name.as_str()) { name + "_M" } else { name };
        TYPES.iter().find(|t| t.1 == name).map(|t| t.0)
    }

    /// The names, for messages: "f32, f16, ...".
    #[must_use]
    pub fn names() -> String {
        TYPES.map(|t| t.1.to_lowercase()).join(", ")
    }

    /// The format of a tensor of these dimensions (in ggml's order, the length of a row first), or none where it is to
    /// stay what it is.
    #[must_use]
    pub fn format_of(self, name: &str, dims: &[u64], model: &Choice) -> Option<GgmlType> {
        if dims.len() < 2 || !name.ends_with("weight") || name == "position_embd.weight" || name.contains("_norm.") {
            return None;
        }
        let row = dims[0];
        let head = name == "output.weight" || (model.tied && name == "token_embd.weight");
        let wanted = if !self.format().is_quantized() {
            self.format()
        } else if head {
            match self.format() {
                GgmlType::Q8_0 => GgmlType::Q8_0,
                _ if row.is_multiple_of(256) => GgmlType::Q6_K,
                _ => GgmlType::Q8_0,
            }
        } else {
            self.of_block(name, model)
        };
        Some(fitting(wanted, row))
    }

    /// The format of a block's matrix, were its rows long enough.
    fn of_block(self, name: &str, model: &Choice) -> GgmlType {
        use GgmlType::{Q3_K, Q4_1, Q4_K, Q5_1, Q5_K, Q6_K};
        let n = model.n_layer;
        let Some((i, part)) = block_of(name) else { return self.format() };
        let favoured = i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
        match (self, part) {
            (Self::Q2_K, "attn_qkv.weight" | "attn_output.weight" | "ffn_down.weight") => Q3_K,
            (Self::Q3_K_M, "attn_qkv.weight") => [Q4_K, Q5_K][usize::from(i < 2)],
            (Self::Q3_K_M, "ffn_down.weight") => [Q4_K, Q5_K][usize::from(i < n / 16)],
            (Self::Q3_K_M, "attn_output.weight") => Q4_K,
            (Self::Q3_K_L, "attn_qkv.weight" | "attn_output.weight" | "ffn_down.weight") => Q5_K,
            (Self::Q4_K_S, "attn_qkv.weight") if i < 4 => Q5_K,
            (Self::Q4_K_S, "ffn_down.weight") if i < n / 8 => Q5_K,
            (Self::Q4_K_M | Self::Q5_K_M, "attn_qkv.weight" | "ffn_down.weight") if favoured => Q6_K,
            (Self::Q4_0, "ffn_down.weight") if model.importance && i < n / 8 => Q4_1,
            (Self::Q5_0, "ffn_down.weight") if model.importance && i < n / 8 => Q5_1,
            _ => self.format(),
        }
    }
}

/// "blk.3.attn_qkv.weight" is 3 and "attn_qkv.weight".
fn block_of(name: &str) -> Option<(usize, &str)> {
    let (number, part) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((number.parse().ok()?, part))
}

/// The format, or what stands in for it where rows are no multiple of its blocks.
fn fitting(wanted: GgmlType, row: u64) -> GgmlType {
    let fits = |ty: GgmlType| row.is_multiple_of(ty.block_len() as u64);
    let second = match wanted {
        GgmlType::Q2_K | GgmlType::Q3_K => GgmlType::Q4_0,
        GgmlType::Q4_K => GgmlType::Q5_0,
        GgmlType::Q5_K => GgmlType::Q5_1,
        GgmlType::Q6_K => GgmlType::Q8_0,
        _ => GgmlType::F16,
    };
    [wanted, second].into_iter().find(|&ty| fits(ty)).unwrap_or(GgmlType::F16)
}

/// As [`FileType::named`], for command lines.
impl std::str::FromStr for FileType {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        Self::named(name).ok_or_else(|| format!("there is no such type; the types are {}", Self::names()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_llama_cpps() {
        for ty in FileType::ALL {
            assert_eq!(FileType::named(ty.name()), Some(ty));
            assert_eq!(FileType::named(&ty.name().to_lowercase()), Some(ty));
        }
        assert_eq!(FileType::named("q4_k"), Some(FileType::Q4_K_M));
        assert_eq!(FileType::named("q4_k_x"), None);
        assert_eq!((FileType::Q4_K_M.id(), FileType::Q2_K.id(), FileType::BF16.id()), (15, 10, 32));
    }

    #[test]
    fn favoured_blocks_are_those_measured() {
        let favoured = |n_layer: usize| -> Vec<usize> {
            let model = Choice { n_layer, tied: true, importance: false };
            let of = |i: usize| FileType::Q4_K_M.format_of(&format!("blk.{i}.ffn_down.weight"), &[512, 8], &model);
            (0..n_layer).filter(|&i| of(i) == Some(GgmlType::Q6_K)).collect()
        };
        assert_eq!(favoured(6), [2, 5]);
        assert_eq!(favoured(8), [0, 3, 6, 7]);
        assert_eq!(favoured(10), [0, 3, 6, 8, 9]);
        assert_eq!(favoured(11), [0, 3, 6, 9, 10]);
        assert_eq!(favoured(12), [0, 3, 6, 9, 10, 11]);
    }

    #[test]
    fn short_rows_and_what_stays() {
        let model = Choice { n_layer: 6, tied: true, importance: false };
        let of = |ty: FileType, name: &str, row: u64| ty.format_of(name, &[row, 8], &model);
        assert_eq!(of(FileType::Q4_K_M, "token_embd.weight", 384), Some(GgmlType::Q8_0));
        assert_eq!(of(FileType::Q4_K_M, "token_embd.weight", 512), Some(GgmlType::Q6_K));
        assert_eq!(of(FileType::Q4_K_M, "blk.0.ffn_up.weight", 384), Some(GgmlType::Q5_0));
        assert_eq!(of(FileType::Q2_K, "blk.0.ffn_up.weight", 384), Some(GgmlType::Q4_0));
        assert_eq!(of(FileType::Q4_0, "blk.0.ffn_up.weight", 48), Some(GgmlType::F16));
        assert_eq!(of(FileType::F16, "token_embd.weight", 512), Some(GgmlType::F16));
        for name in ["position_embd.weight", "blk.0.attn_norm.weight", "blk.0.attn_qkv.bias"] {
            assert_eq!(of(FileType::Q4_K_M, name, 512), None, "{name}");
        }
        assert_eq!(FileType::Q4_0.format_of("output_norm.weight", &[512], &model), None);
    }
}
