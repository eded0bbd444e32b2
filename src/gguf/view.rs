//! Metadata values as they lie in the file.

use super::{Value, ValueType};

/// A metadata value; strings and arrays stay where they are.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum View<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array; its bytes were checked when the file was opened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    ty: ValueType,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Type of the elements.
    #[must_use]
    pub const fn ty(&self) -> ValueType {
        self.ty
    }
    /// How many they are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }
    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The elements one after another.
    pub fn iter(&self) -> impl Iterator<Item = View<'a>> + use<'a> {
        let (ty, mut bytes) = (self.ty, self.bytes);
        (0..self.len).map_while(move |_| View::read(ty, &mut bytes))
    }
    /// The elements of an array of strings.
    #[must_use]
    pub fn strings(&self) -> Option<Strings<'a>> {
        (self.ty == ValueType::String).then_some(Strings { len: self.len, bytes: self.bytes })
    }
}

/// The strings of an array, one after another.
#[derive(Clone, Copy, Debug)]
pub struct Strings<'a> {
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Strings<'a> {
    /// How they lie in the file: before each its length in 8 bytes. For who looks up a few of many by places of his own.
    #[must_use]
    pub const fn as_they_lie(&self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;
    fn next(&mut self) -> Option<&'a str> {
        self.len = self.len.checked_sub(1)?;
        match View::read(ValueType::String, &mut self.bytes) {
            Some(View::String(s)) => Some(s),
            _ => None,
        }
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len, Some(self.len))
    }
}
impl ExactSizeIterator for Strings<'_> {}

/// The next `N` bytes.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = bytes.split_first_chunk::<N>()?;
    *bytes = tail;
    Some(*head)
}

impl<'a> View<'a> {
    /// A value of which these are all bytes, and were checked: an array need not be walked to find its end.
    pub(super) fn whole(ty: ValueType, mut bytes: &'a [u8]) -> Option<Self> {
        if ty != ValueType::Array {
            return Self::read(ty, &mut bytes);
        }
        let (ty, len) = Self::array_head(&mut bytes)?;
        Some(Self::Array(Array { ty, len, bytes }))
    }

    /// Type and number of an array's elements.
    fn array_head(bytes: &mut &'a [u8]) -> Option<(ValueType, usize)> {
        let ty = ValueType::from_id(u32::from_le_bytes(take(bytes)?))?;
        Some((ty, usize::try_from(u64::from_le_bytes(take(bytes)?)).ok()?))
    }

    /// Reads a value off the front of bytes that were checked; `None` where they end early, or are no such value.
    pub(super) fn read(ty: ValueType, bytes: &mut &'a [u8]) -> Option<Self> {
        Some(match ty {
            ValueType::U8 => Self::U8(u8::from_le_bytes(take(bytes)?)),
            ValueType::I8 => Self::I8(i8::from_le_bytes(take(bytes)?)),
            ValueType::U16 => Self::U16(u16::from_le_bytes(take(bytes)?)),
            ValueType::I16 => Self::I16(i16::from_le_bytes(take(bytes)?)),
            ValueType::U32 => Self::U32(u32::from_le_bytes(take(bytes)?)),
            ValueType::I32 => Self::I32(i32::from_le_bytes(take(bytes)?)),
            ValueType::F32 => Self::F32(f32::from_le_bytes(take(bytes)?)),
            ValueType::Bool => Self::Bool(take::<1>(bytes)?[0] != 0),
            ValueType::U64 => Self::U64(u64::from_le_bytes(take(bytes)?)),
            ValueType::I64 => Self::I64(i64::from_le_bytes(take(bytes)?)),
            ValueType::F64 => Self::F64(f64::from_le_bytes(take(bytes)?)),
            ValueType::String => {
                let len = usize::try_from(u64::from_le_bytes(take(bytes)?)).ok()?;
                let (head, tail) = bytes.split_at_checked(len)?;
                *bytes = tail;
                Self::String(std::str::from_utf8(head).ok()?)
            }
            ValueType::Array => {
                let (ty, len) = Self::array_head(bytes)?;
                let all = *bytes;
                match ty {
                    // Variable lengths: walk over them.
                    ValueType::String | ValueType::Array => {
                        for _ in 0..len {
                            Self::read(ty, bytes)?;
                        }
                    }
                    _ => *bytes = bytes.get(len.checked_mul(ty.least_bytes())?..)?,
                }
                Self::Array(Array { ty, len, bytes: &all[..all.len() - bytes.len()] })
            }
        })
    }

    /// Its type.
    #[must_use]
    pub const fn ty(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The value, to be written elsewhere.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match *self {
            Self::U8(x) => Value::U8(x),
            Self::I8(x) => Value::I8(x),
            Self::U16(x) => Value::U16(x),
            Self::I16(x) => Value::I16(x),
            Self::U32(x) => Value::U32(x),
            Self::I32(x) => Value::I32(x),
            Self::F32(x) => Value::F32(x),
            Self::Bool(x) => Value::Bool(x),
            Self::String(s) => Value::String(s.into()),
            Self::Array(a) => Value::Array(a.ty(), a.iter().map(|v| v.to_value()).collect()),
            Self::U64(x) => Value::U64(x),
            Self::I64(x) => Value::I64(x),
            Self::F64(x) => Value::F64(x),
        }
    }

    /// A whole number that is not negative, of whatever width.
    #[must_use]
    pub fn unsigned(&self) -> Option<u64> {
        match *self {
            Self::U8(x) => Some(x.into()),
            Self::U16(x) => Some(x.into()),
            Self::U32(x) => Some(x.into()),
            Self::U64(x) => Some(x),
            Self::I8(x) => x.try_into().ok(),
            Self::I16(x) => x.try_into().ok(),
            Self::I32(x) => x.try_into().ok(),
            Self::I64(x) => x.try_into().ok(),
            _ => None,
        }
    }
}
