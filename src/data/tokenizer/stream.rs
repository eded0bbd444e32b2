//! Text as it is generated: a token may end in the middle of a character.

/// Turns the bytes of tokens into text as they come, holding back a character until it is whole.
///
/// What comes out, put together, is what [`String::from_utf8_lossy`] makes of all bytes at once:
/// bytes that cannot become a character are written as U+FFFD.
#[derive(Clone, Debug, Default)]
pub struct StreamDecoder {
    /// Bytes of a character that has begun, at most 3 between calls.
    pending: Vec<u8>,
}

impl StreamDecoder {
    /// A decoder at the start of a text.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the bytes of the next token ([`super::Tokenizer::token_bytes`]) and appends the characters that are whole now to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.pending.extend_from_slice(bytes);
        let mut taken = 0;
        loop {
            let error = match str::from_utf8(&self.pending[taken..]) {
                Ok(text) => {
                    out.push_str(text);
                    taken = self.pending.len();
                    break;
                }
                Err(error) => error,
            };
            let valid = taken + error.valid_up_to();
            if let Ok(text) = str::from_utf8(&self.pending[taken..valid]) {
                out.push_str(text);
            }
            taken = valid;
            let Some(wrong) = error.error_len() else { break };
            out.push(char::REPLACEMENT_CHARACTER);
            taken += wrong;
        }
        self.pending.drain(..taken);
    }

    /// Ends the text: a character that has begun and will not be finished becomes U+FFFD. The decoder can start another text.
    pub fn finish(&mut self, out: &mut String) {
        if !self.pending.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
            self.pending.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_character_waits_for_its_last_byte() {
        let mut decoder = StreamDecoder::new();
        let mut out = String::new();
        decoder.push(b"20 \xC2", &mut out);
        assert_eq!(out, "20 ");
        decoder.push(b"\xB0C \xE2", &mut out);
        assert_eq!(out, "20 °C ");
        decoder.finish(&mut out);
        assert_eq!(out, "20 °C \u{FFFD}");
    }

    proptest! {
        #[test]
        fn pieces_give_the_whole(text in any::<String>(), noise in any::<Vec<u8>>(), cuts in prop::collection::vec(1usize..7, 1..40)) {
            let bytes = [text.as_bytes(), &noise, text.as_bytes()].concat();
            let (mut decoder, mut out, mut rest) = (StreamDecoder::new(), String::new(), &bytes[..]);
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                decoder.push(now, &mut out);
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            decoder.finish(&mut out);
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes));
        }
    }
}
