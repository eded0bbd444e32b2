//! Types of metadata values, and the sizes of tensor types.

/// The type of a metadata value; the discriminant is its number in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ValueType {
    /// `u8`
    U8 = 0,
    /// `i8`
    I8 = 1,
    /// `u16`
    U16 = 2,
    /// `i16`
    I16 = 3,
    /// `u32`
    U32 = 4,
    /// `i32`
    I32 = 5,
    /// `f32`
    F32 = 6,
    /// One byte, 0 or 1.
    Bool = 7,
    /// Length (`u64`) and UTF-8 bytes.
    String = 8,
    /// Element type (`u32`), count (`u64`), elements; may nest.
    Array = 9,
    /// `u64`
    U64 = 10,
    /// `i64`
    I64 = 11,
    /// `f64`
    F64 = 12,
}

impl ValueType {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The type with this number.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(id as usize).copied()
    }

    /// The number in the file.
    #[must_use]
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// Fewest bytes of a value: all of a number, the length of an empty string, the head of an empty array.
    #[must_use]
    pub const fn least_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }

    /// "u32", "string".
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }
}

/// A tensor type as the container sees it: a number, a name and the sizes of its blocks.
///
/// All of ggml's current types are known, so that any file can be listed; which of them can be computed with is
/// `quant`'s affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorType {
    /// The number in the file (`enum ggml_type`).
    pub id: u32,
    /// "F32", "Q8_0".
    pub name: &'static str,
    /// Weights of a block; a row is a multiple.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
}

impl TensorType {
    /// The type with this number.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        TYPES.iter().find(|t| t.0 == id).map(|&(id, name, block_len, block_bytes)| Self { id, name, block_len, block_bytes })
    }

    /// Bytes of a tensor of these dimensions (fastest first), if they can be: no dimension 0, the first a whole
    /// number of blocks, the product within `u64`.
    #[must_use]
    pub fn bytes(&self, dims: &[u64]) -> Option<u64> {
        let first = *dims.first()?;
        if dims.contains(&0) || !first.is_multiple_of(self.block_len as u64) {
            return None;
        }
        let blocks = dims[1..].iter().try_fold(first / self.block_len as u64, |n, &d| n.checked_mul(d))?;
        blocks.checked_mul(self.block_bytes as u64)
    }
}

/// Number, name, weights a block, bytes a block.
const TYPES: [(u32, &str, usize, usize); 33] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions() {
        for (i, t) in ValueType::ALL.into_iter().enumerate() {
            assert_eq!((t.id(), ValueType::from_id(i as u32)), (i as u32, Some(t)));
        }
        assert_eq!(ValueType::from_id(13), None);
    }

    #[test]
    fn sizes_are_checked() {
        let q8 = TensorType::from_id(8).unwrap();
        assert_eq!(q8.bytes(&[64, 3]), Some(2 * 3 * 34));
        for bad in [&[][..], &[33], &[64, 0], &[1 << 62, 1 << 62]] {
            assert_eq!(q8.bytes(bad), None, "{bad:?}");
        }
    }
}
