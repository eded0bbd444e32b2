//! Cuts text into the pieces inside which tokens are merged.
//!
//! GPT-2 does it with a regular expression,
//!
//! ```text
//! '(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//! ```
//!
//! that is: an English contraction; a word, a number or a run of other signs, with the one space
//! before it; white space, all of a run but its last character if something follows.

use super::unicode::RANGES;

/// What the expression tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// `\p{L}`, which is not Rust's `char::is_alphabetic`: that counts marks and numerals in.
    Letter,
    /// `\p{N}`, which is `char::is_numeric` only as long as std and the tables are of one Unicode version.
    Number,
    /// `\s`, the property `White_Space`.
    Space,
    /// Everything else.
    Other,
}

/// The classes of ASCII.
static ASCII: [Class; 128] = {
    let mut classes = [Class::Other; 128];
    let mut byte = 0;
    while byte < 128 {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
            b'0'..=b'9' => Class::Number,
            b'\t'..=b'\r' | b' ' => Class::Space,
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
};

/// The class of a character.
pub(super) fn class_of(c: char) -> Class {
    if c.is_ascii() {
        return ASCII[c as usize];
    }
    let next = RANGES.partition_point(|&(_, last, _)| last < c);
    match RANGES.get(next) {
        Some(&(first, _, class)) if first <= c => class,
        _ => Class::Other,
    }
}

/// The pieces of a text, in order; put together they are the text.
#[derive(Clone, Debug)]
pub(super) struct Pieces<'t> {
    text: &'t str,
    /// Where the next piece begins.
    at: usize,
}

impl<'t> Pieces<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    /// The class and length of the character at `at`.
    #[inline]
    fn class_at(&self, at: usize) -> Option<(Class, usize)> {
        match *self.text.as_bytes().get(at)? {
            byte if byte.is_ascii() => Some((ASCII[usize::from(byte)], 1)),
            _ => self.text[at..].chars().next().map(|c| (class_of(c), c.len_utf8())),
        }
    }

    /// The end of the run of one class that goes on at `at`.
    #[inline]
    fn run_end(&self, mut at: usize, class: Class) -> usize {
        while let Some((next, len)) = self.class_at(at)
            && next == class
        {
            at += len;
        }
        at
    }

    /// The end of the white space that starts at `start` and has its first `len` bytes given.
    fn space_end(&self, start: usize, len: usize) -> usize {
        let end = self.run_end(start + len, Class::Space);
        if end == self.text.len() {
            return end;
        }
        // The last character is left to what follows, unless it is the only one.
        let last = self.text.floor_char_boundary(end - 1);
        if last > start { last } else { end }
    }
}

/// The length of a contraction at the start, an apostrophe being its first byte.
fn contraction(rest: &[u8]) -> Option<usize> {
    match rest {
        [_, b's' | b'd' | b'm' | b't', ..] => Some(2),
        [_, b'l', b'l', ..] | [_, b'v', b'e', ..] | [_, b'r', b'e', ..] => Some(3),
        _ => None,
    }
}

impl Iterator for Pieces<'_> {
    /// First byte and end of a piece.
    type Item = (usize, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.at;
        let rest = &self.text.as_bytes()[start..];
        self.at = match *rest.first()? {
            b'\'' if let Some(len) = contraction(rest) => start + len,
            first => {
                let (mut class, mut len) = self.class_at(start)?;
                if first == b' '
                    && let Some((next, next_len)) = self.class_at(start + 1)
                    && next != Class::Space
                {
                    (class, len) = (next, 1 + next_len);
                }
                match class {
                    Class::Space => self.space_end(start, len),
                    _ => self.run_end(start + len, class),
                }
            }
        };
        Some((start, self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<&str> {
        Pieces::new(text).map(|(start, end)| &text[start..end]).collect()
    }

    #[test]
    fn the_expression_s_branches() {
        assert_eq!(pieces("Hello world"), ["Hello", " world"]);
        assert_eq!(pieces("we'll don't 'tis 'LL"), ["we", "'ll", " don", "'t", " '", "tis", " '", "LL"]);
        assert_eq!(pieces("''s's"), ["''", "s", "'s"]);
        assert_eq!(pieces("Ax: 47 52\n"), ["Ax", ":", " 47", " 52", "\n"]);
        assert_eq!(pieces("a  b\n\n c\t"), ["a", " ", " b", "\n\n", " c", "\t"]);
        assert_eq!(pieces("a\n\nb"), ["a", "\n", "\n", "b"]);
        assert_eq!(pieces("x\u{3000}\u{3000}y"), ["x", "\u{3000}", "\u{3000}", "y"]);
        assert_eq!(pieces("é1²!ß"), ["é", "1²", "!", "ß"]);
        assert_eq!(pieces("  "), ["  "]);
        assert_eq!(pieces(""), [""; 0]);
    }

    /// The tables against those the regular expressions of Rust use (Unicode 16, as theirs).
    #[test]
    fn classes_are_the_regular_expression_s() {
        let class = |expression: &str| match regex_syntax::parse(expression).unwrap().into_kind() {
            regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) => class,
            other => panic!("{expression} is {other:?}"),
        };
        let contains = |class: &regex_syntax::hir::ClassUnicode, c: char| {
            let next = class.ranges().partition_point(|range| range.end() < c);
            class.ranges().get(next).is_some_and(|range| range.start() <= c)
        };
        let (letter, number, space) = (class(r"\p{L}"), class(r"\p{N}"), class(r"\s"));
        for c in '\0'..=char::MAX {
            let expected = match c {
                c if contains(&letter, c) => Class::Letter,
                c if contains(&number, c) => Class::Number,
                c if contains(&space, c) => Class::Space,
                _ => Class::Other,
            };
            assert_eq!(class_of(c), expected, "U+{:04X}: {RENEW}", c as u32);
        }
    }

    const RENEW: &str = "src/data/tokenizer/unicode.rs does not agree with regex-syntax; if that moved to another version of Unicode, \
         write the tables again: cargo test --release --lib -- --ignored --nocapture write_the_tables";

    /// Writes `unicode.rs`. Not a test: to be asked for when regex-syntax moves to another version of Unicode.
    #[test]
    #[ignore = "writes src/data/tokenizer/unicode.rs"]
    fn write_the_tables() {
        let mut ranges = Vec::new();
        for (expression, name) in [(r"[\p{L}--\p{ASCII}]", "Letter"), (r"[\p{N}--\p{ASCII}]", "Number"), (r"[\s--\p{ASCII}]", "Space")] {
            match regex_syntax::parse(expression).unwrap().into_kind() {
                regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) => {
                    ranges.extend(class.ranges().iter().map(|range| (range.start(), range.end(), name)));
                }
                other => panic!("{expression} is {other:?}"),
            }
        }
        ranges.sort_unstable();
        let mut file = String::from(
            "//! Which characters are letters, numbers and white space: generated, see `write_the_tables` in `split.rs`.\n\
             //!\n\
             //! Unicode 16.0.0 (Unicode License v3), general categories L and N and the property `White_Space`.\n\n\
             use super::split::Class::{self, Letter, Number, Space};\n\n\
             /// First and last character of each run of one class beyond ASCII, in order; what lies between is of none.\n\
             #[rustfmt::skip]\n\
             pub(super) static RANGES: [(char, char, Class); ",
        );
        file += &format!("{}] = [\n", ranges.len());
        for line in ranges.chunks(4) {
            file += "   ";
            for (first, last, name) in line {
                file += &format!(" ('\\u{{{:x}}}', '\\u{{{:x}}}', {name}),", *first as u32, *last as u32);
            }
            file += "\n";
        }
        file += "];\n";
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/data/tokenizer/unicode.rs"), file).unwrap();
    }
}
